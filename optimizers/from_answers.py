"""What optimizers share that ask each example once: what they learn is arithmetic on the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.cascade import asks_aggregator
from moa_dspy.evaluation import Metric
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording

from .examples import ask_examples, check_mixture, checked_sets
from .recipes import Budget, count_rotations
from .scoring import Scored
from .votes import Votes

__all__ = ["Asked", "FromAnswers"]

Made = TypeVar("Made")


@dataclass(frozen=True)
class Asked:
    """A mixture and examples that were checked; `moa` is a copy without a calibration, which is of what was."""

    student: MoA
    moa: MoA
    train: Sequence[dspy.Example]
    val: Sequence[dspy.Example]
    scored: Scored
    recorded: Recording | None
    threads: int

    def ask(self, verdicts: bool = False) -> Recording:
        """The answers of the proposers; with `verdicts`, those of an aggregator too."""
        self.scored.try_on_gold(self.train[0])
        named = [self.moa.strategy.name] if verdicts and asks_aggregator(self.moa) else []
        settings: Any = {"recorded": self.recorded, "concurrency": self.threads, "strategies": named}
        return ask_examples(self.moa, [*self.train, *self.val], **settings)

    def count(self, recording: Recording) -> tuple[Votes, Votes]:
        """The votes on the trainset and on the valset."""
        votes = Votes.of(self.moa, recording, [*self.train, *self.val], self.scored, self.threads)
        return votes.rows(slice(None, len(self.train))), votes.rows(slice(len(self.train), None))


class FromAnswers(Teleprompter, Generic[Made]):
    """An optimizer that asks each example once and learns from the answers."""

    takes_layers = False

    def __init__(self, metric: str | Metric, concurrency: int) -> None:
        super().__init__()
        require_positive(concurrency=concurrency)
        self.metric = metric
        self.concurrency = concurrency

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most."""
        calls = sum(len(panel.names) * panel.samples for panel in student.panels)
        calls += count_rotations(student.strategy) if asks_aggregator(student) else 0
        return Budget((trainset + valset) * calls, 0, f"{trainset + valset} examples x {calls} calls")

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: dspy.Module,
        *,
        trainset: Sequence[dspy.Example],
        valset: Sequence[dspy.Example] | None = None,
        recorded: Recording | None = None,
    ) -> Made:
        """Ask the examples, and learn.

        Args:
            student: The mixture; it stays as it is.
            trainset: Examples with gold outputs; 200 bear most promises.
            valset: Examples to judge on what was learned; without, parts of the trainset are held out in turns.
            recorded: An earlier recording, whole or in part, that is not asked for again.

        Returns:
            What was made of a copy of the mixture; see the class.

        Raises:
            ValueError: If the mixture, the examples or the scores do not fit.
            TypeError: If the student is no mixture.
            CompileInterrupted: If the answers are too few, or bear no such promise or goal (the reason says what
                would), or (`ProposersUnreachable`) a proposer does not answer. What was recorded is on it, as
                `recording`, for `recorded=`; so it is on `RecordingInterrupted` at Ctrl-C and on `MetricError`.
        """
        mixture = check_mixture(student, type(self).__name__, layers=self.takes_layers)
        self.check(mixture)
        train, val = checked_sets(mixture, trainset, valset, self.metric)
        scored = Scored(self.metric, mixture.signature)
        moa = mixture.deepcopy()
        moa.drop_calibration()
        return self.learn(Asked(mixture, moa, train, val, scored, recorded, self.concurrency))

    def check(self, moa: MoA) -> None:
        """Refuse a mixture that there is nothing to learn for."""

    def learn(self, asked: Asked) -> Made:
        """Ask, and make what is returned."""
        raise NotImplementedError
