"""Asking one question: to a mixture as it is, or to its proposers and then to each strategy on the same proposals."""

from __future__ import annotations

import copy
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.errors import MoAError
from moa_dspy.meter import metered
from moa_dspy.moa import MoA
from moa_dspy.panel import failure_of, proposal_ids
from moa_dspy.proposers import as_aggregator
from moa_dspy.recording.budget import Estimate, estimate_questions
from moa_dspy.recording.identity import PANEL, aggregator_fingerprint, describe_changes, identity
from moa_dspy.recording.replay import replay, separate_verdict
from moa_dspy.recording.rows import IMPORTED, RecordedVerdict, Row, RowError, failures_of, is_outage
from moa_dspy.results import Failure
from moa_dspy.rollouts import resample
from moa_dspy.secrets import redact
from moa_dspy.strategies import Case, Strategy, Verdict, as_strategy
from moa_dspy.usage import LMCall
from moa_dspy.values import typed_outputs

__all__ = ["Asker", "aggregator_for", "decide", "name_strategies", "unused_name", "with_aggregator"]


class Asker:
    """Asks one question after the other, and gives their rows; for arguments as those of `record`."""

    def __init__(
        self,
        moa: MoA,
        strategies: Sequence[str | Strategy] | None = None,
        others: Mapping[str, dspy.Module] | None = None,
        force: bool = False,
        retry_degraded: bool = False,
    ) -> None:
        self.moa, self.force, self.retry_degraded = moa, force, retry_degraded
        self.mixture = identity(moa)
        self.whole = strategies is None
        self.others = dict(others or {})
        named = name_strategies(strategies or ())
        self.aggregators = {name: aggregator_for(moa, strategy) for name, strategy in named.items()}
        if taken := [name for name in self.others if name in self.aggregators]:
            raise ValueError(
                f"`others` names {taken[0]!r}, which is a strategy: their answers would stand in one place. Give it "
                "another name."
            )
        self.by = {name: aggregator_fingerprint(aggregator) for name, aggregator in self.aggregators.items()}
        self.by |= dict.fromkeys(self.others, "")

    @property
    def agents(self) -> list[Agent]:
        """Whoever may be asked."""
        judges = [self.moa.aggregator] if self.whole else self.aggregators.values()
        others = [other for other in self.others.values() if isinstance(other, Agent)]
        return [*self.moa.agents[:-1], *(judge for judge in judges if judge.lm is not None), *others]

    def estimate(self, questions: Sequence[Row]) -> Estimate:
        """What these questions will take."""
        judges = None if self.whole else self.aggregators.values()
        return estimate_questions(self.moa, questions, judges, self.others.values())

    def is_complete(self, question: Row, row: Row | None) -> bool:
        """Whether a row holds all that is asked of a question, without a failure that another try may mend."""
        if row is None or row.error is not None or not row.is_of(question):
            return False
        if self.retry_degraded and (row.degraded or any(True for _ in failures_of(row))):
            return False
        if self.whole:
            return row.outputs is not None and not self._has_changed(row)
        return self._has_proposals(row) and self._reusable(row).keys() >= self.by.keys()

    def answer(self, question: Row, earlier: Row | None = None) -> tuple[Row, list[LMCall]]:
        """Ask a question; what an earlier row of it holds is not asked again, and what was paid for that is kept.

        Returns:
            The row, and the calls that were made now.
        """
        usable = earlier if earlier is not None and earlier.is_of(question) else None
        with dspy.context(trace=None):  # nobody reads it, and it would keep ten thousand prompts in memory
            row = self._ask(question, usable)
        before = [] if earlier is None else earlier.paid
        calls = _without(row.paid, before)
        row.earlier_calls = [*row.earlier_calls, *_without(before, row.paid)]
        return row, calls

    def fail(self, question: Row, earlier: Row | None, error: Exception, calls: Sequence[LMCall]) -> Row:
        """The row of a question that was lost under way: what was known of it, and the calls it may have taken."""
        if earlier is not None and earlier.is_of(question):
            row = earlier.model_copy(update={"earlier_calls": [*earlier.earlier_calls, *calls]})
        else:
            row, earlier_calls = self._start(question, None), [] if earlier is None else earlier.paid
            row.earlier_calls = [*earlier_calls, *calls]
            earlier = None
        if earlier is None or earlier.error is not None:
            row.error = RowError(type=type(error).__name__, message=str(error))
        return row

    def unfinished(self) -> list[LMCall]:
        """The calls of a question of which nobody knows how far it came."""
        samples = [agent for panel in self.moa.panels for agent in panel.agents * (panel.samples - 1)]
        return [LMCall(agent=one.name, model=one.model or "", error="Unfinished") for one in self.agents + samples]

    def _ask(self, question: Row, earlier: Row | None) -> Row:
        failures = [] if earlier is None else list(failures_of(earlier))
        failed = {failure.agent for failure in failures}  # they are asked past the cache
        recorded = earlier if earlier is not None and self._has_proposals(earlier) else None
        if self.retry_degraded and any(failure.id is not None for failure in failures):
            recorded = None
        verdicts = {} if earlier is None else self._reusable(earlier)
        row, asked = self._start(question, recorded), _past_cache(self.moa, failed)
        if self.whole:
            asked = asked if recorded is None else replay(asked, [recorded], ask_aggregator=True)
            row.outputs = self._call(asked, row, question)
            return row
        if recorded is None:  # a strategy's verdict is one on the proposals that it was made on
            verdicts = {name: verdict for name, verdict in verdicts.items() if not verdict.by}
            panels = with_aggregator(asked, Agent(program=_ProposalsOnly(), name=self.moa.aggregator.name))
            self._call(panels, row, question)
        row.verdicts = verdicts
        replayed = replay(self.moa, [row], ask_aggregator=True)
        for name, aggregator in self.aggregators.items():
            if name not in row.verdicts and row.error is None:
                judged = with_aggregator(replayed, aggregator)
                judged.aggregator = _uncached(aggregator) if aggregator.name in failed else aggregator
                row.verdicts[name] = decide(judged, question.typed_inputs, self.by[name])
        for name, module in self.others.items():
            if name not in row.verdicts:
                fresh = _uncached(module) if name in failed and isinstance(module, Agent) else module
                row.verdicts[name] = self._ask_other(name, fresh, question)
        return row

    def _start(self, question: Row, recorded: Row | None) -> Row:
        asked = {name: getattr(question, name) for name in ("id", "inputs", "gold", "extra")}
        if recorded is None:
            return Row(mixture=self.mixture, **asked)
        row = (recorded if self.whole else separate_verdict(recorded)).model_copy(update=asked)
        row.outputs = None if self._has_changed(recorded) else recorded.outputs
        row.mixture, row.error, row.batch = self.mixture, None, None
        return row

    def _call(self, moa: MoA, row: Row, question: Row) -> dict[str, Any] | None:
        """The mixture's answer; what happened is entered in the row."""
        outputs = None
        try:
            prediction = moa(**question.typed_inputs)
            outputs, account = dict(prediction.items()), prediction.metadata
        except Exception as error:
            message = redact(str(error), *(agent.lm for agent in self.moa.agents), dspy.settings.lm)
            row.error = RowError(type=type(error).__name__, message=message)
            if not isinstance(error, MoAError):
                return None
            account = error.metadata
        row.proposals, row.failures, row.calls = account.all_proposals, account.failures, [*row.calls, *account.calls]
        row.seconds += account.seconds
        for name in ("agreement", "degraded", "stopped_early", "confidence", "abstained"):
            setattr(row, name, getattr(account, name))
        return outputs

    def _ask_other(self, name: str, module: dspy.Module, question: Row) -> RecordedVerdict:
        started, failed, outputs, sure = time.perf_counter(), None, None, None
        with metered(name) as meter:
            try:
                prediction = module(**question.typed_inputs)
                outputs = typed_outputs(prediction, self.moa.signature)
                sure = getattr(getattr(prediction, "metadata", None), "confidence", None)
            except Exception as error:
                failed = Failure(agent=name, error=type(error).__name__, message=redact(str(error))[:500])
        seconds = time.perf_counter() - started
        return RecordedVerdict(outputs=outputs, confidence=sure, failure=failed, calls=meter.calls(), seconds=seconds)

    def _has_changed(self, row: Row) -> bool:
        return not self.force and bool(describe_changes(row.mixture, self.mixture))

    def _has_proposals(self, row: Row) -> bool:
        """Whether a row holds the proposals that this mixture's panels would be asked for."""
        is_known = self.force or row.mixture == IMPORTED
        if not is_known and describe_changes(row.mixture, self.mixture, PANEL):
            return False
        for panel in self.moa.panels:
            wanted = set(proposal_ids(panel))
            came = {one.id for one in row.proposals if one.layer == panel.layer} & wanted
            failed = [one for one in row.failures if one.layer == panel.layer and one.id in wanted]
            if len(came) < self.moa.limits.min_proposals or any(is_outage(failure) for failure in failed):
                return False
            if came | {failure.id for failure in failed} != wanted:
                return False
        return True

    def _reusable(self, row: Row) -> dict[str, RecordedVerdict]:
        """A row's verdicts without those that are to be asked for again: failed, or of another aggregator."""
        return {
            name: verdict
            for name, verdict in separate_verdict(row).verdicts.items()
            if name not in self.by or (verdict.failure is None and verdict.by == self.by[name])
        }


def _without(calls: Iterable[LMCall], others: Iterable[LMCall]) -> list[LMCall]:
    """The calls that are none of the others: not their like, but they themselves."""
    known = {id(call) for call in others}
    return [call for call in calls if id(call) not in known]


def _past_cache(moa: MoA, agents: Collection[str]) -> MoA:
    """The mixture, these agents of which DSPy's cache does not answer: it may hold what could not be read."""
    if not agents:
        return moa
    fresh: Any = copy.copy(moa)
    for place, panel in zip(moa.panel_names, moa.panels, strict=True):
        copied = copy.copy(panel)
        for agent in panel.agents:
            if agent.name in agents:
                setattr(copied, agent.name, _uncached(agent))
        setattr(fresh, place, copied)
    if moa.aggregator.name in agents:
        fresh.aggregator = _uncached(moa.aggregator)
    return fresh


def _uncached(agent: Agent) -> Agent:
    lm = agent.lm or (dspy.settings.lm if agent.asks_ambient_lm else None)
    fresh = agent.with_program(agent.program)
    if lm is not None:
        fresh.lm = resample(lm, None, cache=False)
    return fresh


def decide(moa: MoA, inputs: Mapping[str, Any], by: str) -> RecordedVerdict:
    """What a mixture answers on replayed proposals, as the verdict of its strategy."""
    failure, outputs = None, None
    try:
        prediction = moa(**inputs)
        outputs, account = dict(prediction.items()), prediction.metadata
        if account.fallback_used:
            failure = next((one for one in account.failures if one.agent == moa.aggregator.name), None)
    except MoAError as error:
        account, failure = error.metadata, failure_of(moa.aggregator, error.__cause__ or error, 0.0)
    same = ("selected", "flip_rate", "fallback_used", "calls", "seconds")
    return RecordedVerdict(by=by, outputs=outputs, failure=failure, **{name: getattr(account, name) for name in same})


def aggregator_for(moa: MoA, strategy: str | Strategy) -> Agent:
    """A mixture's aggregator, running this strategy.

    Raises:
        ValueError: If the strategy needs an LM and there is none.
    """
    if strategy == moa.strategy.name:
        return moa.aggregator
    bound, lm = as_strategy(strategy), moa.aggregator.lm
    if bound.needs_aggregator and lm is None and dspy.settings.lm is None:
        raise ValueError(
            f"The strategy {bound.name!r} needs an aggregator, and there is none. Give the mixture one, or configure "
            "one for all: dspy.configure(lm=...)."
        )
    bound.has_aggregator = bound.needs_aggregator or lm is not None
    bound.bind(moa.signature, moa.panels[0].names)
    return as_aggregator(lm, bound)


def with_aggregator(moa: MoA, aggregator: Agent) -> MoA:
    """A copy with this aggregator; how sure an answer is, is known of the mixture's own only."""
    mixture: Any = copy.copy(moa)
    mixture.aggregator = aggregator
    if aggregator is not moa.aggregator:
        mixture.drop_calibration()
    return mixture


def name_strategies(strategies: Iterable[str | Strategy]) -> dict[str, str | Strategy]:
    """The names under which strategies' verdicts are recorded: `voting`, `voting 2`, ..."""
    named: dict[str, str | Strategy] = {}
    for strategy in strategies:
        named[unused_name(strategy if isinstance(strategy, str) else strategy.name, named)] = strategy
    return named


def unused_name(name: str, taken: Collection[str]) -> str:
    """The name, numbered if it is taken: `voting 2`."""
    unused, number = name, 2
    while unused in taken:
        unused, number = f"{name} {number}", number + 1
    return unused


class _ProposalsOnly(Strategy):
    """Decides nothing: the first proposal stands in for an answer that nobody reads."""

    name = "proposals"

    def decide(self, case: Case) -> Verdict:
        return Verdict(case.proposals[0].outputs)
