"""Mixture of Agents as a DSPy program."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moa_dspy.agent import Agent
    from moa_dspy.config import MoAConfig, ModelConfig
    from moa_dspy.dispatch import Cascade, Route
    from moa_dspy.errors import AggregationFailed, MoAError, ProposersOutOfContext, TooFewProposals
    from moa_dspy.evaluation import evaluate
    from moa_dspy.limits import Limits
    from moa_dspy.moa import MoA
    from moa_dspy.oneshot import arun_moa, run_moa
    from moa_dspy.panel import Panel
    from moa_dspy.permits import configure
    from moa_dspy.recording.recorder import record
    from moa_dspy.recording.recording import Recording
    from moa_dspy.recording.replay import replay
    from moa_dspy.results import Element, Failure, MoAMetadata, MoAPrediction, Proposal, Vote
    from moa_dspy.strategies import Case, Fusion, Revision, Selection, Strategy, Synthesis, Verdict, Voting
    from moa_dspy.tracking.autolog import autolog as autolog
    from moa_dspy.tracking.model import load_model as load_model
    from moa_dspy.tracking.model import log_model as log_model
    from moa_dspy.tracking.prompts import load_prompts as load_prompts
    from moa_dspy.tracking.prompts import register_prompts as register_prompts
    from moa_dspy.tracking.track import track as track
    from moa_dspy.usage import LMCall, Usage

__all__ = [
    "Agent",
    "AggregationFailed",
    "Cascade",
    "Case",
    "Element",
    "Failure",
    "Fusion",
    "LMCall",
    "Limits",
    "MoA",
    "MoAConfig",
    "MoAError",
    "MoAMetadata",
    "MoAPrediction",
    "ModelConfig",
    "Panel",
    "Proposal",
    "ProposersOutOfContext",
    "Recording",
    "Revision",
    "Route",
    "Selection",
    "Strategy",
    "Synthesis",
    "TooFewProposals",
    "Usage",
    "Verdict",
    "Vote",
    "Voting",
    "arun_moa",
    "configure",
    "evaluate",
    "record",
    "replay",
    "run_moa",
]

_MODULES = {
    "usage": ("LMCall", "Usage"),
    "agent": ("Agent",),
    "config": ("MoAConfig", "ModelConfig"),
    "dispatch": ("Cascade", "Route"),
    "errors": ("AggregationFailed", "MoAError", "ProposersOutOfContext", "TooFewProposals"),
    "evaluation": ("evaluate",),
    "limits": ("Limits",),
    "results": ("Element", "Failure", "MoAMetadata", "MoAPrediction", "Proposal", "Vote"),
    "moa": ("MoA",),
    "oneshot": ("arun_moa", "run_moa"),
    "panel": ("Panel",),
    "permits": ("configure",),
    "recording": ("Recording", "record", "replay"),
    "strategies": ("Case", "Fusion", "Revision", "Selection", "Strategy", "Synthesis", "Verdict", "Voting"),
}


# Not in `__all__`: `from moa_dspy import *` must not need MLflow.
_TRACKING = ("autolog", "load_model", "load_prompts", "log_model", "register_prompts", "track")


def __getattr__(name: str) -> Any:
    # Names are looked up when first used: DSPy takes two seconds to import, and the command line's help waits for none.
    if name == "__version__":
        return import_module("importlib.metadata").version("moa-dspy")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"moa_dspy.{module}"), name)
    if name in _TRACKING:
        try:
            return getattr(import_module("moa_dspy.tracking"), name)
        except ImportError as error:
            return _without_mlflow(name, error)
    raise AttributeError(f"module 'moa_dspy' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__, *_TRACKING]


def _without_mlflow(name: str, missing: ImportError) -> Any:
    """What stands for a function of tracking where MLflow is not installed, so that `hasattr` and pydoc work."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise ImportError(str(missing)) from missing

    refuse.__name__, refuse.__doc__ = name, str(missing)
    return refuse
