"""The strategies, and the one table in which they are found by name."""

from __future__ import annotations

import copy

from moa_dspy.strategies.base import FAILED, AggregatorTimeout, Case, Strategy, Unusable, Verdict
from moa_dspy.strategies.fusion import Fusion
from moa_dspy.strategies.selection import Selection
from moa_dspy.strategies.synthesis import Revision, Synthesis
from moa_dspy.strategies.voting import Voting, fall_back

__all__ = [
    "BY_NAME",
    "FAILED",
    "STRATEGIES",
    "AggregatorTimeout",
    "Case",
    "Fusion",
    "Revision",
    "Selection",
    "Strategy",
    "Synthesis",
    "Unusable",
    "Verdict",
    "Voting",
    "as_strategy",
    "fall_back",
]

STRATEGIES: dict[str, type[Strategy]] = {cls.name: cls for cls in (Synthesis, Selection, Voting, Fusion)}
BY_NAME: dict[str, type[Strategy]] = {**STRATEGIES, Revision.name: Revision}


def as_strategy(strategy: str | Strategy) -> Strategy:
    """The strategy of this name, or a copy of this one that a mixture can bind to its task."""
    if isinstance(strategy, Strategy):
        if isinstance(getattr(strategy, "name", None), str):
            return copy.deepcopy(strategy)
        raise TypeError(f"{type(strategy).__name__} has no name to be reported by: give the class one, name = '...'.")
    if not isinstance(strategy, str):
        raise TypeError(f"A strategy is a name or a Strategy, for example Voting(), not {strategy!r}.")
    if strategy not in BY_NAME:
        raise ValueError(f"There is no strategy {strategy!r}. Choose one of: {', '.join(BY_NAME)}.")
    return BY_NAME[strategy]()
