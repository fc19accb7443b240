"""A metric as optimizers take it: with two arguments for a score, with five for GEPA's feedback."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.teleprompt.gepa.gepa_utils import ScoreWithFeedback

from moa_dspy.evaluation import Metric, MetricError, as_metric, metric_name, prediction_of, score
from moa_dspy.results import MoAMetadata, MoAPrediction, Proposal
from moa_dspy.values import IncompleteProposal, typed_outputs

from .quiet import heard

__all__ = ["INSIDE", "Scored", "Stop"]

INSIDE = "moa."
"""What the names of a mixture's predictors begin with, where a stage runs it."""


class Stop(BaseException):
    """Ends an optimizer from inside: what derives from `Exception` it would score as a wrong answer, and go on."""


class Scored:
    """A metric, adapted.

    Called with two or three arguments it gives a number, as every optimizer wants; with the name of a predictor,
    as GEPA asks for feedback, a score with a text. A metric that says nothing is given words: the right outputs
    beside those that were given. One that raises, or gives no score, ends the optimizer, where DSPy would score 0.
    """

    def __init__(self, metric: str | Metric, task: type[dspy.Signature]) -> None:
        self.task, self.__name__ = task, metric_name(metric)
        own = as_metric(metric, task)
        takes = _count_arguments(own)

        def measure(example: dspy.Example, prediction: dspy.Prediction, *more: Any) -> Any:
            return own(example, prediction, *(*more, None, None, None)[: takes - 2])

        measure.__name__ = self.__name__
        self.measure = measure
        """The metric as `evaluate` takes it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Scored:
        return self

    def __call__(
        self,
        gold: dspy.Example,
        pred: dspy.Prediction,
        trace: Any = None,
        pred_name: str | None = None,
        pred_trace: Any = None,
    ) -> Any:
        name = pred_name and pred_name.removeprefix(INSIDE)
        try:
            with heard():
                number, value = self._score(gold, pred, trace, name, pred_trace)
        except MetricError as error:
            raise Stop(str(error)) from error
        said = value if isinstance(value, dspy.Prediction) else dspy.Prediction()
        if pred_name is None:
            # Several objectives are GEPA's own; all else is a number to every optimizer.
            return value if said.get("objective_scores") else number
        feedback = said.get("feedback")
        if not feedback:
            names = [name for name in self.task.output_fields if name in gold]
            right, given = ("; ".join(f"{name}: {one.get(name)}" for name in names) for one in (gold, pred))
            feedback = f"Score {number:g}." + (f" Right would be {right}. Given was {given}." if names else "")
        return ScoreWithFeedback(score=number, feedback=feedback)

    def number(self, example: dspy.Example, outputs: Mapping[str, Any] | None) -> float:
        """What these outputs score; 0 if there are none. `MetricError` if the metric raises, or gives no score."""
        return 0.0 if outputs is None else score(self.measure, example, prediction_of(outputs))

    def try_on_gold(self, example: dspy.Example) -> None:
        """Score an example's own gold outputs: what is wrong with a metric shows before anything is paid for."""
        try:
            gold = typed_outputs(example, self.task)
        except IncompleteProposal:
            return  # the metric may know how to compare golds of other types, or need none
        proposals = [Proposal(id="gold", agent="gold", outputs=gold)]
        counts: Any = dict.fromkeys(("num_proposers", "proposals_asked", "proposals_received"), 1)
        metadata = MoAMetadata(strategy="voting", answered_by="voting", all_proposals=proposals, **counts)
        score(self.measure, example, MoAPrediction.of(gold, self.task, metadata))

    def _score(self, example: dspy.Example, prediction: dspy.Prediction, *more: Any) -> tuple[float, Any]:
        """The score, and what the metric itself gave."""
        given: list[Any] = []

        def measure(example: dspy.Example, prediction: dspy.Prediction) -> Any:
            given.append(self.measure(example, prediction, *more))
            return given[-1]

        measure.__name__ = self.__name__
        return score(measure, example, prediction), given[-1]


def _count_arguments(metric: Metric) -> int:
    """How many arguments a metric can be given: 5, 3 or 2."""
    try:
        signature = inspect.signature(metric)
    except ValueError:  # one written in C
        return 3
    for number in (5, 3, 2):
        try:
            signature.bind(*[None] * number)
        except TypeError:
            continue
        return number
    raise TypeError(
        f"The metric {metric_name(metric)!r} takes {signature}, and no optimizer could call it. Write "
        "metric(example, prediction, trace=None), or GEPA's metric(gold, pred, trace, pred_name, pred_trace)."
    )
