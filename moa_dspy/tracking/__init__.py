"""Mixtures as MLflow experiments: traces, runs, prompts and models. Imported when first needed."""

try:
    import mlflow as _mlflow  # noqa: F401
except ImportError as error:
    raise ImportError("Tracking needs MLflow, which is not installed: pip install 'moa-dspy[mlflow]'.") from error

from moa_dspy.tracking.autolog import autolog, flush
from moa_dspy.tracking.model import load_model, log_model
from moa_dspy.tracking.prompts import load_prompts, register_prompts
from moa_dspy.tracking.track import Tracked, track

__all__ = [
    "Tracked",
    "autolog",
    "flush",
    "load_model",
    "load_prompts",
    "log_model",
    "register_prompts",
    "track",
]
