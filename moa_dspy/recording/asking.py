"""One question put to a mixture, or to its proposers and then to each strategy on the same proposals."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.errors import MoAError
from moa_dspy.moa import MoA
from moa_dspy.secrets import redact
from moa_dspy.panel import failure_of
from moa_dspy.proposers import as_aggregator
from moa_dspy.recording.identity import aggregator_fingerprint, identity, part_of
from moa_dspy.recording.questions import Question
from moa_dspy.recording.replay import replay
from moa_dspy.recording.rows import IMPORTED, RecordedVerdict, Row, RowError, is_outage
from moa_dspy.results import Failure
from moa_dspy.strategies import Case, Strategy, Verdict, as_strategy
from moa_dspy.usage import metered
from moa_dspy.values import typed_outputs

__all__ = ["Asker"]


class Asker:
    """Asks one question after the other, and gives their rows.

    Args:
        moa: The mixture.
        strategies: What decides on the proposals; None asks the mixture as it is.
        others: Name -> further modules.
    """

    def __init__(
        self,
        moa: MoA,
        strategies: Sequence[str | Strategy] | None = None,
        others: Mapping[str, dspy.Module] | None = None,
    ) -> None:
        self.moa = moa
        self.mixture = identity(moa)
        self.whole = strategies is None
        self.others = dict(others or {})
        self.aggregators: dict[str, Agent] = {}
        for strategy in strategies or ():
            name = strategy if isinstance(strategy, str) else strategy.name
            aggregator = moa.aggregator if strategy == moa.strategy.name else _aggregator(moa, strategy)
            self.aggregators[_unused(name, self.aggregators)] = aggregator
        self.by = {name: aggregator_fingerprint(aggregator) for name, aggregator in self.aggregators.items()}

    @property
    def asks_aggregator(self) -> bool:
        """Whether an LM beside the proposers is asked."""
        agents = [self.moa.aggregator] if self.whole else list(self.aggregators.values())
        return any(agent.lm is not None for agent in agents)

    def is_complete(self, row: Row | None) -> bool:
        """Whether a row holds all that was asked for, without a failure that another try may mend."""
        if row is None or row.error is not None:
            return False
        if self.whole:
            return row.outputs is not None and not self._changed(row)
        return self._has_proposals(row) and not self._missing(row)

    def ask(self, question: Question, earlier: Row | None = None) -> Row:
        """Ask a question; what an earlier row holds of it is not asked again.

        Raises:
            ValueError: As the mixture does for inputs of a wrong shape.
        """
        row = Row(id=question.id, mixture=self.mixture, inputs=question.given, gold=question.gold, extra=question.extra)
        # Nobody reads the trace of a recording, and it would keep ten thousand prompts in memory.
        with dspy.context(trace=None):
            if self.whole:
                self._answer(row, question)
            else:
                self._propose(row, question, earlier)
                if row.error is None:
                    self._decide(row, question)
        return row

    def _answer(self, row: Row, question: Question) -> None:
        try:
            prediction = self.moa(**question.inputs)
        except Exception as error:
            self._fail(row, error)
        else:
            row.take(prediction.metadata)
            row.outputs = dict(prediction.items())

    def _propose(self, row: Row, question: Question, earlier: Row | None) -> None:
        if earlier is not None and self._has_proposals(earlier):
            row.proposals, row.failures, row.calls = earlier.proposals, earlier.failures, earlier.calls
            row.seconds, row.agreement, row.degraded = earlier.seconds, earlier.agreement, earlier.degraded
            kept = {name: v for name, v in earlier.verdicts.items() if v.by == self.by.get(name, "")}
            row.verdicts = {name: verdict for name, verdict in kept.items() if verdict.failure is None}
            return
        panels: Any = copy.copy(self.moa)
        panels.aggregator = Agent(program=_ProposalsOnly(), name=self.moa.aggregator.name)
        try:
            row.take(panels(**question.inputs).metadata)
        except Exception as error:
            self._fail(row, error)

    def _decide(self, row: Row, question: Question) -> None:
        recorded = replay(self.moa, [row], ask_aggregator=True)
        for name, aggregator in self.aggregators.items():
            if name not in row.verdicts:
                mixture: Any = copy.copy(recorded)
                mixture.aggregator = aggregator
                row.verdicts[name] = self._verdict(name, mixture, question)
        for name, module in self.others.items():
            if name not in row.verdicts:
                row.verdicts[name] = self._ask_other(name, module, question)

    def _verdict(self, name: str, mixture: MoA, question: Question) -> RecordedVerdict:
        started = time.perf_counter()
        try:
            prediction = mixture(**question.inputs)
        except MoAError as error:
            failure = failure_of(mixture.aggregator, error.__cause__ or error, 0.0)
            return RecordedVerdict(
                by=self.by[name],
                outputs=None,
                failure=failure,
                calls=error.metadata.calls,
                seconds=time.perf_counter() - started,
            )
        account = prediction.metadata
        own = [failure for failure in account.failures if failure.agent == mixture.aggregator.name]
        return RecordedVerdict(
            by=self.by[name],
            outputs=dict(prediction.items()),
            selected=account.selected,
            failure=own[0] if account.fallback_used and own else None,
            fallback_used=account.fallback_used,
            calls=account.calls,
            seconds=account.seconds,
        )

    def _ask_other(self, name: str, module: dspy.Module, question: Question) -> RecordedVerdict:
        started, failed, outputs = time.perf_counter(), None, None
        with metered(name) as meter:
            try:
                outputs = typed_outputs(module(**question.inputs), self.moa.signature)
            except Exception as error:
                failed = Failure(agent=name, error=type(error).__name__, message=redact(str(error))[:500])
        return RecordedVerdict(
            outputs=outputs, failure=failed, calls=meter.calls(), seconds=time.perf_counter() - started
        )

    def _fail(self, row: Row, error: Exception) -> None:
        if isinstance(error, MoAError):
            row.take(error.metadata)
        message = redact(str(error), *(agent.lm for agent in self.moa.agents), dspy.settings.lm)
        row.error = RowError(type=type(error).__name__, message=message)

    def _changed(self, row: Row) -> bool:
        return any(
            part_of(row.mixture, part) != part_of(self.mixture, part) for part in ("task", "panel", "aggregator")
        )

    def _has_proposals(self, row: Row) -> bool:
        """Whether a row holds the proposals that this mixture's panels would be asked for."""
        if row.mixture != IMPORTED and any(
            part_of(row.mixture, part) != part_of(self.mixture, part) for part in ("task", "panel")
        ):
            return False
        panel = self.moa.panels[0]
        wanted = {n if k == 1 else f"{n}#{k}" for n in panel.names for k in range(1, panel.samples + 1)}
        return wanted <= set(row.asked) and not any(is_outage(f) for f in row.failures if f.id is not None)

    def _missing(self, row: Row) -> list[str]:
        verdicts = {name: v for name, v in row.verdicts.items() if v.failure is None and v.by == self.by.get(name, "")}
        return [name for name in [*self.aggregators, *self.others] if name not in verdicts]


class _ProposalsOnly(Strategy):
    """Decides nothing: the first proposal stands in for an answer that nobody reads."""

    name = "proposals"

    def decide(self, case: Case) -> Verdict:
        return Verdict(case.proposals[0].outputs)


def _aggregator(moa: MoA, strategy: str | Strategy) -> Agent:
    bound = as_strategy(strategy)
    bound.has_aggregator = bound.needs_aggregator or moa.aggregator.lm is not None
    bound.bind(moa.signature, moa.panels[0].names)
    return as_aggregator(moa.aggregator.lm, bound)


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    unused, number = name, 2
    while unused in taken:
        unused, number = f"{name} {number}", number + 1
    return unused
