"""The mixture as one predictor, where DSPy looks for the one that gives a field, or for the one LM of a program."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any

import dspy
from dspy.streaming.streaming_listener import find_predictor_for_stream_listeners

from moa_dspy.agent import Agent, adopt_lms, find_modules
from moa_dspy.panel import Panel

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["OnePredictor", "as_one_predictor"]


class OnePredictor(dspy.Predict):
    """Stands for a mixture; made when DSPy looks, never asked itself."""

    def __init__(self, mixture: MoA, lm: dspy.BaseLM | None = None) -> None:
        super().__init__(mixture.signature)
        self.mixture = mixture
        self.lm = lm


def as_one_predictor(moa: MoA) -> list[tuple[str, Any]] | None:
    """What of a mixture DSPy shall see that looks for one predictor, or for one LM; None if it looks for neither.

    `dspy.streamify` wants one predictor for each field that is listened to, `get_lm` one LM of all predictors. To
    every other caller a mixture shows all of its predictors, so what is shown hangs on who asks; DSPy says that by
    nothing but its call.
    """
    if _under_way(find_predictor_for_stream_listeners) is not None and not _gives_one_reply(moa):
        # What an aggregator gives beside the answer, its choice for one, may be listened to as well.
        judges: Any = moa.strategy.named_predictors()
        apart = [item for item in judges if moa.signature.output_fields.keys().isdisjoint(item[1].signature.fields)]
        return [("mixture", OnePredictor(moa)), *((f"aggregator.program.{name}", judge) for name, judge in apart)]
    if (frame := _under_way(dspy.Module.get_lm)) is not None:
        return [("mixture", OnePredictor(moa, _lm_beside(frame.f_locals["self"])))]
    return None


def _gives_one_reply(moa: MoA) -> bool:
    """Whether its answer is the one proposal there is: DSPy streams that by itself."""
    last = moa.panels[-1]
    return len(last.agents) * last.samples == 1 and not moa.strategy.predictors()


def _lm_beside(program: dspy.Module) -> dspy.BaseLM | None:
    """What a program with mixtures resamples: the LM of the predictors beside them, else of the first agent.

    The agents take no other LM from it: they sample their own again.
    """
    beside: list[Any] = [part for _, part in find_modules(program, Panel, Agent, dspy.Predict)]
    for predictor in beside:
        if isinstance(predictor, dspy.Predict):
            return predictor.lm
    agents: list[Any] = [agent for _, agent in find_modules(program, Agent)]
    adopt_lms(agents)
    return next((agent.lm for agent in agents if agent.lm is not None), None)


def _under_way(function: Callable[..., Any]) -> FrameType | None:
    """The call of this function that led here, if one did."""
    frame = inspect.currentframe()
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return frame
