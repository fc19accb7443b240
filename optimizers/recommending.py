"""To mix or not to mix: the best single model against the best mixture, and what follows from it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation.intervals import RESAMPLES, Interval, difference_interval

from .optimism import optimism

__all__ = ["Recommendation", "recommend"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        verdict: `mix`: the gain is beyond chance. `single`: there is none. `unclear`: it may be chance.
        system: What to use: the mixture if it gains anything, else one model alone.
        single: The best single model.
        mixture: The best mixture; None if there is none.
        calls: LM calls per question of `system`.
        gain: The mixture's mean score minus the single model's, less what the choice of each flatters.
        interval: Its 95% interval, by the paired bootstrap.
        reason: In words.
    """

    verdict: Literal["mix", "single", "unclear"]
    system: str
    single: str
    mixture: str | None
    calls: float
    gain: float
    interval: Interval
    reason: str


def recommend(
    singles: Mapping[str, npt.ArrayLike],
    mixtures: Mapping[str, npt.ArrayLike],
    calls: Mapping[str, float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Recommendation:
    """Compare the best single model with the best mixture.

    Both were picked as the best on these very questions, out of several, and so look better than they are: that part
    of their scores is taken off (`optimism`). What is ahead then is used: to wait for proof loses more, as on real
    answers to 264 questions a gain of 1.6 points seldom shows (`tests/bench/committees.py`). Whether the gain is
    proven, by a 95% interval above 0, is the verdict; a mixture takes several times the calls.

    Args:
        singles: Model -> its scores, one per question.
        mixtures: Mixture -> its scores, on the same questions.
        calls: LM calls per question of each.
        seed: Of the bootstrap.
        resamples: Of the bootstrap.

    Raises:
        ValueError: If there is no single model.

    Example:
        >>> recommend({"a": [1, 0, 1, 0] * 20}, {"vote": [1, 1, 1, 0] * 20}, {"a": 1, "vote": 3}).verdict
        'mix'
    """
    if not singles:
        raise ValueError("There is no single model to compare the mixtures with.")
    alone = _Group(singles, calls)
    if not mixtures:
        reason = f"Ask {alone.best} alone: there is no mixture to compare it with."
        return Recommendation(
            "single", alone.best, alone.best, None, calls[alone.best], 0.0, Interval(0.0, 0.0), reason
        )
    mixed = _Group(mixtures, calls)
    ours, theirs = mixed.table[mixed.index], alone.table[alone.index]

    def chosen(drawn: npt.NDArray[np.int64]) -> Floats:
        return np.stack([group.table[group.table[:, drawn].mean(axis=1).argmax()] for group in (mixed, alone)])

    flattered = optimism(len(ours), chosen, seed=seed)
    excess = float(flattered[0] - flattered[1])
    gain = float(ours.mean() - theirs.mean()) - excess
    low, high = (bound - excess for bound in difference_interval(ours, theirs, seed=seed, resamples=resamples))
    verdict: Literal["mix", "single", "unclear"] = "mix" if low > 0 else "single" if gain <= 0 else "unclear"
    system = alone.best if verdict == "single" else mixed.best
    measured = "" if abs(excess) < 0.0005 else f", after correcting {gain + excess:+.3f} for having picked both here"
    said = f"{gain:+.3f} (95% {low:+.3f} to {high:+.3f}) against {alone.best} alone{measured}"
    price = f"{calls[mixed.best]:.3g} calls per question instead of {calls[alone.best]:.3g}"
    if verdict == "mix":
        reason = f"Use {mixed.best}: {said}, for {price}."
    elif verdict == "single":
        reason = f"Do not use a mixture here, ask {alone.best}: the best one, {mixed.best}, gains nothing, {said}."
    else:
        needed = math.ceil(len(ours) * ((high - low) / 2 / gain) ** 2)
        reason = (
            f"Probably {mixed.best}: it is ahead, {said}, but that may be chance, and it takes {price}. Where calls "
            f"matter, ask {alone.best} alone. If the gain is real, about {needed:,} questions in all would show it."
        )
    return Recommendation(verdict, system, alone.best, mixed.best, calls[system], gain, Interval(low, high), reason)


class _Group:
    """Systems of which the best one is taken, of equal ones the one with fewer calls."""

    def __init__(self, scores: Mapping[str, npt.ArrayLike], calls: Mapping[str, float]) -> None:
        names = sorted(scores, key=lambda name: calls[name])
        self.table = np.stack([np.asarray(scores[name], dtype=float) for name in names])
        self.index = int(self.table.mean(axis=1).argmax())
        self.best = names[self.index]
