"""What a diagnosis found: what to use, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation import Comparison, Interval, difference_interval
from moa_dspy.values import to_jsonable

from .committee import Candidate
from .diversity import Diversity
from .votes import Floats

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["SELF_MOA", "Diagnosis", "Recommendation", "recommend"]

SELF_MOA = "Self-MoA of "


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        verdict: `mix`: the gain is beyond chance. `single`: there is none. `unclear`: it may be chance.
        system: What to use: the mixture if it gains anything, else one model alone.
        single: The best single model.
        mixture: The best mixture; None if there is none.
        calls: LM calls per question of `system`.
        gain: The mixture's mean score minus the single model's, corrected: less by how much having been picked as
            the best of several on these very questions flatters the one more than the other.
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


@dataclass(frozen=True)
class Diagnosis:
    """A mixture, diagnosed.

    Attributes:
        comparison: Each model alone, the vote, the strategies, Self-MoA and the oracle: scores, intervals, what they
            take. Its `recording` holds all that was asked.
        diversity: How the proposers fail together.
        committees: Weighted votes of the most accurate, of each size, if scores are between 0 and 1.
        control: What Self-MoA was, or why there is none.
        recommendation: What to use.
    """

    comparison: Comparison
    diversity: Diversity
    committees: Sequence[Candidate]
    control: str
    recommendation: Recommendation

    @property
    def reasons(self) -> list[str]:
        """What the recommendation rests on, in sentences."""
        found, rows, percent = self.diversity, self.comparison.rows, self.comparison.is_accuracy
        said = [
            f"All proposals fail on {found.all_fail:.0%} of the questions (95% {found.all_fail_interval.low:.0%} to "
            f"{found.all_fail_interval.high:.0%}): no vote and no choice can be right there."
        ]
        if len(found.agents) > 1 and found.effective is not None and found.mean_correlation is not None:
            said.append(
                f"The errors of {len(found.agents)} proposers correlate by {found.mean_correlation:.2f} on average: "
                f"they are worth {found.effective:.1f} independent ones."
            )
        judge = next((row for row in rows if row.kind == "aggregator"), None)
        best = max((row for row in rows if row.kind == "proposer"), key=lambda row: row.score)
        if judge is not None and judge.score < best.score:
            said.append(
                f"The aggregator's model, {judge.name}, is weaker alone ({_score(judge.score, percent)}) than the "
                f"best proposer, {best.name} ({_score(best.score, percent)})."
            )
        said.append(self.control)
        sampled = next((row for row in rows if row.name.startswith(SELF_MOA)), None)
        mixed = max((row for row in rows if row.kind in ("vote", "strategy")), key=lambda row: row.score, default=None)
        if sampled is not None and mixed is not None:
            scores = [self.comparison.scores(row.name) for row in (mixed, sampled)]
            low, high = difference_interval(*scores, seed=self.comparison.seed)
            said.append(
                f"Against {sampled.name} ({_score(sampled.score, percent)}), the best mixture of several models, "
                f"{mixed.name} ({_score(mixed.score, percent)}), gains "
                f"{_gain(mixed.score - sampled.score, low, high, percent)}."
            )
        return said

    def table(self, width: int = 80) -> RenderableType:
        """The comparison and the findings, for a terminal of this many columns."""
        from rich.console import Group

        return Group(self.comparison.table(width), "", self.findings())

    def findings(self) -> RenderableType:
        """What there is beside the comparison: shared errors, committees, the recommendation and its reasons."""
        from .findings import findings

        return findings(self)

    def plot(self, path: str | Path) -> Path:
        """Plot quality against cost; see `Comparison.plot`."""
        return self.comparison.plot(path)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data for JSON; what is not known is None."""
        made = [{**vars(one), "scores": None, "score": one.score} for one in self.committees]
        data: dict[str, Any] = to_jsonable(
            {
                "recommendation": asdict(self.recommendation),
                "reasons": self.reasons,
                "comparison": self.comparison.to_dict(),
                "diversity": asdict(self.diversity),
                "committees": made,
            }
        )
        return data


def recommend(
    singles: Mapping[str, npt.ArrayLike],
    mixtures: Mapping[str, npt.ArrayLike],
    calls: Mapping[str, float],
    *,
    percent: bool = False,
    seed: int = 0,
) -> Recommendation:
    """Compare the best single model with the best mixture.

    Both were picked as the best on these very questions, out of several, and so look better than they are: that is
    corrected (see `Recommendation.gain`). What is ahead then is used: to wait for proof loses more, as on real
    answers to 264 questions a gain of 1.6 points seldom shows (`tests/bench/committees.py`). Whether the gain is
    proven, by a 95% interval above 0, is the verdict; a mixture takes several times the calls.

    Args:
        singles: Model -> its scores, one per question; at least one.
        mixtures: Mixture -> its scores, on the same questions.
        calls: LM calls per question of each.
        percent: Whether scores are accuracies, and told in percent.
        seed: Of the bootstrap.

    Example:
        >>> recommend({"a": [1, 0, 1, 0] * 20}, {"vote": [1, 1, 1, 0] * 20}, {"a": 1, "vote": 3}).verdict
        'mix'
    """
    alone, single = _best(singles, calls)
    if not mixtures:
        reason = f"Ask {single} alone: there is no mixture to compare it with."
        return Recommendation("single", single, single, None, calls[single], 0.0, Interval(0.0, 0.0), reason)
    mixed, mixture = _best(mixtures, calls)
    ours, theirs = mixed[_leader(mixed)], alone[_leader(alone)]
    flattery = _flattery(mixed, seed) - _flattery(alone, seed)
    measured = float(ours.mean() - theirs.mean())
    gain, (low, high) = measured - flattery, (b - flattery for b in difference_interval(ours, theirs, seed=seed))
    verdict: Literal["mix", "single", "unclear"] = "mix" if low > 0 else "single" if gain <= 1e-9 else "unclear"
    said = f"{_gain(gain, low, high, percent)} against {single} alone"
    if abs(measured - gain) >= 0.0005:
        said += f", corrected from {_difference(measured, percent)} for having picked both here"
    price = f"{calls[mixture]:.3g} calls per question instead of {calls[single]:.3g}"
    if verdict == "mix":
        reason = f"Use {mixture}: {said}, for {price}."
    elif verdict == "single":
        reason = f"Do not use a mixture here, ask {single}: the best one, {mixture}, gains nothing, {said}."
    else:
        needed = math.ceil(len(ours) * ((high - low) / 2 / gain) ** 2)
        reason = (
            f"Probably {mixture}: it is ahead, {said}, but that may be chance, and it takes {price}. Where calls "
            f"matter, ask {single} alone. If the gain is real, about {needed:,} questions in all would show it."
        )
    system = single if verdict == "single" else mixture
    return Recommendation(verdict, system, single, mixture, calls[system], gain, Interval(low, high), reason)


def _gain(gain: float, low: float, high: float, percent: bool) -> str:
    """A difference with its interval, in the unit of the scores: `+3.1 points (95% +0.4 to +5.9)`."""
    unit = " points" if percent else ""
    return f"{_difference(gain, percent)}{unit} (95% {_difference(low, percent)} to {_difference(high, percent)})"


def _difference(value: float, percent: bool) -> str:
    return f"{100 * value:+.1f}" if percent else f"{value:+.3f}"


def _score(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}%" if percent else f"{value:.3f}"


def _best(scores: Mapping[str, npt.ArrayLike], calls: Mapping[str, float]) -> tuple[Floats, str]:
    """The scores as a table, and the name of the best row; of equal ones, the one with fewer calls."""
    names = sorted(scores, key=lambda name: calls[name])
    table = np.stack([np.asarray(scores[name], dtype=float) for name in names])
    return table, names[_leader(table)]


def _leader(table: Floats) -> int:
    return int(table.mean(axis=1).round(9).argmax())


def _flattery(table: Floats, seed: int) -> float:
    """By how much the best row's mean is too high, because it was picked as the best on these questions.

    The bootstrap's estimate of optimism (Efron, "Estimating the Error Rate of a Prediction Rule", Journal of the
    American Statistical Association 78, 1983): picked on questions drawn with replacement, the best scores so much
    more on these than on all; what the first pick gains by the draw is chance, and taken off.
    """
    random, questions, first = np.random.default_rng(seed), table.shape[1], _leader(table)
    excess = 0.0
    for _ in range(_RESAMPLES):
        drawn = table[:, random.integers(questions, size=questions)]
        gained = drawn.mean(axis=1) - table.mean(axis=1)
        excess += (gained[_leader(drawn)] - gained[first]) / _RESAMPLES
    return float(excess)


_RESAMPLES = 200
