"""Vote weights learned from examples, with or without labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter
from pydantic_core import to_jsonable_python

from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.strategies import Voting
from moa_dspy.usage import Usage

from .recipes import Budget
from .scoring import Scored
from .students import ask_examples, check_mixture, checked_sets
from .votes import Votes, Weights, count_agreement, log_odds, shrink, wrong_answers

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
class WeightsReport:
    """What came of fitting.

    Attributes:
        method: `log-odds` from scores, or `agreement` without.
        agents: In declared order.
        alternatives: Among how many wrong answers errors are taken to spread; see `log_odds`.
        questions: How many examples the weights rest on.
        before: The score of the vote with the weights it had; None without scores.
        after: With the fitted weights, on the valset, or on examples held out (fifths, four times).
        gain: The 95% interval of the difference, by the paired bootstrap.
        kept: Whether the compiled mixture has these weights; else it has those of the student.
        reason: The same in words.
        usage: What the proposals took, those recorded earlier included.
    """

    method: Literal["log-odds", "agreement"]
    agents: list[AgentWeight]
    alternatives: float
    questions: int
    before: float | None
    after: float | None
    gain: Interval | None
    kept: bool
    reason: str
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        plain: dict[str, Any] = to_jsonable_python(asdict(self))
        return plain


class FitVoteWeights(Teleprompter):
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
        seed: Of the bootstrap.
        on_progress: Called with the number of examples that are finished and of all.

    Raises:
        ValueError: If a setting makes no sense.

    Attributes:
        report: Of the last compile; see `WeightsReport`.

    Example:
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
        self,
        metric: str | Metric | None = "exact",
        *,
        alternatives: float | None = None,
        concurrency: int = 8,
        seed: int = 0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__()
        if alternatives is not None and not 1 <= alternatives < float("inf"):
            raise ValueError(f"alternatives={alternatives}: there is at least one wrong answer. Give a number from 1.")
        require_positive(concurrency=concurrency)
        self.metric = metric
        self.alternatives = alternatives
        self.concurrency = concurrency
        self.seed = seed
        self.on_progress = on_progress
        self.report: WeightsReport | None = None

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most."""
        panel, examples = student.panels[0], trainset + valset
        proposals = len(panel.names) * panel.samples
        return Budget(examples * proposals, 0, f"{examples} examples x {proposals} proposals")

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        recorded: Recording | None = None,
    ) -> MoA:
        """Fit the weights.

        Args:
            student: A mixture whose strategy is `Voting`; it stays as it is.
            trainset: Examples, with gold outputs if there is a metric.
            valset: Examples on which the weights are compared with those the student has.
            recorded: An earlier recording, whole or in part, whose proposals are not asked for again.

        Returns:
            The compiled copy.

        Raises:
            ValueError: If the student does not vote, or the examples or scores do not fit.
            TypeError: If the student is no mixture.
            ProposersUnreachable: If a proposer does not answer; as on `RecordingInterrupted` at Ctrl-C and on
                `MetricError`, what was recorded is on it, as `recording`.
        """
        moa = check_mixture(student, "FitVoteWeights", layers=False)
        voting = _voting_of(moa)
        train, val = checked_sets(moa, trainset, valset, self.metric)
        scored = None if self.metric is None else Scored(self.metric, moa.signature)
        if scored is not None:
            scored.try_on_gold(train[0])
        recording = ask_examples(
            moa, [*train, *val], recorded=recorded, concurrency=self.concurrency, on_progress=self.on_progress
        )
        votes = Votes.of(moa, recording, [*train, *val], scored, self.concurrency)
        before = [voting.weights.get(name, 1.0) for name in votes.agents]
        self.report = self._fit(moa, votes, before, len(train), recording.usage)
        compiled = moa.deepcopy()
        if self.report.kept:
            _voting_of(compiled).weights = {row.agent: row.weight for row in self.report.agents}
        return compiled

    def _fit(self, moa: MoA, votes: Votes, before: list[float], trained: int, usage: Usage) -> WeightsReport:
        train, val = votes.rows(slice(None, trained)), votes.rows(slice(trained, None))
        if self.metric is None:
            alternatives = self.alternatives or wrong_answers(moa)
            right, counts = count_agreement(train)
            accuracy = shrink(right, counts)
            weights = log_odds(accuracy, alternatives)
            old = new = None
            said = "Without a metric it cannot be said whether the vote is better with them."
        else:
            fitted = Weights(train, self.alternatives)
            weights, alternatives = fitted.of(), fitted.alternatives
            accuracy, right, counts = fitted.accuracy, fitted.right, fitted.votes
            judged = val if len(val.scores) else train
            old = judged.score(before)
            new = val.score(weights) if len(val.scores) else fitted.score_held_out()
            said = ""
        rows = [
            AgentWeight(name, float(w), float(p), float(r), round(float(n)))
            for name, w, p, r, n in zip(votes.agents, weights, accuracy, right, counts, strict=True)
        ]
        kept, gain = True, None
        if old is not None and new is not None:
            kept, gain = bool(new.mean() >= old.mean() - 1e-9), difference_interval(new, old, seed=self.seed)
            where = f"On the {len(new)} examples of the valset" if len(val.scores) else "On examples held out"
            said = (
                f"{where} the vote scores {new.mean():.3f} with them and {old.mean():.3f} with the weights it had "
                f"({new.mean() - old.mean():+.3f}, 95% {gain.low:+.3f} to {gain.high:+.3f}): "
                f"{'they are kept' if kept else 'the weights stay as they were'}."
            )
        return WeightsReport(
            method="agreement" if self.metric is None else "log-odds",
            agents=rows,
            alternatives=alternatives,
            questions=trained,
            before=None if old is None else float(old.mean()),
            after=None if new is None else float(new.mean()),
            gain=gain,
            kept=kept,
            reason=f"Fitted on {trained} examples. {said}",
            usage=usage,
        )


def _voting_of(moa: MoA) -> Voting:
    if not isinstance(moa.strategy, Voting):
        raise ValueError(
            f"This mixture's strategy is {moa.strategy.name}, which counts no votes, so weights would have no effect. "
            "Build it with strategy=Voting()."
        )
    return moa.strategy
