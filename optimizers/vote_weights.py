"""Vote weights learned from examples, with or without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.moa import MoA
from moa_dspy.strategies import Voting
from moa_dspy.usage import Usage

from .from_answers import Asked, FromAnswers, Report
from .recipes import Budget
from .votes import OPEN, Votes, Weights, count_agreement, log_odds, shrink

__all__ = ["AgentWeight", "FitVoteWeights", "WeightsReport"]


@dataclass(frozen=True)
class AgentWeight:
    """An agent's weight, and what it rests on.

    Attributes:
        agent: Its name.
        weight: What its vote counts; 0 for one that is right too seldom, as a vote cannot count against an answer.
        accuracy: How often it is right when it votes, drawn to the panel's mean.
        right: Its right votes; without labels, those that agree with the vote of the others.
        votes: Its votes; it abstained or failed on the rest.
    """

    agent: str
    weight: float
    accuracy: float
    right: float
    votes: int


@dataclass(frozen=True)
class WeightsReport(Report):
    """What came of fitting.

    Attributes:
        agents: In declared order.
        alternatives: Among how many wrong answers errors are taken to spread; see `log_odds`.
        before: The score of the vote with the weights it had; None without a metric.
        after: With the fitted weights, on the valset, or on examples held out (fifths, four times).
        gain: The 95% interval of the difference, by the paired bootstrap.
        kept: Whether the compiled mixture has these weights; else it has those of the student.
        reason: The same in words.
        usage: What the proposals took, those recorded earlier included.
    """

    agents: list[AgentWeight]
    alternatives: float
    before: float | None
    after: float | None
    gain: Interval | None
    kept: bool
    reason: str
    usage: Usage


class FitVoteWeights(FromAnswers[MoA]):
    """Learns what each agent's vote counts, for a mixture that votes.

    With a metric, weights are `ln(k p / (1 - p))` (see `log_odds`), p being how often an agent's votes are right.
    Without one, p is how often an agent agrees with the vote of all the others, which needs no gold outputs, and is
    led astray where agents share their mistakes.

    Each proposer is asked once per example and sample; the rest is arithmetic. The weights stand in the compiled
    copy's `Voting.weights` and are saved with it. With a metric they are kept only if the vote is no worse with them
    on examples that they were not fitted to: the valset, or fifths of the trainset that are held out in turns.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right); None for examples without labels.
        alternatives: k, among how many wrong answers errors spread. None: with a metric 1 or 9, whichever votes
            better on examples held out; without, what the type says (1 for a bool), and 9 for open answers.
        concurrency: Examples under way at once; each asks its proposers side by side.

    Raises:
        ValueError: If a setting makes no sense.

    Attributes:
        report: Of the last compile; see `WeightsReport`.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> names = ["alice", "bob", "carol"]
        >>> moa = MoA("question -> answer", [f"simulated/{name}" for name in names], strategy="voting")
        >>> optimizer = FitVoteWeights("exact")
        >>> weighted = optimizer.compile(moa, trainset=bundled_questions())
        >>> [(row.agent, row.right, row.votes) for row in optimizer.report.agents]
        [('alice', 85.0, 120), ('bob', 81.0, 120), ('carol', 84.0, 120)]
    """

    def __init__(
        self, metric: str | Metric | None = "exact", *, alternatives: float | None = None, concurrency: int = 8
    ) -> None:
        super().__init__(metric, concurrency)
        if alternatives is not None and not 1 <= alternatives < float("inf"):
            raise ValueError(f"alternatives={alternatives}: there is at least one wrong answer. Give a number from 1.")
        self.alternatives = alternatives
        self.report: WeightsReport | None = None

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most."""
        panel, examples = student.panels[0], trainset + valset
        proposals = len(panel.names) * panel.samples
        return Budget(examples * proposals, 0, f"{examples} examples x {proposals} proposals")

    def check(self, moa: MoA) -> None:
        """Refuse a mixture that counts no votes."""
        _voting_of(moa)

    def learn(self, asked: Asked) -> MoA:
        """Fit the weights, of a copy."""
        moa, recording = asked.student, asked.ask()
        fitted, val = asked.count(recording)
        if self.metric is None:
            self.report = self._agree(moa, fitted, recording.usage)
        else:
            before = [_voting_of(moa).weights.get(name, 1.0) for name in fitted.agents]
            self.report = self._fit(fitted, val, before, recording.usage)
        compiled = moa.deepcopy()
        if self.report.kept:
            _voting_of(compiled).weights = {row.agent: row.weight for row in self.report.agents}
        return compiled

    def _agree(self, moa: MoA, votes: Votes, usage: Usage) -> WeightsReport:
        alternatives = self.alternatives or _count_wrong_answers(moa)
        agreed, compared = count_agreement(votes)
        accuracy = shrink(agreed, compared)
        rows = _list_rows(votes.agents, log_odds(accuracy, alternatives), accuracy, agreed, compared)
        reason = (
            f"Fitted to the agreement on {len(votes.scores)} examples. Without a metric it cannot be said whether the "
            "vote is better with them."
        )
        return WeightsReport(rows, alternatives, None, None, None, True, reason, usage)

    def _fit(self, train: Votes, val: Votes, before: list[float], usage: Usage) -> WeightsReport:
        fitted = Weights(train, self.alternatives)
        has_valset = len(val.scores) > 0
        old = (val if has_valset else train).score(before)
        new = val.score(fitted.of()) if has_valset else fitted.score_held_out()
        difference, gain = new.mean() - old.mean(), difference_interval(new, old)
        kept = bool(difference >= -1e-9)
        where = f"On the {len(new)} examples of the valset" if has_valset else "On examples held out"
        reason = (
            f"Fitted on {len(train.scores)} examples. {where} the vote scores {new.mean():.3f} with them and "
            f"{old.mean():.3f} with the weights it had ({difference:+.3f}, 95% {gain.low:+.3f} to {gain.high:+.3f}): "
            f"{'they are kept' if kept else 'the weights stay as they were'}."
        )
        rows = _list_rows(train.agents, fitted.of(), fitted.accuracy, fitted.right, fitted.votes)
        after = float(new.mean())
        return WeightsReport(rows, fitted.alternatives, float(old.mean()), after, gain, kept, reason, usage)


def _list_rows(agents: Sequence[str], *columns: Any) -> list[AgentWeight]:
    rows = zip(agents, *columns, strict=True)
    return [AgentWeight(name, float(w), float(p), float(right), round(float(n))) for name, w, p, right, n in rows]


def _voting_of(moa: MoA) -> Voting:
    if not isinstance(moa.strategy, Voting):
        raise ValueError(
            f"This mixture's strategy is {moa.strategy.name}, which counts no votes, so weights would have no effect. "
            "Build it with strategy=Voting()."
        )
    return moa.strategy


def _count_wrong_answers(moa: MoA) -> float:
    """How many wrong answers there are to a question, as far as the type of what is voted on says it."""
    ballot = _voting_of(moa).ballot
    fields: Any = () if ballot is None else ballot.fields
    kind: Any = moa.signature.output_fields[fields[0]].annotation if len(fields) == 1 else None
    if kind is bool:
        return 1.0
    return max(1.0, len(get_args(kind)) - 1.0) if get_origin(kind) is Literal else OPEN
