"""What a stage tunes: one agent of a mixture alone, under the name that it has there."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from moa_dspy.agent import Agent
from moa_dspy.moa import MoA
from moa_dspy.outputs import typed_outputs
from moa_dspy.strategies import Case, Unusable, Verdict, fallback

from .bill import Bill
from .recording import Recording

__all__ = ["Judge", "Solo"]


class Solo(dspy.Module):
    """A proposer that answers the task alone: one run, one proposal."""

    def __init__(self, panel: str, agent: Agent, task: type[dspy.Signature], bill: Bill) -> None:
        super().__init__()
        seat = dspy.Module()
        setattr(seat, agent.name, agent)
        setattr(self, panel, seat)
        self.place = f"{panel}.{agent.name}"
        self.task = task
        self.bill = bill

    def forward(self, **inputs: Any) -> dspy.Prediction:
        panel, _, name = self.place.partition(".")
        with self.bill.asking(name):
            prediction = getattr(getattr(self, panel), name)(**inputs)
        return dspy.Prediction(**typed_outputs(prediction, self.task))


class Judge(dspy.Module):
    """An aggregator that decides on proposals that were recorded: one run, no proposer asked."""

    def __init__(self, moa: MoA, recording: Recording, bill: Bill) -> None:
        super().__init__()
        self.aggregator = moa.aggregator.deepcopy()
        self.place = "aggregator"
        self.task = moa.signature
        self.has_aggregator = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
        self.recording = recording
        self.bill = bill

    def forward(self, **inputs: Any) -> dspy.Prediction:
        round = self.recording.round(inputs)
        given = {name: inputs[name] for name in self.task.input_fields if name in inputs}
        case = Case(self.task, given, round.proposals, round.asked, self.has_aggregator)
        with self.bill.asking(self.place):
            return dspy.Prediction(**self._decide(case).outputs)

    def _decide(self, case: Case) -> Verdict:
        try:
            verdict: Any = self.aggregator(case=case)
        except (AdapterParseError, Unusable):
            return fallback(case)  # as the mixture would answer
        return verdict
