"""Metrics: what counts as a right answer, and a clear error where a metric gives no score."""

from __future__ import annotations

import importlib
import math
import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dspy

from moa_dspy.strategies.equality import ABSTAIN, fold, normalise, same

if TYPE_CHECKING:
    from moa_dspy.evaluation.comparison import Comparison

__all__ = ["METRICS", "Metric", "MetricError", "as_metric", "score"]

Metric = Callable[..., Any]


class MetricError(ValueError):
    """A metric raised, or gave something that is no score.

    Attributes:
        comparison: In an evaluation: of the questions that were finished by then.
    """

    comparison: Comparison | None = None


def as_metric(metric: str | Metric, task: type[dspy.Signature]) -> Metric:
    """The metric of this name, bound to the task's types.

    Args:
        metric: `"exact"`: every output that the example has a gold value for says the same, compared by
            type as votes are (see `moa_dspy.strategies.equality`). `"contains"`: the gold value stands in the output,
            as whole words. `"module:function"`: DSPy's kind of metric, imported, also from the current
            folder. Or such a function: `metric(example, prediction, trace=None) -> float | bool`.
        task: The task's signature.

    Raises:
        ValueError: If there is no such metric.
        TypeError: If it cannot be called.
    """
    if isinstance(metric, str):
        if metric in METRICS:
            return _of_outputs(METRICS[metric], task)
        return _imported(metric)
    if not callable(metric):
        raise TypeError(f"A metric is a name or a function, not {type(metric).__name__}.")
    return metric


def score(metric: Metric, example: dspy.Example, prediction: dspy.Prediction) -> float:
    """What the metric gives, as a number.

    Raises:
        MetricError: If it raises, or gives anything but a finite number, a bool, or a prediction with a `score`.
    """
    try:
        value = metric(example, prediction)
    except Exception as error:
        raise MetricError(
            f"The metric {_name(metric)} raised {type(error).__name__}: {error}. It was given the example "
            f"{_short(example)} and the prediction {_short(prediction)}."
        ) from error
    # Metrics written for GEPA give a prediction of a score and its feedback; numpy's scalars are no Python numbers.
    value = value.score if isinstance(value, dspy.Prediction) and "score" in value else value
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise MetricError(
            f"The metric {_name(metric)} gave {value!r}, which is no score: return a number, or True and False. "
            f"It was given the example {_short(example)}."
        )
    return float(value)


def _exact(gold: Any, given: Any, annotation: Any) -> bool:
    wanted, got = normalise(gold, annotation), normalise(given, annotation)
    if wanted is ABSTAIN:
        # Where no answer is the right one, a refusal is none.
        return got is ABSTAIN and (given is None or not str(given).strip())
    return same(wanted, got)


def _contains(gold: Any, given: Any, annotation: Any) -> bool:
    wanted, got = fold(str(gold)), fold(str(given))
    before = r"(?<![\w.,+-])" if wanted[:1].isdigit() else r"(?<!\w)"
    after = r"(?!\w|[.,]\d)" if wanted[-1:].isdigit() else r"(?!\w)"
    return bool(wanted) and re.search(before + re.escape(wanted) + after, got) is not None


METRICS: dict[str, Callable[[Any, Any, Any], bool]] = {"exact": _exact, "contains": _contains}


def _of_outputs(is_right: Callable[[Any, Any, Any], bool], task: type[dspy.Signature]) -> Metric:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
        names = [name for name in task.output_fields if name in example]
        if not names:
            raise KeyError(f"no gold value for any of {', '.join(task.output_fields)}")
        return all(is_right(example[n], prediction.get(n), task.output_fields[n].annotation) for n in names)

    metric.__name__ = is_right.__name__.strip("_")
    return metric


def _imported(path: str) -> Metric:
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(
            f"There is no metric {path!r}. Choose {' or '.join(METRICS)}, or name a function of yours as "
            "module:function, for example metrics:score for `score` in metrics.py."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The metric {path!r} cannot be imported from {os.getcwd()}: {error}.") from error
    if not callable(found):
        raise TypeError(f"{path!r} is no function but {type(found).__name__}.")
    metric: Metric = found
    return metric


def _name(metric: Metric) -> str:
    return getattr(metric, "__name__", type(metric).__name__)


def _short(values: Any) -> str:
    return f"{dict(values.items())!r:.200}"
