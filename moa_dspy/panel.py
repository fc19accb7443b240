"""A layer of agents that answer in parallel."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from moa_dspy.accounting import LMCall
from moa_dspy.agent import Agent, cloned, deliver_mail
from moa_dspy.limits import Limits
from moa_dspy.metadata import Failure
from moa_dspy.models import redact
from moa_dspy.outputs import typed_outputs
from moa_dspy.proposals import Proposal
from moa_dspy.running import Batch, Call, Outcome, Steps, adrive, drive
from moa_dspy.saving.keyless import Keyless
from moa_dspy.seats import Seat, seats_of
from moa_dspy.signatures import REASONING, for_role, proposal_signature
from moa_dspy.strengths import starting_instructions

__all__ = ["Panel", "Round"]

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
    """

    proposals: list[Proposal]
    failures: list[Failure]
    calls: list[LMCall]
    asked: dict[str, str]
    abandoned: list[str]


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
            self.shared = _program(task, f"layer {layer}", layer)
        for agent in agents:
            program = agent.program
            if program is None:
                program = _program(task, f"{agent.name}, layer {layer}", layer, agent) if specialized else self.shared
            # Plain attributes, never a list: brackets in predictors' names make MLflow drop parameters.
            setattr(self, agent.name, agent.running(program))

    @property
    def agents(self) -> list[Agent]:
        """The agents, in declared order."""
        return [getattr(self, name) for name in self.names]

    def __deepcopy__(self, memo: dict[int, Any]) -> Panel:
        for agent in self.agents:  # first: they share their LMs with their copies, in the shared program too
            copy.deepcopy(agent, memo)
        return cloned(self, memo)

    def forward(self, **inputs: Any) -> Round:
        return drive(self.ask(inputs))

    async def aforward(self, **inputs: Any) -> Round:
        return await adrive(self.ask(inputs))

    def ask(self, inputs: Mapping[str, Any], is_decided: IsDecided | None = None) -> Steps[Round]:
        """Ask every agent for its samples.

        Args:
            inputs: The task's inputs, and in later layers the proposals.
            is_decided: Looks at the proposals so far, at who has finished and at who is still under way,
                and says whether the rest is no longer needed.
        """
        deliver_mail(self.agents)
        seats = seats_of(self.agents, self.samples)
        calls = [Call(seat.agent, inputs, settings=seat.meter.settings(), rollout=seat.rollout) for seat in seats]
        decided = False

        def enough(outcomes: Sequence[Outcome]) -> bool:
            nonlocal decided
            if is_decided is not None:
                done = [(seat, outcome) for seat, outcome in zip(seats, outcomes, strict=True) if outcome.finished]
                here = [made for seat, outcome in done if isinstance(made := self._read(seat, outcome), Proposal)]
                pending = {s.id: s.agent.name for s, o in zip(seats, outcomes, strict=True) if not o.finished}
                decided = is_decided(here, {seat.id: seat.agent.name for seat, _ in done}, pending)
            return decided

        outcomes = yield Batch(calls, self.limits.proposer_timeout, enough if is_decided else None)
        wanted = [(s, o) for s, o in zip(seats, outcomes, strict=True) if o.finished or not decided]
        results = [self._read(seat, outcome) for seat, outcome in wanted]
        return Round(
            proposals=[result for result in results if isinstance(result, Proposal)],
            failures=[result for result in results if isinstance(result, Failure)],
            calls=[call for seat in seats for call in seat.meter.calls()],
            asked={seat.id: seat.agent.name for seat, _ in wanted},
            abandoned=[s.id for s, o in zip(seats, outcomes, strict=True) if decided and not o.finished],
        )

    def _read(self, seat: Seat, outcome: Outcome) -> Proposal | Failure:
        agent = seat.agent
        if not outcome.finished:
            waited = self.limits.proposer_timeout or 0.0
            message = f"No answer within {waited:g} s (Limits.proposer_timeout)."
            return Failure(
                agent=agent.name, model=agent.model, error="ProposerTimeout", message=message, seconds=waited
            )
        if outcome.error is not None:
            return failure(agent, outcome.error, outcome.seconds)
        try:
            outputs = typed_outputs(outcome.value, self.task)
        except Exception as error:
            return failure(agent, error, outcome.seconds)
        return Proposal(
            id=seat.id,
            agent=agent.name,
            model=agent.model,
            layer=self.layer,
            sample=seat.number,
            outputs=outputs,
            reasoning=_reasoning(outcome.value, self.task),
            seconds=outcome.seconds,
        )


def _program(task: type[dspy.Signature], role: str, layer: int, agent: Agent | None = None) -> dspy.Module:
    """What proposes: a chain of thought, unless the task asks for its reasoning itself."""
    instructions = agent and (agent.instructions or starting_instructions(agent.model))
    signature = for_role(proposal_signature(task, instructions=instructions, later_layer=layer > 1), role)
    return dspy.Predict(signature) if REASONING in task.output_fields else dspy.ChainOfThought(signature)


def failure(agent: Agent, error: BaseException, seconds: float) -> Failure:
    """The error as it is reported: typed, secrets masked, cut to a readable length."""
    message = redact(str(error), *agent.lms, dspy.settings.lm)
    if len(message) > _MESSAGE_LENGTH:
        message = f"{message[:_MESSAGE_LENGTH]} [...]"
    return Failure(agent=agent.name, model=agent.model, error=type(error).__name__, message=message, seconds=seconds)


_MESSAGE_LENGTH = 500


def _reasoning(prediction: Any, task: type[dspy.Signature]) -> str | None:
    reasoning = None if REASONING in task.output_fields else prediction.get(REASONING)
    return None if reasoning is None else str(reasoning)
