"""Vote weights learned from who was right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.moa import MoA
from moa_dspy.strategies import Selection, Voting
from moa_dspy.usage import Usage

from .from_answers import Asked, FromAnswers
from .reports import Report
from .verifiers import Verified, VerifierWeights
from .votes import Weights

__all__ = ["AgentWeight", "FitVoteWeights", "WeightsReport"]


@dataclass(frozen=True)
class AgentWeight:
    """An agent's weight, and what it rests on.

    Attributes:
        agent: Its name; a verifier's, of a selection.
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
    """Learns what each agent's vote counts, for a mixture that votes; or each verifier's score, for a selection.

    Weights are `ln(k p / (1 - p))` (see `log_odds`), p being how often an agent's votes are right. Each proposer is
    asked once per example and sample; the rest is arithmetic. The weights stand in the compiled copy's
    `Voting.weights` and are saved with it. They are kept only if the vote is no worse with them on examples that they
    were not fitted to: the valset, or fifths of the trainset that are held out in turns. Verifiers are asked about
    each recorded proposal; see `VerifierWeights` for their weights, which stand in `Selection.verifier_weights`.

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
        """Refuse a mixture that weighs nothing."""
        _weighted(moa)

    def learn(self, asked: Asked) -> MoA:
        """Fit the weights, of a copy."""
        recording, compiled = asked.ask(), asked.student.deepcopy()
        strategy = _weighted(compiled)
        if isinstance(strategy, Selection):
            verified, spent = Verified.of(asked, recording)
            train, val = verified.rows(slice(len(asked.train))), verified.rows(slice(len(asked.train), None))
            fitted: Any = VerifierWeights(train)
            self.report = self._report(fitted, train, val, strategy.verifier_weights, recording.usage + spent)
            if self.report.kept:
                strategy.verifier_weights = [row.weight for row in self.report.agents]
            return compiled
        votes, unseen = asked.count(recording)
        before = [strategy.weights.get(name, 1.0) for name in votes.agents]
        self.report = self._report(Weights(votes, self.alternatives), votes, unseen, before, recording.usage)
        if self.report.kept:
            strategy.weights = {row.agent: row.weight for row in self.report.agents}
        return compiled

    def _report(self, fitted: Any, train: Any, val: Any, before: list[float], usage: Usage) -> WeightsReport:
        has_valset = len(val.scores) > 0
        old = (val if has_valset else train).score(before)
        new = val.score(fitted.of()) if has_valset else fitted.score_held_out()
        difference, gain = new.mean() - old.mean(), difference_interval(new, old)
        kept = bool(difference >= -1e-9)
        where = f"On the {len(new)} examples of the valset" if has_valset else "On examples held out"
        reason = (
            f"Fitted on {len(train.scores)} examples. {where} the answer scores {new.mean():.3f} with them and "
            f"{old.mean():.3f} with the weights it had ({difference:+.3f}, 95% {gain.low:+.3f} to {gain.high:+.3f}): "
            f"{'they are kept' if kept else 'the weights stay as they were'}."
        )
        columns = (column.tolist() for column in (fitted.of(), fitted.accuracy, fitted.right, fitted.votes))
        found = zip(train.agents, *columns, strict=True)
        rows = [AgentWeight(name, w, p, right, round(votes)) for name, w, p, right, votes in found]
        return WeightsReport(rows, fitted.alternatives, float(old.mean()), float(new.mean()), gain, kept, reason, usage)


def _weighted(moa: MoA) -> Voting | Selection:
    """The strategy, if it has weights."""
    strategy = moa.strategy
    if isinstance(strategy, Voting) or (isinstance(strategy, Selection) and strategy.verifiers):
        return strategy
    raise ValueError(
        f"This mixture's strategy is {strategy.name}, which counts no votes and has no verifiers: weights would have "
        "no effect. Build it with strategy=Voting(), or Selection(verifiers=[...])."
    )
