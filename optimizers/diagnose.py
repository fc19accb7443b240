"""Is this mixture worth its calls? Measured on examples, answered in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import dspy
import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from moa_dspy.evaluation import Comparison, Interval, Metric, difference_interval, evaluate, wilson
from moa_dspy.evaluation.evaluating import aggregator_as_proposer, default_strategies
from moa_dspy.evaluation.table import shown_as_text
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording, Row, Summary
from moa_dspy.recording.budget import calls_per_answer, calls_per_verdict, count_rotations
from moa_dspy.strategies import Strategy, as_strategy
from moa_dspy.terminal import printable

from .committee import Candidate, list_committees, pick
from .examples import ask_examples, check_mixture, checked_examples
from .mixtures import restricted
from .recipes import Budget
from .reports import Report, list_table
from .scoring import Scored
from .votes import Floats, Votes

__all__ = ["Diagnosis", "Diversity", "Recommendation", "diagnose", "diagnosis_budget", "recommend"]

SELF_MOA = "Self-MoA of "


def diagnose(
    moa: MoA,
    devset: Sequence[dspy.Example],
    metric: str | Metric = "exact",
    *,
    strategies: Sequence[str | Strategy] | None = None,
    self_moa: bool = True,
    recorded: Recording | None = None,
    concurrency: int = 8,
    seed: int = 0,
    path: str | Path | None = None,
    max_cost_usd: float | None = None,
    max_calls: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, planned: None,
) -> Diagnosis:
    """Find out whether a mixture pays, and why or why not.

    Every model is asked once per question, and its proposals serve everything: each model alone, the vote, the
    strategies, the committees, how errors correlate. The control asks anew: Self-MoA, the best proposer sampled as
    often as the panel makes calls. What a mixture gains, sampling one good model may gain too (Li et al., "Rethinking
    Mixture-of-Agents", arXiv 2502.00674): only what is beyond that is due to mixing.

    Args:
        moa: The mixture.
        devset: Examples with gold outputs.
        metric: As `evaluate` takes it.
        strategies: What to compare, by name or as objects; None means all that are built in.
        self_moa: Whether to ask for the control.
        recorded: An earlier recording of this mixture, whole or in part, that is not paid for again.
        concurrency: Questions under way at once; each asks its proposers side by side.
        seed: Of the comparison's bootstrap.
        path: A file to keep the answers in as they come; see `record`, for the next two as well.
        max_cost_usd: What the diagnosis may cost.
        max_calls: How many LM calls it may make.
        on_progress: Called with the number of finished questions and of all, once more for the control.

    Raises:
        ValueError: If the examples or a strategy do not fit, or `recorded` is of another mixture.
        TypeError: If this is no mixture.
        CompileInterrupted: If a proposer does not answer; as on `RecordingInterrupted`, `RecordingStopped` and
            `MetricError`, what was answered is its `recording`.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob", "simulated/carol"], strategy="voting")
        >>> diagnosis = diagnose(moa, bundled_questions(), strategies=["voting"], self_moa=False)
        >>> diagnosis.recommendation.verdict, round(diagnosis.comparison.row("oracle").score, 2)
        ('mix', 0.97)
    """
    check_mixture(moa, "diagnose")
    require_positive(concurrency=concurrency)
    devset = checked_examples(moa, devset, metric, name="devset")
    scored = Scored(metric, moa.signature)
    scored.try_on_gold(devset[0])
    judge = aggregator_as_proposer(moa)
    chosen = default_strategies(moa) if strategies is None else strategies
    others: dict[str, Any] = {} if judge is None else {judge.name: judge}
    shared: dict[str, Any] = {"strategies": chosen, "concurrency": concurrency}
    budget = {"max_cost_usd": max_cost_usd, "max_calls": max_calls}

    def on_row(row: Row | None, summary: Summary) -> None:
        on_progress(summary.questions - summary.left, summary.questions)

    def compare(known: Recording | None, **limits: Any) -> Comparison:
        settings = {**shared, **limits, "path": path, "on_row": on_row}
        found = ask_examples(moa, devset, recorded=known, others=others, **settings)
        return evaluate(moa, found, scored.measure, seed=seed, **shared)

    comparison = compare(recorded, **budget)
    control = "No Self-MoA: it was not asked for."
    if self_moa:
        best = max(moa.panels[0].names, key=lambda name: comparison.scores(name).sum())
        times = len(moa.panels[0].names) * moa.panels[0].samples
        if (refusal := _refuse_control(moa, best)) is not None:
            control = f"No Self-MoA: {refusal}"
        else:
            control = f"Self-MoA: {best}, the best proposer, asked {times} times per question, as often as the panel."
            others[SELF_MOA + best] = restricted(moa, [best], times)
            comparison = compare(comparison.recording, **_left_of(budget, comparison.recording, recorded))
    votes = Votes.of_comparison(moa, comparison)
    made = list(list_committees(votes, len(votes.scores))) if votes.are_shares else []
    return Diagnosis(comparison, Diversity.of(votes), made, control, _recommend(comparison, made))


def diagnosis_budget(
    moa: MoA, questions: int, *, strategies: Sequence[str | Strategy] | None = None, self_moa: bool = True
) -> Budget:
    """What a diagnosis will take at most, to be known before it is spent; for arguments as those of `diagnose`."""
    proposals = calls_per_answer(moa) - calls_per_verdict(moa)
    can_ask = moa.aggregator.lm is not None or dspy.settings.lm is not None
    chosen = default_strategies(moa) if strategies is None else strategies
    bound = [moa.strategy if one == moa.strategy.name else as_strategy(one) for one in chosen]
    verdicts = sum(map(count_rotations, bound)) if can_ask else 0
    judge = verdicts + int(aggregator_as_proposer(moa) is not None)
    is_possible = self_moa and len(moa.panels) == 1 and len(moa.panels[0].names) > 1
    control = calls_per_answer(moa) if is_possible else 0
    formula = f"{questions} questions x ({proposals} proposals + {judge} of the aggregator + {control} Self-MoA)"
    return Budget(questions * (proposals + judge + control), 0, formula)


@dataclass(frozen=True)
class Diagnosis(Report):
    """A mixture, diagnosed."""

    comparison: Comparison  # each model alone, the vote, the strategies, Self-MoA, the oracle; with all that was asked
    diversity: Diversity  # how the proposers fail together
    committees: Sequence[Candidate]  # weighted votes of the most accurate, of each size, if scores are from 0 to 1
    control: str  # what Self-MoA was, or why there is none
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
            ours, theirs = self.comparison.scores(mixed.name), self.comparison.scores(sampled.name)
            gain = _gain(ours, theirs, percent, difference_interval(ours, theirs))
            control += f" The best mixture of several models, {mixed.name}, gains {gain} against it."
        return [*reasons, control]

    def table(self, width: int = 80) -> RenderableType:
        """The comparison and the findings, for a terminal of this many columns."""
        return Group(self.comparison.table(width), "", self.findings())

    def __str__(self) -> str:
        return shown_as_text(self.table())

    def findings(self) -> RenderableType:
        """What there is beside the comparison: shared errors, committees, the recommendation and its reasons."""
        found, shown = self.diversity, list[Any]()
        if len(found.agents) > 1:
            rows = []
            for row, name in enumerate(found.agents):
                left = ["-" if one is None else f"{one:.0%}" for one in found.same_error[row][:row]]
                right = ["-" if one is None else f"{one:.2f}" for one in found.correlation[row][row + 1 :]]
                rows.append([f"{row + 1} {name}", *left, "", *right])
            title = "Errors. Right of the diagonal: how they correlate. Left: how often alike where both are wrong."
            headings = ["", *map(str, range(1, len(rows) + 1))]
            shown += [Text(title, "dim"), list_table(headings, rows), ""]
        if several := [made for made in self.committees if made.calls > 1]:
            title = "Weighted votes, on questions that their weights have not seen."
            rows = [[str(one), f"{one.calls:g}", _score(one.score, self.comparison.is_accuracy)] for one in several]
            shown += [Text(title, "dim"), list_table(["of", "calls", "score"], rows), ""]
        style = "bold green" if self.recommendation.verdict == "mix" else "bold"
        shown.append(Text(printable(self.recommendation.reason), style))
        return Group(*shown, *(Text(printable(reason)) for reason in self.reasons))

    def plot(self, path: str | Path) -> Path:
        """Plot quality against cost; see `Comparison.plot`."""
        return self.comparison.plot(path)


@dataclass(frozen=True)
class Diversity:
    """How a panel's agents fail together: what voting and picking can gain at most.

    Two different wrong answers do a vote no harm; the same one twice is a lobby. Large models give the same wrong
    answer far more often than chance: Kim et al., "Correlated Errors in Large Language Models", arXiv 2506.07962.
    `effective` is `n / (1 + (n - 1) rho)`, with the mean correlation rho: the design effect (Kish, "Survey Sampling",
    1965, section 5.4).
    """

    agents: list[str]  # of the rows and columns of the matrices
    all_fail: float  # the share of questions on which every proposal scores 0
    all_fail_interval: Interval  # 95%, Wilson's
    correlation: list[list[float | None]]  # of the errors of two agents; None where one has none, or nothing else
    same_error: list[list[float | None]]  # of questions on which both are wrong, the share with the same wrong answer
    mean_correlation: float | None  # over all pairs; None if it is known for none
    effective: float | None  # how many independent voters the agents are worth

    @classmethod
    def of(cls, votes: Votes) -> Diversity:
        """Measured on recorded votes; agents that give several are taken at the mean of their scores."""
        failed, asked, count = int((votes.scores.max(axis=1) <= 0).sum()), len(votes.scores), len(votes.agents)
        first = votes.of_agents(votes.agents, samples=1)
        wrong = (first.scores <= 0) & (first.answers >= 0)
        both = wrong[:, :, None] & wrong[:, None, :]
        same = (both & (first.answers[:, :, None] == first.answers[:, None, :])).sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            # Of right and wrong, the coefficient phi; without a spread there is none.
            scores = np.where(votes.alone.std(axis=0) > 1e-9, votes.alone, np.nan)
            tables = np.atleast_2d(np.corrcoef(scores, rowvar=False)), same / both.sum(axis=0)
        correlation, same_error = (
            [[None if np.isnan(number) else float(number) for number in line] for line in table] for table in tables
        )
        known = [one for row, line in enumerate(correlation) for one in line[row + 1 :] if one is not None]
        rho = fmean(known) if known else None
        effective = None if rho is None else count / (1 + (count - 1) * min(max(rho, 0.0), 1.0))
        return cls(votes.agents, failed / asked, wilson(failed, asked), correlation, same_error, rho, effective)


@dataclass(frozen=True)
class Recommendation:
    """What to use."""

    verdict: Literal["mix", "single", "unclear"]  # the gain is beyond chance; there is none; it may be chance
    system: str  # what to use
    single: str  # the best single model
    mixture: str | None  # the best mixture, if there is one
    calls: float  # LM calls per question of `system`
    gain: float  # the mixture's mean score minus the single model's
    interval: Interval  # 95%, by the paired bootstrap
    reason: str


def recommend(
    singles: Mapping[str, Floats], mixtures: Mapping[str, Floats], calls: Mapping[str, float], *, percent: bool = False
) -> Recommendation:
    """Compare the best single model with the best mixture.

    What is ahead is used: to wait for proof loses more, as on real answers to 264 questions a gain of 1.6 points
    seldom shows (`tests/bench/committees.py`). Whether the gain is proven, by a 95% interval above 0, is the verdict.
    Both were picked as the best on these very questions, so both look somewhat better than they are.
    """
    single = max(singles, key=lambda name: singles[name].mean())
    if not mixtures:
        reason = f"Ask {single} alone: there is no mixture to compare it with."
        return Recommendation("single", single, single, None, calls[single], 0.0, Interval(0.0, 0.0), reason)
    mixture = max(mixtures, key=lambda name: (mixtures[name].mean().round(9), -calls[name]))
    ours, theirs = mixtures[mixture], singles[single]
    system = mixture if ours.mean() > theirs.mean() + 1e-9 else single
    interval = difference_interval(ours, theirs)
    gain = f"{_gain(ours, theirs, percent, interval)} against {single} alone"
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


def _recommend(comparison: Comparison, made: Sequence[Candidate]) -> Recommendation:
    rows = [row for row in comparison.rows if row.kind != "oracle"]
    singles = {row.name: comparison.scores(row.name) for row in rows if row.kind in ("proposer", "aggregator")}
    mixtures = {row.name: comparison.scores(row.name) for row in rows if row.name not in singles}
    calls = {row.name: 1.0 if row.name in singles else row.calls or 0.0 for row in rows}
    # Of the committees only all together and what SelectCommittee would choose: the best of many is chance.
    for one in (made[-1], pick(made)) if made else ():
        if one.calls > 1:
            name = f"weighted {one}" if one.weights else str(one)
            mixtures[name], calls[name] = one.scores, one.calls
    return recommend(singles, mixtures, calls, percent=comparison.is_accuracy)


def _left_of(budget: Mapping[str, Any], recording: Recording, recorded: Recording | None) -> dict[str, Any]:
    """What the recording has left of a budget, what was recorded before not counted."""
    after, before = recording.usage, Recording().usage if recorded is None else recorded.usage
    calls = (after.calls - after.cache_hits) - (before.calls - before.cache_hits)
    spent = {"max_calls": calls, "max_cost_usd": (after.cost_usd or 0.0) - (before.cost_usd or 0.0)}
    # Where nothing is left it stops at once, with what there is.
    return {name: max(budget[name] - used, 1e-9) for name, used in spent.items() if budget[name] is not None}


def _refuse_control(moa: MoA, name: str) -> str | None:
    """Why sampling this proposer is no control; None if it is one."""
    agent: Any = getattr(moa.panels[0], name)
    if len(moa.panels) > 1:
        return "the mixture has several layers."
    if len(moa.panels[0].names) == 1:
        return "the mixture asks one model only."
    if agent.is_fixed:
        return f"the program of {name}, the best proposer, brings its own LMs, and cannot be sampled."
    if any(lm.kwargs.get("temperature") == 0 for lm in [*agent.lms, dspy.settings.lm] if lm is not None):
        return f"{name}, the best proposer, answers at temperature 0: its samples would be one answer."
    return None


def _gain(ours: Floats, theirs: Floats, percent: bool, interval: Interval) -> str:
    """A difference with its interval, in the unit of the scores: `+3.1 points (95% +0.4 to +5.9)`."""
    numbers = [float(ours.mean() - theirs.mean()), *interval]
    difference, low, high = (f"{100 * number:+.1f}" if percent else f"{number:+.3f}" for number in numbers)
    return f"{difference}{' points' if percent else ''} (95% {low} to {high})"


def _score(value: float, percent: bool) -> str:
    return f"{100 * value:.1f}%" if percent else f"{value:.3f}"
