"""An axis: from values to pixels, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Axis", "axis"]


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        title: What it measures, with its unit.
        low: The value at `start`.
        high: The value at `end`.
        start: A pixel.
        end: A pixel.
        is_log: Equal factors are equally far apart.
        ticks: Values.
        text: How a tick is written.
    """

    title: str
    low: float
    high: float
    start: float
    end: float
    is_log: bool
    ticks: Sequence[float]
    text: Callable[[float], str]

    def place(self, value: float) -> float:
        """The value's pixel."""
        low, high, here = self.low, self.high, value
        if self.is_log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        return self.start + (here - low) / (high - low) * (self.end - self.start)


def axis(
    title: str, low: float, high: float, start: float, end: float, text: Callable[[float], str], is_log: bool = False
) -> Axis:
    """An axis with about six ticks."""
    ticks = _log_ticks(low, high) if is_log else _ticks(low, high)
    return Axis(title, low, high, start, end, is_log, ticks, text)


def _ticks(low: float, high: float) -> list[float]:
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step = next(step * factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= 8)
    # Multiples, rounded: added up, 0.1 three times would be 0.30000000000000004.
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [round(factor * 10.0**power, 12) for power in powers for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) <= 8:
            return inside
    return inside
