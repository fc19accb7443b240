"""What a diagnosis found: how proposers fail together, what to use, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from moa_dspy.evaluation import Comparison, Interval, difference_interval, wilson
from moa_dspy.terminal import printable

from .committee import Candidate
from .reports import Report, list_table
from .votes import Floats, Votes

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["SELF_MOA", "Diagnosis", "Diversity", "Recommendation", "recommend"]

SELF_MOA = "Self-MoA of "


@dataclass(frozen=True)
class Diversity:
    """How a panel's agents fail together: what voting and picking can gain at most.

    Attributes:
        agents: Of the rows and columns of the matrices.
        all_fail: The share of questions on which every proposal scores 0: no vote and no choice can be right there.
        all_fail_interval: Its 95% interval, Wilson's.
        correlation: Of the errors of two agents, -1 to 1; None where one has none, or nothing else.
        same_error: Of the questions on which both are wrong, the share with the same wrong answer; None without any.
            Two different wrong answers do a vote no harm; the same one twice is a lobby. (Large models give the same
            wrong answer far more often than chance: Kim et al., "Correlated Errors in Large Language Models", arXiv
            2506.07962.)
        mean_correlation: Over all pairs; None if it is known for none.
        effective: How many independent voters the agents are worth, `n / (1 + (n - 1) rho)` with the mean
            correlation rho: the design effect (Kish, "Survey Sampling", 1965, section 5.4).
    """

    agents: list[str]
    all_fail: float
    all_fail_interval: Interval
    correlation: list[list[float | None]]
    same_error: list[list[float | None]]
    mean_correlation: float | None
    effective: float | None

    @classmethod
    def of(cls, votes: Votes) -> Diversity:
        """Measured on recorded votes; agents that give several are taken at the mean of their scores."""
        failed, asked, count = int((votes.scores.max(axis=1) <= 0).sum()), len(votes.scores), len(votes.agents)
        correlation, same_error = _correlate(votes.alone), _compare_errors(votes.of_agents(votes.agents, samples=1))
        known = [one for row, line in enumerate(correlation) for one in line[row + 1 :] if one is not None]
        rho = fmean(known) if known else None
        effective = None if rho is None else count / (1 + (count - 1) * min(max(rho, 0.0), 1.0))
        return cls(votes.agents, failed / asked, wilson(failed, asked), correlation, same_error, rho, effective)


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Attributes:
        verdict: `mix`: the gain is beyond chance. `single`: there is none. `unclear`: it may be chance.
        system: What to use.
        single: The best single model.
        mixture: The best mixture; None if there is none.
        calls: LM calls per question of `system`.
        gain: The mixture's mean score minus the single model's.
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
class Diagnosis(Report):
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
    shown = ("recommendation", "reasons", "comparison", "diversity", "committees")

    @property
    def reasons(self) -> list[str]:
        """What the recommendation rests on, in sentences."""
        found, rows, percent = self.diversity, self.comparison.rows, self.comparison.is_accuracy
        low, high = found.all_fail_interval
        reasons = [
            f"All proposals fail on {found.all_fail:.0%} of the questions (95% {low:.0%} to {high:.0%}): no vote and "
            "no choice can be right there."
        ]
        if found.effective is not None:
            reasons.append(
                f"The errors of {len(found.agents)} proposers correlate by {found.mean_correlation:.2f} on average: "
                f"they are worth {found.effective:.1f} independent ones."
            )
        judge = next((row for row in rows if row.kind == "aggregator"), None)
        best = max((row for row in rows if row.kind == "proposer"), key=lambda row: row.score)
        if judge is not None and judge.score < best.score:
            reasons.append(
                f"The aggregator's model, {judge.name}, is weaker alone ({_score(judge.score, percent)}) than the "
                f"best proposer, {best.name} ({_score(best.score, percent)})."
            )
        sampled = next((row for row in rows if row.name.startswith(SELF_MOA)), None)
        mixed = max((row for row in rows if row.kind in ("vote", "strategy")), key=lambda row: row.score)
        control = self.control
        if sampled is not None:
            gain = _gain(self.comparison.scores(mixed.name), self.comparison.scores(sampled.name), percent)
            control += f" The best mixture of several models, {mixed.name}, gains {gain} against it."
        return [*reasons, control]

    def table(self, width: int = 80) -> RenderableType:
        """The comparison and the findings, for a terminal of this many columns."""
        from rich.console import Group

        return Group(self.comparison.table(width), "", self.findings())

    def __str__(self) -> str:
        from moa_dspy.evaluation.table import shown_as_text

        return shown_as_text(self.table())

    def findings(self) -> RenderableType:
        """What there is beside the comparison: shared errors, committees, the recommendation and its reasons."""
        from rich.console import Group
        from rich.text import Text

        found, shown = self.diversity, list[Any]()
        if len(found.agents) > 1:
            rows = []
            for row, name in enumerate(found.agents):
                left = ["-" if one is None else f"{one:.0%}" for one in found.same_error[row][:row]]
                right = ["-" if one is None else f"{one:.2f}" for one in found.correlation[row][row + 1 :]]
                rows.append([f"{row + 1} {name}", *left, "", *right])
            shown += [Text(_ERRORS, "dim"), list_table(["", *map(str, range(1, len(rows) + 1))], rows), ""]
        if several := [made for made in self.committees if made.calls > 1]:
            percent = self.comparison.is_accuracy
            rows = [[str(made), f"{made.calls:g}", _score(made.score, percent)] for made in several]
            shown += [Text(_WEIGHTED, "dim"), list_table(["of", "calls", "score"], rows), ""]
        style = "bold green" if self.recommendation.verdict == "mix" else "bold"
        shown.append(Text(printable(self.recommendation.reason), style))
        return Group(*shown, *(Text(printable(reason)) for reason in self.reasons))

    def plot(self, path: str | Path) -> Path:
        """Plot quality against cost; see `Comparison.plot`."""
        return self.comparison.plot(path)


def recommend(
    singles: Mapping[str, Floats],
    mixtures: Mapping[str, Floats],
    calls: Mapping[str, float],
    *,
    percent: bool = False,
) -> Recommendation:
    """Compare the best single model with the best mixture.

    What is ahead is used: to wait for proof loses more, as on real answers to 264 questions a gain of 1.6 points
    seldom shows (`tests/bench/committees.py`). Whether the gain is proven, by a 95% interval above 0, is the verdict.
    Both were picked as the best on these very questions, so both look somewhat better than they are. `singles` and
    `mixtures` give scores per question, `calls` what each takes; `percent` says that scores are accuracies.
    """
    single = max(singles, key=lambda name: singles[name].mean())
    if not mixtures:
        reason = f"Ask {single} alone: there is no mixture to compare it with."
        return Recommendation("single", single, single, None, calls[single], 0.0, Interval(0.0, 0.0), reason)
    mixture = max(mixtures, key=lambda name: (mixtures[name].mean().round(9), -calls[name]))
    ours, theirs = mixtures[mixture], singles[single]
    system = mixture if ours.mean() > theirs.mean() + 1e-9 else single
    interval = difference_interval(ours, theirs)
    gain = f"{_gain(ours, theirs, percent)} against {single} alone"
    price = f"{calls[mixture]:.3g} calls per question instead of {calls[single]:.3g}"
    verdict: Literal["mix", "single", "unclear"] = "mix" if interval.low > 0 else "unclear"
    if system == single:
        verdict = "single"
        reason = f"Ask {single} alone: the best mixture, {mixture}, gains nothing, {gain}, for {price}."
    elif verdict == "mix":
        reason = f"Use {mixture}: {gain}, for {price}."
    else:
        reason = (
            f"Probably {mixture}: it is ahead, {gain}, but that may be chance, and it takes {price}. Where calls "
            f"matter, ask {single} alone; more questions would tell."
        )
    difference = float(ours.mean() - theirs.mean())
    return Recommendation(verdict, system, single, mixture, calls[system], difference, interval, reason)


def _gain(ours: Floats, theirs: Floats, percent: bool) -> str:
    """A difference with its interval, in the unit of the scores: `+3.1 points (95% +0.4 to +5.9)`."""
    numbers = [float(ours.mean() - theirs.mean()), *difference_interval(ours, theirs)]
    difference, low, high = (f"{100 * number:+.1f}" if percent else f"{number:+.3f}" for number in numbers)
    return f"{difference}{' points' if percent else ''} (95% {low} to {high})"


def _score(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}%" if percent else f"{value:.3f}"


def _correlate(scores: Floats) -> list[list[float | None]]:
    """Pearson's correlation of the columns; of right and wrong, the phi coefficient."""
    varies = scores.std(axis=0) > 1e-9
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.atleast_2d(np.corrcoef(scores, rowvar=False))
    return _known(np.where(varies[:, None] & varies, correlation, np.nan))


def _compare_errors(votes: Votes) -> list[list[float | None]]:
    wrong = (votes.scores <= 0) & (votes.answers >= 0)
    both = wrong[:, :, None] & wrong[:, None, :]
    same = (both & (votes.answers[:, :, None] == votes.answers[:, None, :])).sum(axis=0)
    counts = both.sum(axis=0)
    return _known(np.where(counts > 0, same / np.maximum(counts, 1), np.nan))


def _known(matrix: Floats) -> list[list[float | None]]:
    return [[None if np.isnan(number) else number for number in row] for row in matrix.tolist()]


_ERRORS = (
    "Errors. Right of the diagonal: how they correlate. Left of it: the share of the same wrong answer, where both are "
    "wrong."
)
_WEIGHTED = "Weighted votes, on questions that their weights have not seen."
