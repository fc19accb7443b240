"""What optimizers share that ask each example once: what they learn is arithmetic on the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import dspy
import numpy as np
from dspy.teleprompt import Teleprompter

from moa_dspy.certainty import weigh_evidence
from moa_dspy.dispatch import asks_aggregator
from moa_dspy.evaluation import Metric, MetricError
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.recording.replay import separate_verdict
from moa_dspy.recording.rows import typed
from moa_dspy.strategies import Case, Unusable, fall_back

from .examples import ask_examples, check_mixture, checked_sets, keeping
from .scoring import Scored
from .votes import Votes, read_cases

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

    def read(
        self, recording: Recording, examples: Sequence[dspy.Example], *, score: bool = True, keep_all: bool = False
    ) -> tuple[Any, Any]:
        """Rows of `weigh_evidence`, and 1 where the answer is right; examples without an answer are left out.

        Without `score`, there are no gold answers, and all are 0. With `keep_all`, what has no answer is wrong.
        `MetricError`, for another score than 0 or 1, has the recording on it.
        """
        agents = self.moa.panels[-1].names

        def read_one(example: dspy.Example, row: Any, case: Case) -> tuple[list[float], float] | None:
            answer = self._answer(row, case) if case.proposals else None
            if answer is None:
                return ([1.0, 0.0, 0.0, 1.0, 0.0, 0.0, *(0.0 for _ in agents)], 0.0) if keep_all else None
            outputs, beside = answer
            evidence = weigh_evidence(case, outputs, self.moa.strategy, agents, **beside)
            return evidence, self.scored.number(example, outputs) if score else 0.0

        with keeping(recording):
            found = read_cases(self.moa, recording, examples, read_one, self.threads)
            pairs = [pair for pair in found if pair is not None]
            rows, scores = np.array([row for row, _ in pairs]), np.array([one for _, one in pairs])
            if odd := [one for one in scores if one not in (0, 1)]:
                raise MetricError(
                    f"The metric gave the score {odd[0]:g}, which says neither right (1) nor wrong (0). Say from which "
                    "score on an answer is right: lambda example, prediction: score(example, prediction) >= 0.8."
                )
        return rows, scores

    def _answer(self, row: Any, case: Case) -> tuple[Any, dict[str, Any]] | None:
        """The mixture's answer, as recorded or counted, and what is known of how it was made."""
        if asks_aggregator(self.moa):
            verdict = separate_verdict(row).verdicts.get(self.moa.strategy.name)
            if verdict is None or verdict.outputs is None:
                return None
            fallback = verdict.fallback_used or verdict.failure is not None
            return typed(verdict.outputs, case.task), {"flip_rate": verdict.flip_rate, "fallback_used": fallback}
        try:
            return fall_back(case, self.moa.strategy).outputs, {}
        except Unusable:
            return None


class FromAnswers(Teleprompter, Generic[Made]):
    """An optimizer that asks each example once and learns from the answers."""

    takes_layers = False

    def __init__(self, metric: str | Metric, concurrency: int) -> None:
        super().__init__()
        require_positive(concurrency=concurrency)
        self.metric = metric
        self.concurrency = concurrency

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

        Raises:
            ValueError: If the mixture, the examples or the scores do not fit.
            TypeError: If the student is no mixture.
            CompileInterrupted: If the answers are too few, or bear no such promise or goal, or a proposer does not
                answer. As on `RecordingInterrupted` and `MetricError`, what was answered is its `recording`.
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
