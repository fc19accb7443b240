"""A layer of agents that answer in parallel."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.allowance import ALLOWANCE, Allowance
from moa_dspy.concurrency import Batch, Call, Outcome, Steps, adrive, drive
from moa_dspy.limits import Limits
from moa_dspy.meter import Meter
from moa_dspy.rendering import SHORTEST, Rendering, escape_inputs, limit_for, render, seed_of
from moa_dspy.results import Failure, Proposal
from moa_dspy.rollouts import Rollout, ask_again, sample_rollout
from moa_dspy.secrets import Keyless, scrub
from moa_dspy.signatures import PROPOSALS, REASONING, for_role, proposal_signature
from moa_dspy.usage import LMCall, cut_by
from moa_dspy.values import check_showable, outputs_of, typed_outputs

__all__ = ["KEPT", "Panel", "Round", "failure_of", "proposal_ids", "tell_late"]

KEPT: ContextVar[tuple[object, Sequence[Proposal]] | None] = ContextVar("kept", default=None)
"""A mixture, and what its first layer need not be asked for: an earlier stage of a cascade has asked."""

IsDecided = Callable[[Sequence[Proposal], Mapping[str, str], Mapping[str, str]], bool]


@dataclass(frozen=True)
class Round:
    """What came of asking a panel once.

    Attributes:
        proposals: Those that came back, in declared order.
        failures: Why the others did not.
        calls: One row per LM call.
        asked: Proposal id -> agent, of all that were asked for and waited for.
        abandoned: Ids of those that were no longer needed.
        errors: The exceptions behind the failures.
        shortened: Proposal id -> characters that did not fit the window of an agent that read it.
        interrupt: What ended it before it was done.
    """

    proposals: list[Proposal]
    failures: list[Failure]
    calls: list[LMCall]
    asked: dict[str, str]
    abandoned: list[str] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    shortened: dict[str, int] = field(default_factory=dict)
    interrupt: BaseException | None = None


@dataclass(frozen=True)
class _Sample:
    """One sample of one agent: its number, its proposal's id, who watches its LM, and what it runs under."""

    agent: Agent
    number: int
    id: str
    meter: Meter
    settings: Mapping[str, Any]

    @property
    def cut(self) -> str | None:
        """What ended its last reply before its model did."""
        lm: Any = self.settings["lm"]
        if hasattr(lm, "cut"):
            return lm.cut
        calls = self.meter.calls()
        return cut_by(calls[-1].finish_reason) if calls else None


class Panel(Keyless):
    """Agents that answer in parallel; gives proposals and failures in declared order.

    Args:
        task: The task's signature.
        agents: In declared order, with distinct names; those without a program get one for the task.
        layer: The number of the layer, from 1.
        samples: Proposals per agent.
        specialized: Whether each program that is built has a prompt of its own; else all share one.
        limits: What the panel may do.
    """

    def __init__(
        self,
        task: type[dspy.Signature],
        agents: Sequence[Agent],
        *,
        layer: int = 1,
        samples: int = 1,
        specialized: bool = False,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        self.task = task
        self.layer = layer
        self.samples = samples
        self.limits = limits or Limits()
        self.names = [agent.name for agent in agents]
        if not specialized and any(agent.program is None for agent in agents):
            self.shared = _build_program(task, f"layer {layer}", layer)
        for agent in agents:
            program = agent.program
            if program is None:
                role = f"{agent.name}, layer {layer}"
                program = _build_program(task, role, layer, agent) if specialized else self.shared
            # Plain attributes, never a list: brackets in predictors' names make MLflow drop parameters.
            setattr(self, agent.name, agent.with_program(program))

    @property
    def agents(self) -> list[Agent]:
        """The agents, in declared order."""
        return [getattr(self, name) for name in self.names]

    def __deepcopy__(self, memo: dict[int, Any]) -> Panel:
        for agent in self.agents:  # first: they share their LMs with their copies, in the shared program too
            copy.deepcopy(agent, memo)
        return super().__deepcopy__(memo)

    def forward(self, **inputs: Any) -> Round:
        adopt_lms(self.agents)
        return drive(self.ask(inputs))

    async def aforward(self, **inputs: Any) -> Round:
        adopt_lms(self.agents)
        return await adrive(self.ask(inputs))

    def ask(
        self,
        inputs: Mapping[str, Any],
        seen: Sequence[Proposal] = (),
        is_decided: IsDecided | None = None,
        kept: Sequence[Proposal] = (),
        allowance: Allowance | None = None,
    ) -> Steps[Round]:
        """Ask every agent for its samples, after `adopt_lms`.

        Args:
            inputs: The task's inputs.
            seen: In later layers, the proposals of the layer before.
            is_decided: Looks at the proposals so far, at who has finished and at who is still under way,
                and says whether the rest is no longer needed.
            kept: Proposals that are not asked for, as they are there.
            allowance: What it may take; by default the seconds of the limits.
        """
        allowance = allowance or Allowance(self.limits.proposer_timeout or self.limits.timeout)
        asking = _Asking(self, inputs, seen, is_decided, kept, allowance)
        try:
            yield from asking.run()
        except BaseException as interrupt:
            if isinstance(interrupt, Exception):
                raise
            asking.interrupt = interrupt  # what has come so far was paid for
        finally:
            allowance.end()
        return asking.round()


class _Asking:
    """One asking of a panel, and what has come of it so far."""

    def __init__(
        self,
        panel: Panel,
        inputs: Mapping[str, Any],
        seen: Sequence[Proposal],
        is_decided: IsDecided | None,
        kept: Sequence[Proposal],
        allowance: Allowance,
    ) -> None:
        self.panel, self.inputs, self.is_decided, self.allowance = panel, inputs, is_decided, allowance
        self.declared = _samples_of(panel.agents, panel.samples)
        ids = {sample.id for sample in self.declared}
        self.kept = {proposal.id: proposal for proposal in kept if proposal.id in ids}
        self.samples = [sample for sample in self.declared if sample.id not in self.kept]
        self.outcomes = [Outcome() for _ in self.samples]
        self.reader = _Reader(panel.task, inputs, seen) if seen else None
        self.decided = self.has_quorum = False
        self.interrupt: BaseException | None = None

    def run(self) -> Steps[None]:
        """Ask all; those for whose model it was too long with less to read, those whose reply was cut once more."""
        if self.samples:
            watches = self.is_decided is not None or self.panel.limits.quorum is not None
            batch = self._batch(self.samples, self._patience if watches else None)
            self.outcomes = batch.outcomes  # as they come
            self.outcomes = yield batch
        while self.reader is not None and (too_long := self.reader.shorten(self.samples, self.outcomes)):
            again = yield self._batch([self.samples[index] for index in too_long])
            for index, outcome in zip(too_long, again, strict=True):
                self.outcomes[index] = outcome
        cut = [index for index, pair in enumerate(self._pairs()) if self._is_cut(*pair)]
        if cut and not self.decided:
            others = [_sample_again(self.samples[index]) for index in cut]
            again = yield self._batch(others)
            for index, other, outcome in zip(cut, others, again, strict=True):
                if outcome.finished and outcome.error is None:
                    self.samples[index], self.outcomes[index] = other, outcome

    def round(self) -> Round:
        """What has come of it."""
        if self.has_quorum:
            self.allowance.timeout = self.panel.limits.grace
        waits = not self.decided and self.interrupt is None
        results = [self._read(sample, outcome) for sample, outcome in self._pairs() if outcome.finished or waits]
        failed = [result for result in results if isinstance(result, tuple)]
        abandoned = [s.id for s, outcome in self._pairs() if self.decided and not outcome.finished]
        return Round(
            proposals=self._arrange(results),
            failures=[failure for failure, _ in failed],
            calls=[call for sample in self.samples for call in sample.meter.calls()],
            asked={sample.id: sample.agent.name for sample in self.declared if sample.id not in abandoned},
            abandoned=abandoned,
            errors=[error for _, error in failed if error is not None],
            shortened={} if self.reader is None else self.reader.shortened,
            interrupt=self.interrupt,
        )

    def _pairs(self, outcomes: Sequence[Outcome] | None = None) -> Iterator[tuple[_Sample, Outcome]]:
        return zip(self.samples, self.outcomes if outcomes is None else outcomes, strict=True)

    def _batch(
        self, samples: Sequence[_Sample], patience: Callable[[Sequence[Outcome]], float | None] | None = None
    ) -> Batch:
        calls = []
        for sample in samples:
            inputs = self.inputs if self.reader is None else self.reader.inputs_for(sample.agent)
            calls.append(Call(sample.agent, inputs, {**sample.settings, ALLOWANCE: self.allowance}))
        return Batch(calls, self.allowance.remaining, patience)

    def _patience(self, outcomes: Sequence[Outcome]) -> float | None:
        here = self._arrange(self._read(*pair) for pair in self._pairs(outcomes) if pair[1].finished)
        if self.is_decided is not None:
            pending = {sample.id: sample.agent.name for sample, one in self._pairs(outcomes) if not one.finished}
            finished = {one.id: one.agent.name for one in self.declared if one.id not in pending}
            self.decided = self.is_decided(here, finished, pending)
        if self.decided:
            return 0.0
        quorum = self.panel.limits.quorum
        if self.has_quorum or quorum is None or len(here) < quorum:
            return None
        self.has_quorum = True
        return self.panel.limits.grace

    def _arrange(self, results: Iterable[Any]) -> list[Proposal]:
        """The proposals that have come, and those that were there before, in declared order."""
        if not self.kept:
            return [one for one in results if isinstance(one, Proposal)]
        came = self.kept | {one.id: one for one in results if isinstance(one, Proposal)}
        return [came[sample.id] for sample in self.declared if sample.id in came]

    def _is_cut(self, sample: _Sample, outcome: Outcome) -> bool:
        """Whether a reply that could be read is not whole, was asked for but once, and there is time for another."""
        is_read = outcome.finished and outcome.error is None and outcome.seconds < self.allowance.remaining
        return is_read and sample.cut is not None and getattr(sample.settings["lm"], "asked", 2) == 1

    def _read(self, sample: _Sample, outcome: Outcome) -> Proposal | tuple[Failure, BaseException | None]:
        agent, task, layer, error = sample.agent, self.panel.task, self.panel.layer, outcome.error
        if outcome.finished and error is None:
            try:
                outputs = typed_outputs(outcome.value, task, getattr(sample.settings["lm"], "said", None))
                extras = _extras(outcome.value, task)
                check_showable({**extras, **outputs})
                return Proposal(
                    id=sample.id,
                    agent=agent.name,
                    model=agent.model,
                    layer=layer,
                    sample=sample.number,
                    outputs=outputs,
                    reasoning=_reasoning(outcome.value, task),
                    extras=extras,
                    cut_by=sample.cut,
                    seconds=outcome.seconds,
                )
            except Exception as unreadable:
                error = unreadable
        if outcome.finished and error is not None:
            failure = failure_of(agent, error, outcome.seconds)
        else:
            limits, waited = self.panel.limits, self.allowance.timeout or 0.0
            own = "grace" if limits.quorum is not None and waited == limits.grace else "proposer_timeout"
            late = ProposerTimeout(tell_late(self.allowance, limits, own, sample.meter))
            failure = failure_of(agent, late, waited)
        return failure.model_copy(update={"id": sample.id, "layer": layer}), error


def proposal_ids(panel: Any) -> list[str]:
    """The ids of the proposals that a panel, or one that is replayed, asks for, in declared order."""
    return [_id_of(name, place) for name in panel.names for place in range(1, panel.samples + 1)]


def _id_of(name: str, place: int) -> str:
    return name if place == 1 else f"{name}#{place}"


class ProposerTimeout(Exception):
    """A proposer did not answer in time."""


def tell_late(allowance: Allowance, limits: Limits, own: str, meter: Meter) -> str:
    """That an agent did not answer in time, and what went wrong last, if anything did."""
    limit = own if allowance.timeout == getattr(limits, own) else "timeout"
    trouble = "" if meter.trouble is None else f" Its last error was {type(meter.trouble).__name__}: {meter.trouble}"
    return f"No answer within {allowance.timeout:.3g} s (Limits.{limit}).{trouble}"


def failure_of(agent: Agent, error: BaseException, seconds: float) -> Failure:
    """The error as it is reported: typed, secrets masked, cut to a readable length."""
    message = str(scrub(error, *agent.lms, dspy.settings.lm))
    if len(message) > _MESSAGE_LENGTH:
        message = f"{message[:_MESSAGE_LENGTH]} [...]"
    return Failure(agent=agent.name, model=agent.model, error=type(error).__name__, message=message, seconds=seconds)


_MESSAGE_LENGTH = 500


class _Reader:
    """What each agent of a later layer reads of the layer before: as much as its model's window has room for."""

    def __init__(self, task: type[dspy.Signature], inputs: Mapping[str, Any], seen: Sequence[Proposal]) -> None:
        self.task, self.inputs, self.seen = task, inputs, seen
        self.limits: dict[str, int | None] = {}
        self.renderings: dict[int | None, Rendering] = {}

    @property
    def shortened(self) -> dict[str, int]:
        """Proposal id -> the most characters that some agent did not see of it."""
        lost = [item for rendering in self.renderings.values() for item in rendering.shortened.items()]
        return {id: max(count for other, count in lost if other == id) for id, _ in lost}

    def inputs_for(self, agent: Agent) -> dict[str, Any]:
        return {**escape_inputs(self.inputs), PROPOSALS: self._rendering(agent).text}

    def shorten(self, samples: Sequence[_Sample], outcomes: Sequence[Outcome]) -> list[int]:
        """Who is to be asked again with half of the proposals' text, since the model said that it was too long."""
        halved: dict[str, int] = {}
        asked_again = []
        for index, (sample, outcome) in enumerate(zip(samples, outcomes, strict=True)):
            length = len(self._rendering(sample.agent).text) // 2
            if isinstance(outcome.error, ContextWindowExceededError) and length >= SHORTEST:
                halved[sample.agent.name] = length
                asked_again.append(index)
        self.limits.update(halved)
        return asked_again

    def _rendering(self, agent: Agent) -> Rendering:
        if agent.name not in self.limits:
            self.limits[agent.name] = limit_for(agent.lm or dspy.settings.lm, self.inputs, self.seen)
        limit = self.limits[agent.name]
        if limit not in self.renderings:
            names = [PROPOSALS, *self.task.fields]
            self.renderings[limit] = render(self.seen, seed=seed_of(self.inputs), limit=limit, field_names=names)
        return self.renderings[limit]


def _sample_again(sample: _Sample) -> _Sample:
    return replace(sample, settings={**sample.settings, "lm": ask_again(sample.settings["lm"])})


def _samples_of(agents: Sequence[Agent], number: int) -> list[_Sample]:
    """The samples in declared order, with rollouts that tell apart those that ask one model."""
    pairs = [(agent, place) for agent in agents for place in range(1, number + 1)]
    models = {agent.name: _models(agent) for agent in agents}
    if number == 1 and len(set().union(*models.values())) == sum(map(len, models.values())):
        return [_Sample(agent, 1, agent.name, *agent.bind()) for agent in agents]
    asked = Counter(name for agent, _ in pairs for name in models[agent.name])
    taken: Counter[str] = Counter()
    rollouts: dict[tuple[str, int], Rollout | None] = {}
    # Programs that bring their LMs answer no rollouts: the others make way for them.
    for agent, place in sorted(pairs, key=lambda pair: not pair[0].is_fixed):
        names = models[agent.name]
        rollout = max(taken[name] for name in names)
        if agent.has_agents and any(asked[name] > 1 for name in names):
            rollout = max(rollout, 1)  # the agents inside count from 0 themselves
        taken.update({name: rollout + 1 - taken[name] for name in names})
        if not _answers_the_same(agent, agents):
            rollouts[agent.name, place] = sample_rollout(rollout)
    return [
        _Sample(agent, place, _id_of(agent.name, place), *agent.bind(rollouts.get((agent.name, place))))
        for agent, place in pairs
    ]


def _answers_the_same(agent: Agent, agents: Sequence[Agent]) -> bool:
    """Whether a rollout would change nothing, so that DSPy warns of it: all it does at temperature 0 is to keep apart
    what the cache holds of two LMs of one name.
    """
    is_frozen = agent.lm is not None and agent.asks_only_its_lm and agent.lm.kwargs.get("temperature") == 0
    return is_frozen and all(other.lm is agent.lm for other in agents if other.model == agent.model)


def _models(agent: Agent) -> set[str]:
    """Names of the models that an agent may ask; its own name if that cannot be known."""
    if (lm := agent.lm) is not None and agent.asks_only_its_lm:
        return {lm.model}
    ambient = dspy.settings.lm if agent.asks_ambient_lm else None
    return {lm.model for lm in [*agent.lms, ambient] if isinstance(lm, dspy.BaseLM)} or {agent.name}


def _build_program(task: type[dspy.Signature], role: str, layer: int, agent: Agent | None = None) -> dspy.Module:
    """What proposes: a chain of thought, unless the task asks for its reasoning itself."""
    told = proposal_signature(task, instructions=agent and agent.instructions, later_layer=layer > 1)
    signature = for_role(told, role)
    return dspy.Predict(signature) if REASONING in task.output_fields else dspy.ChainOfThought(signature)


def _reasoning(prediction: Any, task: type[dspy.Signature]) -> str | None:
    reasoning = None if REASONING in outputs_of(task) else prediction.get(REASONING)
    return None if reasoning is None else str(reasoning)


def _extras(prediction: Any, task: type[dspy.Signature]) -> dict[str, Any]:
    fields = outputs_of(task)
    return {name: value for name, value in prediction.items() if name not in fields and name != REASONING}
