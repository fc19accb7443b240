"""DSPy's progress bars, made to bear several evaluations at once."""

from __future__ import annotations

import weakref
from typing import Any

from dspy.utils.parallelizer import tqdm

__all__ = ["bear_company"]


def bear_company() -> None:
    """Let evaluations run side by side.

    Each evaluation of DSPy's empties tqdm's set of bars, which another one's bar, shown or not, then fails to leave:
    a `KeyError` from which the whole compile ends. With this set, bars come and go on their own.
    """
    bars: Any = tqdm.tqdm
    if not isinstance(bars._instances, _Bars):
        bars._instances = _Bars(bars._instances)


class _Bars(weakref.WeakSet[Any]):
    def clear(self) -> None:
        pass

    def remove(self, item: Any) -> None:
        self.discard(item)
