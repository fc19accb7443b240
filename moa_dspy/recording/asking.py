"""One question put to a mixture, or to its proposers and then to each strategy on the same proposals."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.errors import MoAError
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel, failure_of
from moa_dspy.proposers import as_aggregator
from moa_dspy.recording.identity import aggregator_fingerprint, describe_changes, identity
from moa_dspy.recording.questions import Question
from moa_dspy.recording.replay import proposal_ids, replay
from moa_dspy.recording.rows import IMPORTED, RecordedVerdict, Row, RowError, is_outage
from moa_dspy.results import Failure
from moa_dspy.secrets import redact
from moa_dspy.strategies import Case, Strategy, Verdict, as_strategy
from moa_dspy.usage import metered
from moa_dspy.values import typed_outputs

__all__ = ["Asker", "name_strategies"]


class Asker:
    """Asks one question after the other, and gives their rows.

    Args:
        moa: The mixture.
        strategies: What decides on the proposals; None asks the mixture as it is.
        others: Name -> further modules.
        force: Take what is there for this mixture's, whoever was asked.
    """

    def __init__(
        self,
        moa: MoA,
        strategies: Sequence[str | Strategy] | None = None,
        others: Mapping[str, dspy.Module] | None = None,
        force: bool = False,
    ) -> None:
        self.moa = moa
        self.force = force
        self.mixture = identity(moa)
        self.whole = strategies is None
        self.others = dict(others or {})
        self.aggregators = {
            name: moa.aggregator if strategy == moa.strategy.name else _aggregator(moa, strategy)
            for name, strategy in name_strategies(strategies or ()).items()
        }
        if taken := [name for name in self.others if name in self.aggregators]:
            raise ValueError(
                f"`others` names {taken[0]!r}, which is a strategy: their answers would stand in one place. Give it "
                "another name."
            )
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
        recorded = earlier if earlier is not None and self._has_proposals(earlier) else None
        # Nobody reads the trace of a recording, and it would keep ten thousand prompts in memory.
        with dspy.context(trace=None):
            if self.whole:
                self._answer(row, question, recorded)
            else:
                self._propose(row, question, recorded)
                row.verdicts = {} if earlier is None else self._reusable(earlier, recorded is not None)
                if row.error is None:
                    self._decide(row, question)
                self._ask_others(row, question)
        return row

    def _answer(self, row: Row, question: Question, recorded: Row | None) -> None:
        moa = self.moa if recorded is None else replay(self.moa, [recorded], ask_aggregator=True)
        try:
            prediction = moa(**question.inputs)
        except Exception as error:
            self._fail(row, error)
        else:
            row.take(prediction.metadata)
            row.outputs = dict(prediction.items())
        if recorded is not None:
            row.verdicts = recorded.verdicts
            row.calls = [*recorded.calls, *row.calls]
            row.seconds += recorded.seconds

    def _propose(self, row: Row, question: Question, recorded: Row | None) -> None:
        if recorded is not None:
            row.proposals, row.failures, row.calls = recorded.proposals, recorded.failures, recorded.calls
            row.seconds, row.agreement, row.degraded = recorded.seconds, recorded.agreement, recorded.degraded
            row.outputs = None if self._changed(recorded) else recorded.outputs
            return
        panels: Any = copy.copy(self.moa)
        panels.aggregator = Agent(program=_ProposalsOnly(), name=self.moa.aggregator.name)
        try:
            row.take(panels(**question.inputs).metadata)
        except Exception as error:
            self._fail(row, error)

    def _reusable(self, earlier: Row, same_proposals: bool) -> dict[str, RecordedVerdict]:
        """The verdicts that need not be asked for again; strategies' only on the proposals they were made on."""
        missing = self._missing(earlier)
        kept = {name: verdict for name, verdict in earlier.verdicts.items() if name not in missing}
        return {name: verdict for name, verdict in kept.items() if same_proposals or not verdict.by}

    def _decide(self, row: Row, question: Question) -> None:
        recorded = replay(self.moa, [row], ask_aggregator=True)
        for name, aggregator in self.aggregators.items():
            if name not in row.verdicts:
                mixture: Any = copy.copy(recorded)
                mixture.aggregator = aggregator
                row.verdicts[name] = self._verdict(name, mixture, question)

    def _ask_others(self, row: Row, question: Question) -> None:
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
        return not self.force and bool(describe_changes(row.mixture, self.mixture))

    def _has_proposals(self, row: Row) -> bool:
        """Whether a row holds the proposals that this mixture's panels would be asked for."""
        is_known = self.force or row.mixture == IMPORTED
        if not is_known and describe_changes(row.mixture, self.mixture, ("task", "panel")):
            return False
        return all(self._has_layer(row, panel) for panel in self.moa.panels)

    def _has_layer(self, row: Row, panel: Panel) -> bool:
        wanted = proposal_ids(panel)
        came = {one.id for one in row.proposals if one.layer == panel.layer}.intersection(wanted)
        failed = {one.id: one for one in row.failures if one.id in wanted and one.layer == panel.layer}
        if any(is_outage(failure) for failure in failed.values()) or len(came) < self.moa.limits.min_proposals:
            return False
        return came | failed.keys() >= set(wanted)

    def _missing(self, row: Row) -> list[str]:
        verdicts = {name: v for name, v in row.verdicts.items() if v.failure is None and v.by == self.by.get(name, "")}
        return [name for name in [*self.aggregators, *self.others] if name not in verdicts]


def name_strategies(strategies: Iterable[str | Strategy]) -> dict[str, str | Strategy]:
    """The names under which strategies' verdicts are recorded: `voting`, `voting 2`, ..."""
    named: dict[str, str | Strategy] = {}
    for strategy in strategies:
        name = strategy if isinstance(strategy, str) else strategy.name
        unused, number = name, 2
        while unused in named:
            unused, number = f"{name} {number}", number + 1
        named[unused] = strategy
    return named


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
