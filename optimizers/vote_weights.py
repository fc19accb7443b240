"""Vote weights learned from who was right."""

from __future__ import annotations

from dataclasses import dataclass

from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.moa import MoA
from moa_dspy.strategies import Voting
from moa_dspy.usage import Usage

from .from_answers import Asked, FromAnswers
from .reports import Report
from .votes import Votes, Weights

__all__ = ["AgentWeight", "FitVoteWeights", "WeightsReport"]


@dataclass(frozen=True)
class AgentWeight:
    """An agent's weight, and what it rests on.

    Attributes:
        agent: Its name.
        weight: What its vote counts; 0 for one that is right too seldom, as a vote cannot count against an answer.
        accuracy: How often it is right when it votes, drawn to the panel's mean.
        right: Its right votes.
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
        before: The score of the vote with the weights it had.
        after: With the fitted weights, on the valset, or on examples held out (fifths, four times).
        gain: The 95% interval of the difference, by the paired bootstrap.
        kept: Whether the compiled mixture has these weights; else it has those of the student.
        reason: The same in words.
        usage: What the proposals took, those recorded earlier included.
    """

    agents: list[AgentWeight]
    alternatives: float
    before: float
    after: float
    gain: Interval
    kept: bool
    reason: str
    usage: Usage


class FitVoteWeights(FromAnswers[MoA]):
    """Learns what each agent's vote counts, for a mixture that votes.

    Weights are `ln(k p / (1 - p))` (see `log_odds`), p being how often an agent's votes are right. Each proposer is
    asked once per example and sample; the rest is arithmetic. The weights stand in the compiled copy's
    `Voting.weights` and are saved with it. They are kept only if the vote is no worse with them on examples that they
    were not fitted to: the valset, or fifths of the trainset that are held out in turns.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right).
        alternatives: k, among how many wrong answers errors spread. None: 1 or 9, whichever votes better on examples
            held out.
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
        self, metric: str | Metric = "exact", *, alternatives: float | None = None, concurrency: int = 8
    ) -> None:
        super().__init__(metric, concurrency)
        if alternatives is not None and not 1 <= alternatives < float("inf"):
            raise ValueError(f"alternatives={alternatives}: there is at least one wrong answer. Give a number from 1.")
        self.alternatives = alternatives
        self.report: WeightsReport | None = None

    def check(self, moa: MoA) -> None:
        """Refuse a mixture that counts no votes."""
        _voting_of(moa)

    def learn(self, asked: Asked) -> MoA:
        """Fit the weights, of a copy."""
        recording = asked.ask()
        compiled = asked.student.deepcopy()
        voting, (train, val) = _voting_of(compiled), asked.count(recording)
        self.report = self._fit(train, val, [voting.weights.get(name, 1.0) for name in train.agents], recording.usage)
        if self.report.kept:
            voting.weights = {row.agent: row.weight for row in self.report.agents}
        return compiled

    def _fit(self, train: Votes, val: Votes, before: list[float], usage: Usage) -> WeightsReport:
        fitted, has_valset = Weights(train, self.alternatives), len(val.scores) > 0
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
        columns = (column.tolist() for column in (fitted.of(), fitted.accuracy, fitted.right, fitted.votes))
        found = zip(train.agents, *columns, strict=True)
        rows = [AgentWeight(name, w, p, right, round(votes)) for name, w, p, right, votes in found]
        return WeightsReport(rows, fitted.alternatives, float(old.mean()), float(new.mean()), gain, kept, reason, usage)


def _voting_of(moa: MoA) -> Voting:
    if not isinstance(moa.strategy, Voting):
        raise ValueError(
            f"This mixture's strategy is {moa.strategy.name}, which counts no votes, so weights would have no effect. "
            "Build it with strategy=Voting()."
        )
    return moa.strategy
