"""A panel's seats: one for each sample of each agent, no two of which the cache takes for one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import dspy

from moa_dspy.accounting import Meter
from moa_dspy.agent import Agent
from moa_dspy.sampling import Rollout, sample

__all__ = ["Seat", "seats_of"]


class Seat:
    """One sample of one agent.

    Attributes:
        number: The number of the sample, from 1.
        id: The agent's name, then `#2`, `#3`, ... for its further samples.
        rollout: What it asks its LMs for; None for their plain answer.
        meter: Watches its LM calls.
    """

    def __init__(self, agent: Agent, number: int) -> None:
        self.agent = agent
        self.number = number
        self.id = agent.name if number == 1 else f"{agent.name}#{number}"
        self.rollout: Rollout | None = None
        self.meter = Meter(agent.name)


def seats_of(agents: Sequence[Agent], samples: int) -> list[Seat]:
    """The seats in declared order, with rollouts that tell apart those that ask one model."""
    seats = [Seat(agent, number) for agent in agents for number in range(1, samples + 1)]
    models = {seat: _models(seat.agent) for seat in seats}
    asked = Counter(name for names in models.values() for name in names)
    taken: Counter[str] = Counter()
    # Programs that bring their LMs answer no rollouts: the others make way for them.
    for seat in sorted(seats, key=lambda seat: not seat.agent.is_fixed):
        number = max(taken[name] for name in models[seat])
        if seat.agent.has_agents and any(asked[name] > 1 for name in models[seat]):
            number = max(number, 1)  # the agents inside count from 0 themselves
        taken.update({name: number + 1 - taken[name] for name in models[seat]})
        seat.rollout = sample(number)
    return seats


def _models(agent: Agent) -> set[str]:
    """Names of the models that an agent may ask; its own name if that cannot be known."""
    ambient = dspy.settings.lm if agent.asks_ambient_lm else None
    return {lm.model for lm in [*agent.lms, ambient] if isinstance(lm, dspy.BaseLM)} or {agent.name}
