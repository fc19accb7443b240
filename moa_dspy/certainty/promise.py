"""What confidence can promise: a threshold above which answers are wrong no more often than was asked for."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "Cuts",
    "bound_error",
    "count_fewest",
    "count_rows_needed",
    "find_threshold",
    "find_threshold_among",
    "is_kept",
    "list_cuts",
]

Cuts: TypeAlias = tuple[tuple[float, int, int], ...]
"""(confidence, wrong answers, answers) of all thresholds, the strictest first."""

_ENOUGH = 10  # answers, to take their error for that of more of them
LEVEL = 0.9
"""How sure the promise is: in nine of ten samples of calibration rows the threshold found keeps it."""


def find_threshold(confidences: npt.ArrayLike, right: npt.ArrayLike, max_error: float) -> float | None:
    """The least threshold above which at most `max_error` of the answers are wrong, by the one-sided 90% bound.

    Thresholds are tested from the strictest on, in an order that does not depend on who is right, until the first
    that fails: a fixed sequence, so that no correction for many tests is needed. Sources: Clopper and Pearson, "The
    Use of Confidence or Fiducial Limits" (Biometrika 26, 1934), for each test; Angelopoulos et al., "Learn then
    Test" (2021), for the sequence.

    Args:
        confidences: Of answers that were not learned from.
        right: Of each, 1 if it is right, else 0.
        max_error: Above 0 and below 1.

    Returns:
        The threshold; None if these rows bear no such promise.

    Examples:
        >>> find_threshold([0.9] * 60 + [0.6] * 40, [1] * 60 + [1, 0] * 20, max_error=0.05)
        0.9
    """
    return find_threshold_among(list_cuts(confidences, right), max_error)


@lru_cache(maxsize=64)
def find_threshold_among(cuts: Cuts, max_error: float) -> float | None:
    """The same of cuts."""
    threshold, least = None, count_fewest(max_error)
    for confidence, wrong, answered in cuts:
        if answered < least:
            continue
        if not is_kept(wrong, answered, max_error):
            break
        threshold = confidence
    return threshold


def is_kept(wrong: int, answered: int, max_error: float) -> bool:
    """Whether so few wrong answers show, at 90%, that the error is at most this."""
    return _tail(wrong, answered, max_error) <= 1 - LEVEL + 1e-12


def bound_error(wrong: int, answered: int) -> float:
    """The one-sided 90% Clopper-Pearson bound of an error; 1 if nothing was answered.

    Examples:
        >>> round(bound_error(0, 45), 4), round(bound_error(1, 45), 4)
        (0.0499, 0.0837)
    """
    if wrong >= answered:
        return 1.0
    low, high = wrong / answered, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if is_kept(wrong, answered, middle) else (middle, high)
    return high


def count_rows_needed(confidences: npt.ArrayLike, right: npt.ArrayLike, max_error: float) -> int | None:
    """How many rows would bear the promise, if more of them are like these; None if no number would.

    An estimate, by the normal approximation: of the share of surest answers that takes fewest, with the error that it
    shows here.
    """
    needed: list[float] = []
    variance = max_error * (1 - max_error) * NormalDist().inv_cdf(LEVEL) ** 2
    for _, wrong, answered in list_cuts(confidences, right):
        margin = max_error - wrong / answered
        if answered >= _ENOUGH and margin > 0:
            number = max(float(count_fewest(max_error)), variance / margin**2)
            needed.append(number * np.size(confidences) / answered)
    return math.ceil(min(needed)) if needed else None


def list_cuts(confidences: npt.ArrayLike, right: npt.ArrayLike) -> Cuts:
    """The cuts that these answers give."""
    sure, truth = np.asarray(confidences, dtype=float), np.asarray(right, dtype=float)
    order = np.argsort(-sure, kind="stable")
    falling, wrong = sure[order], np.cumsum(truth[order] < 1)
    ends = np.flatnonzero(np.append(np.diff(falling) < -1e-9, True))
    return tuple((float(falling[end]), int(wrong[end]), int(end) + 1) for end in ends)


def count_fewest(max_error: float) -> int:
    """The fewest answers that bear the promise, if all are right."""
    return math.ceil(math.log(1 - LEVEL) / math.log(1 - max_error) - 1e-9)


@lru_cache(maxsize=1 << 16)
def _tail(wrong: int, answered: int, error: float) -> float:
    """The probability of no more wrong answers than these, if answers are wrong this often."""
    if not 0 < error < 1:
        return float(error <= 0 or wrong >= answered)
    is_wrong, is_right, ways = math.log(error), math.log1p(-error), math.lgamma(answered + 1)
    terms = (
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(answered - k + 1) + k * is_wrong + (answered - k) * is_right)
        for k in range(wrong + 1)
    )
    return min(1.0, math.fsum(terms))
