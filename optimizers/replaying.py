"""Recorded proposals, given to strategies that ask an aggregator: only the aggregator's calls are paid for."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from moa_dspy.concurrency import Steps
from moa_dspy.evaluation.records import Record
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel, Round
from moa_dspy.rendering import seed_of
from moa_dspy.results import Proposal
from moa_dspy.usage import LMCall

from .vote_matrix import agent_of

__all__ = ["replayed"]


def replayed(moa: MoA, records: Sequence[Record]) -> MoA:
    """The mixture, with a panel that says what is recorded instead of asking.

    Args:
        moa: A mixture of one layer, of agents that were recorded; with no more samples than were.
        records: What the agents proposed; questions that are not in them cannot be asked.
    """
    mixture: Any = copy.copy(moa)
    [name] = moa.panel_names
    setattr(mixture, name, _Replay(moa.panels[0], records))
    return mixture


class _Replay:
    """Stands where an evaluation expects a panel."""

    def __init__(self, panel: Panel, records: Iterable[Record]) -> None:
        self.panel = panel
        self.names = panel.names
        self.agents = panel.agents
        self.rounds = {self._key(dict(record.example.items())): self._round(record) for record in records}

    def ask(self, inputs: Mapping[str, Any], is_decided: Any = None) -> Steps[Round]:
        yield from ()
        return self.rounds[self._key(inputs)]

    def _key(self, values: Mapping[str, Any]) -> int:
        fields = self.panel.task.input_fields
        return seed_of({name: values[name] for name in fields if name in values})

    def _round(self, record: Record) -> Round:
        wanted = {
            name if number == 1 else f"{name}#{number}": (name, number)
            for name in self.names
            for number in range(1, self.panel.samples + 1)
        }
        models = {agent.name: agent.model for agent in self.agents}
        answers = {id: record.proposals[id] for id in wanted}
        proposals = [
            Proposal(
                id=id,
                agent=wanted[id][0],
                model=models[wanted[id][0]],
                sample=wanted[id][1],
                outputs=dict(answer.outputs),
                reasoning=answer.reasoning,
                seconds=answer.spent.seconds if answer.spent else 0.0,
            )
            for id, answer in answers.items()
            if answer.outputs is not None
        ]
        failures = [answer.failure for answer in answers.values() if answer.failure is not None]
        calls = [call for name in self.names for call in self._calls(record, name)]
        return Round(proposals, failures, calls, {id: agent_of(id) for id in wanted}, [])

    def _calls(self, record: Record, agent: str) -> Sequence[LMCall]:
        """The agent's calls for the samples that are replayed, which were asked for first."""
        calls = [call for call in record.calls if call.agent == agent]
        recorded = [agent_of(id) for id in record.proposals].count(agent)
        return calls[: math.ceil(len(calls) * self.panel.samples / recorded)]
