"""A metric as optimizers take it: checked, with five arguments and feedback for GEPA, with two for a score."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import dspy
from dspy.teleprompt.gepa.gepa_utils import ScoreWithFeedback

from moa_dspy.evaluation.metrics import Metric, as_metric, score

from .bill import Stop

__all__ = ["Scored", "metric_name", "plain_metric"]

View = Callable[[dspy.Example, dspy.Prediction], dspy.Prediction]


class Scored:
    """A metric, adapted.

    Called with two or three arguments it gives a number, as every optimizer wants; with the name of a predictor,
    as GEPA asks for feedback, a score with a text. A metric that says nothing is given words: the right outputs
    beside those that were given. One that raises, or gives no score, ends the optimizer, where DSPy would score 0.

    Args:
        metric: A metric's name, `metric(example, prediction, trace=None)`, or GEPA's five arguments.
        task: The task's signature.
        view: What the metric is shown instead of the prediction.
        inside: What the names of predictors begin with, where the mixture is part of another program.

    Raises:
        TypeError: If the metric takes neither.
    """

    def __init__(
        self, metric: str | Metric, task: type[dspy.Signature], view: View | None = None, inside: str = ""
    ) -> None:
        self.metric = as_metric(metric, task)
        self.task = task
        self.view = view
        self.inside = inside
        self.__name__ = metric_name(self.metric)
        self._takes = _arguments(self.metric)

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
        shown = pred if self.view is None else self.view(gold, pred)
        more = (trace, pred_name and pred_name.removeprefix(self.inside), pred_trace)[: self._takes - 2]
        kept: list[Any] = []

        def asked(example: dspy.Example, prediction: dspy.Prediction) -> Any:
            kept.append(self.metric(example, prediction, *more))
            return kept[-1]

        asked.__name__ = self.__name__
        try:
            number = score(asked, gold, shown)
        except ValueError as error:
            raise Stop from error
        value = kept[-1]
        if pred_name is None:
            # Several objectives are GEPA's own; all else is a plain number to every optimizer.
            return value if isinstance(value, dspy.Prediction) and value.get("objective_scores") else number
        said = value.get("feedback") if isinstance(value, dspy.Prediction) else None
        return ScoreWithFeedback(score=number, feedback=said or self._words(gold, pred, number))

    def _words(self, gold: dspy.Example, pred: dspy.Prediction, number: float) -> str:
        names = [name for name in self.task.output_fields if name in gold]
        right = "; ".join(f"{name}: {gold[name]}" for name in names)
        given = "; ".join(f"{name}: {pred.get(name)}" for name in names)
        return f"Score {number:g}." + (f" Right would be {right}. Given was {given}." if names else "")


def plain_metric(metric: str | Metric, task: type[dspy.Signature]) -> Metric:
    """The metric with two arguments, also one that takes GEPA's five.

    Raises:
        TypeError: If it takes neither; before anything is paid for.
    """
    found = as_metric(metric, task)
    if _arguments(found) < 5:
        return found

    def scored(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        return found(example, prediction, trace, None, None)

    scored.__name__ = metric_name(metric)
    return scored


def metric_name(metric: str | Metric) -> str:
    """What a metric is called."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def _arguments(metric: Metric) -> int:
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
