"""Metrics: what counts as a right answer, and a clear error where a metric gives no score."""

from __future__ import annotations

import importlib
import math
import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import dspy
import regex

from moa_dspy.strategies.equality import ABSTAIN, fold, normalise, same
from moa_dspy.strategies.normalizers import find_convention

if TYPE_CHECKING:
    from moa_dspy.evaluation.comparison import Comparison
    from moa_dspy.recording import Recording

__all__ = ["METRICS", "Metric", "MetricError", "as_metric", "metric_name", "prediction_of", "score"]

Metric = Callable[..., Any]


class MetricError(ValueError):
    """A metric raised, or gave something that is no score.

    Attributes:
        comparison: In an evaluation: of the questions that were scored by then.
        recording: In an evaluation: all that was asked by then, to be scored with a mended metric without a call.
    """

    comparison: Comparison | None = None
    recording: Recording | None = None


def as_metric(metric: str | Metric, task: type[dspy.Signature]) -> Metric:
    """The metric of this name, bound to the task's types.

    Args:
        metric: `"exact"`: every output that the example has a gold value for says the same, compared by type as
            votes are; `"exact:number"`, `"exact:choice"`, ...: read by that convention first. `"contains"`: the gold
            value stands in the output, as whole words where the script parts words by spaces. `"module:function"`:
            DSPy's kind of metric, imported, also from the current folder. Or such a function:
            `metric(example, prediction, trace=None) -> float | bool`.
        task: The task's signature.

    Raises:
        ValueError: If there is no such metric.
        TypeError: If it cannot be called.

    Examples:
        >>> from moa_dspy.signatures import task_signature
        >>> metric = as_metric("contains", task_signature("question -> answer"))
        >>> metric(dspy.Example(answer="北京"), dspy.Prediction(answer="答案是北京。"))
        True
    """
    if isinstance(metric, str):
        if metric in METRICS:
            return _of_outputs(METRICS[metric], task, metric)
        if metric.startswith("exact:"):
            convention: Any = metric.removeprefix("exact:")
            return _of_outputs(partial(_exact, convention=find_convention(convention)), task, metric)
        return _import(metric)
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
            f"The metric {metric_name(metric)} raised {type(error).__name__}: {error}. It was given the example "
            f"{dict(example.items())!r:.200} and the prediction {dict(prediction.items())!r:.200}."
        ) from error
    # Metrics written for GEPA give a prediction of a score and its feedback; numpy's scalars are no Python numbers.
    value = value.score if isinstance(value, dspy.Prediction) and "score" in value else value
    value = value.item() if hasattr(value, "item") else value
    if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
        raise MetricError(
            f"The metric {metric_name(metric)} gave {value!r}, which is no score: return a number, or True and False. "
            f"It was given the example {dict(example.items())!r:.200}."
        )
    return float(value)


def prediction_of(outputs: Mapping[str, Any]) -> dspy.Prediction:
    """A prediction of these outputs, whatever their names: as keyword arguments, `base` would be the constructor's."""
    prediction = dspy.Prediction()
    for name, value in outputs.items():
        prediction[name] = value
    return prediction


def metric_name(metric: str | Metric) -> str:
    """What a metric is called."""
    return metric if isinstance(metric, str) else getattr(metric, "__name__", type(metric).__name__)


def _exact(gold: Any, given: Any, annotation: Any, convention: Callable[[Any], Any] | None = None) -> bool:
    wanted, got = (normalise(value, annotation, convention=convention) for value in (gold, given))
    if wanted is ABSTAIN:
        # Where no answer is the right one, a refusal is none.
        return got is ABSTAIN and (given is None or not str(given).strip())
    return same(wanted, got)


def _contains(gold: Any, given: Any, annotation: Any) -> bool:
    wanted = fold(str(gold))
    if not wanted:
        return False
    starts = "" if regex.match(_UNSPACED, wanted[0]) else f"(?<!{_SPACED})"
    ends = "" if regex.match(_UNSPACED, wanted[-1]) else f"(?!{_SPACED})"
    if wanted[0].isdigit():
        starts += "(?<![.,+-])"
    if wanted[-1].isdigit():
        ends += r"(?![.,]\d)"
    # An accent or a vowel sign that follows belongs to the last letter.
    return regex.search(rf"(?V1){starts}{regex.escape(wanted)}(?!\p{{M}}){ends}", fold(str(given))) is not None


# Scripts that are written without spaces between words, or with endings on them as Korean is; and what words consist
# of in the others.
_UNSPACED = r"[\p{scx=Bopo}\p{scx=Hani}\p{scx=Hang}\p{scx=Hira}\p{scx=Kana}\p{Khmr}\p{Laoo}\p{Mymr}\p{Thai}\p{Tibt}]"
_SPACED = rf"[[\p{{L}}\p{{N}}\p{{M}}_]--{_UNSPACED}]"

METRICS: dict[str, Callable[[Any, Any, Any], bool]] = {"exact": _exact, "contains": _contains}


def _of_outputs(is_same: Callable[[Any, Any, Any], bool], task: type[dspy.Signature], name: str) -> Metric:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
        names = [name for name in task.output_fields if name in example]
        if not names:
            raise KeyError(f"no gold value for any of {', '.join(task.output_fields)}")
        return all(is_same(example[n], prediction.get(n), task.output_fields[n].annotation) for n in names)

    metric.__name__ = name
    return metric


def _import(path: str) -> Metric:
    module, colon, name = path.partition(":")
    if not colon:
        raise ValueError(
            f"There is no metric {path!r}. Choose {' or '.join(METRICS)}, or name a function of yours as "
            "module:function, for example metrics:score for `score` in metrics.py."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Metric = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The metric {path!r} cannot be imported from {os.getcwd()}: {error}.") from error
    if not callable(found):
        raise TypeError(f"{path!r} is no function but {type(found).__name__}.")
    return found
