"""What is measured of a system beside its score: other metrics, robustness, calibration, cost and latency."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation.intervals import Interval, mean_interval

if TYPE_CHECKING:
    from moa_dspy.evaluation.comparison import Comparison

__all__ = ["Measure", "calibration_error", "calibration_interval", "cut_bins", "measure"]

Floats = npt.NDArray[np.float64]

BINS = 10
RESAMPLES = 1000


@dataclass(frozen=True)
class Measure:
    """One system by one measure.

    Attributes:
        system: Its name.
        name: A metric's name; `robustness`, the mean of the worst score that a question has among its wordings;
            `ECE`, the `calibration_error` of a calibrated mixture's confidence; `tokens`, `USD` and `seconds` per
            question, without those that DSPy's cache answered.
        value: What it is.
        interval: Its 95% interval.
        questions: On how many it rests.
    """

    system: str
    name: str
    value: float
    interval: Interval
    questions: int


def measure(comparison: Comparison) -> Iterator[Measure]:
    """All that can be said of the systems; what was not recorded (a price, a confidence) is left out."""
    scored = {comparison.metric: comparison, **comparison.further}
    if comparison.perturbed:
        scored["robustness"] = comparison.worst
    for system in comparison.systems:
        for name, one in scored.items():
            row = one.row(system.name)
            yield Measure(system.name, name, row.score, row.interval, len(one.questions))
        answers = [question.answers[system.name] for question in comparison.questions]
        sure = np.array([(one.confidence, one.score) for one in answers if one.confidence is not None]).T
        if len(sure) and comparison.is_accuracy:
            value, interval = calibration_error(*sure), calibration_interval(*sure)
            yield Measure(system.name, "ECE", value, interval, sure.shape[1])
        taken = comparison.taken(system.name)
        tokens = [sum(pair) for pair in zip(taken["prompt_tokens"], taken["completion_tokens"], strict=True)]
        for name, values in {"tokens": tokens, "USD": taken["cost_usd"], "seconds": taken["seconds"]}.items():
            if values:
                interval = mean_interval(values, seed=comparison.seed, resamples=RESAMPLES)
                yield Measure(system.name, name, float(np.mean(values)), interval, len(values))


def calibration_error(confidences: Floats, right: Floats) -> float:
    """The expected calibration error: how far confidence and accuracy differ in a bin, on average.

    In bins of equally many answers. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning"
    (AAAI 2015). Chance alone makes it larger than 0: see the interval.
    """
    over = confidences - right
    return float(sum(abs(over[part].sum()) for part in cut_bins(confidences)) / len(over))


def calibration_interval(confidences: Floats, right: Floats) -> Interval:
    """Its 95% interval, by the bootstrap."""
    draws = np.random.default_rng(0).integers(len(right), size=(RESAMPLES, len(right)))
    errors = [calibration_error(confidences[draw], right[draw]) for draw in draws]
    return Interval(*map(float, np.quantile(errors, [0.025, 0.975])))


def cut_bins(confidences: Floats) -> list[npt.NDArray[np.intp]]:
    """Tenths of the answers, the least sure first; equal confidences stand in one bin."""
    order = np.argsort(confidences, kind="stable")
    rising = confidences[order]
    cuts = np.searchsorted(rising, rising[np.arange(1, BINS) * len(order) // BINS])
    return [part for part in np.split(order, np.unique(cuts)) if len(part)]
