"""Intervals: how far what was measured may be off because the questions are a sample."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = [
    "Interval",
    "bootstrap",
    "calibration_error",
    "calibration_interval",
    "cut_bins",
    "difference_interval",
    "mean_interval",
    "score_interval",
    "wilson",
]

Floats = npt.NDArray[np.float64]

_BLOCK = 100  # resamples held in memory at a time
_BINS = 10


class Interval(NamedTuple):
    """The lower and the upper bound, in the unit of what was measured."""

    low: float
    high: float


def wilson(right: int, asked: int, confidence: float = 0.95) -> Interval:
    """The interval of an accuracy, from the counts of a right-or-wrong score.

    Sound near 0 and 1 and for few questions. Source: Wilson, "Probable Inference, the Law of Succession, and
    Statistical Inference" (Journal of the American Statistical Association 22, 1927).

    Raises:
        ValueError: If these are no counts of right answers.

    Examples:
        >>> [round(bound, 3) for bound in wilson(8, 10)]
        [0.49, 0.943]
    """
    if not 0 <= right <= asked or asked < 1:
        raise ValueError(f"{right} right answers of {asked}: give counts, with at least 1 question.")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = right / asked, z * z / asked
    center = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / asked + spread / (4 * asked))
    # At the ends the formula gives exactly 0 and 1, up to rounding.
    return Interval(0.0 if right == 0 else center - half, 1.0 if right == asked else center + half)


def difference_interval(
    scores: npt.ArrayLike, baseline: npt.ArrayLike, *, confidence: float = 0.95, seed: int = 0, resamples: int = 10_000
) -> Interval:
    """The interval of the difference of two systems' means, by the paired bootstrap.

    Both answered the same questions, in the same order, so that what makes a question hard for both cancels out.
    Above zero throughout: the first is better.

    Raises:
        ValueError: If the two do not score the same questions; as `bootstrap`.

    Examples:
        >>> difference_interval([1, 1, 0, 1], [0, 1, 0, 0])
        Interval(low=0.0, high=1.0)
    """
    ours, theirs = np.asarray(scores, dtype=float), np.asarray(baseline, dtype=float)
    if ours.shape != theirs.shape:
        raise ValueError(f"{ours.size} scores against {theirs.size}: paired systems answer the same questions.")
    return mean_interval(ours - theirs, confidence=confidence, seed=seed, resamples=resamples)


def mean_interval(
    scores: npt.ArrayLike, *, confidence: float = 0.95, seed: int = 0, resamples: int = 10_000
) -> Interval:
    """The interval of the mean of one score per question; see `bootstrap`."""
    return bootstrap(np.reshape(scores, (-1, 1)), confidence=confidence, seed=seed, resamples=resamples)[0]


def bootstrap(
    scores: npt.ArrayLike, *, confidence: float = 0.95, seed: int = 0, resamples: int = 10_000
) -> list[Interval]:
    """The intervals of the means of several columns, whose rows (the questions) are drawn once for all.

    Percentile bootstrap: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13. It knows
    nothing of what the questions at hand do not show: scores that are all equal give an interval without width.

    Args:
        scores: Of shape (questions, columns).
        confidence: Between 0 and 1.
        seed: Fixes the resamples: the same scores give the same intervals.
        resamples: How often the questions are drawn again, with replacement.

    Raises:
        ValueError: If there is no question, or a score is not finite.
    """
    table = np.asarray(scores, dtype=float)
    if not len(table) or not np.isfinite(table).all():
        raise ValueError("Give finite scores of at least one question.")
    random = np.random.default_rng(seed)
    sizes = [min(_BLOCK, resamples - start) for start in range(0, resamples, _BLOCK)]
    means = np.concatenate([table[random.integers(len(table), size=(n, len(table)))].mean(axis=1) for n in sizes])
    bounds = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [Interval(float(low), float(high)) for low, high in bounds.T]


def score_interval(scores: npt.ArrayLike, seed: int = 0) -> Interval:
    """The 95% interval of a mean score: Wilson's if each says right (1) or wrong (0), else the bootstrap's."""
    values = np.asarray(scores, dtype=float)
    is_accuracy = len(values) and np.isin(values, (0, 1)).all()
    return wilson(int(values.sum()), len(values)) if is_accuracy else mean_interval(values, seed=seed)


def calibration_error(confidences: Floats, right: Floats) -> float:
    """The expected calibration error: how far confidence and accuracy differ in a bin, on average.

    In bins of equally many answers. Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning"
    (AAAI 2015). Chance alone makes it larger than 0: see the interval.
    """
    over = confidences - right
    return float(sum(abs(over[part].sum()) for part in cut_bins(confidences)) / len(over))


def calibration_interval(confidences: Floats, right: Floats) -> Interval:
    """Its 95% interval, by the bootstrap."""
    draws = np.random.default_rng(0).integers(len(right), size=(1000, len(right)))
    errors = [calibration_error(confidences[draw], right[draw]) for draw in draws]
    return Interval(*map(float, np.quantile(errors, [0.025, 0.975])))


def cut_bins(confidences: Floats) -> list[npt.NDArray[np.intp]]:
    """Tenths of the answers, the least sure first; equal confidences stand in one bin."""
    order = np.argsort(confidences, kind="stable")
    rising = confidences[order]
    cuts = np.searchsorted(rising, rising[np.arange(1, _BINS) * len(order) // _BINS])
    return [part for part in np.split(order, np.unique(cuts)) if len(part)]
