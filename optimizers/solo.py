"""What a stage tunes: one agent of a mixture alone, under the name that it has there."""

from __future__ import annotations

from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from moa_dspy.account import Account
from moa_dspy.agent import Agent
from moa_dspy.moa import MoA
from moa_dspy.outputs import typed_outputs
from moa_dspy.panel import Round
from moa_dspy.prediction import MoAPrediction
from moa_dspy.proposals import Proposal
from moa_dspy.strategies import Case, Unusable, Verdict, fall_back

from .bill import Bill
from .recording import Recording

__all__ = ["Judge", "Solo", "accounted"]


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
            agent = getattr(getattr(self, panel), name)
            outputs = typed_outputs(agent(**inputs), self.task)
        mine = Proposal(id=name, agent=name, model=agent.model, outputs=outputs)
        case = Case(self.task, inputs, [mine], {name: name}, has_aggregator=False)
        return accounted("voting", Verdict(outputs, selected=name), case, Round([mine], [], [], {name: name}, []))


class Judge(dspy.Module):
    """An aggregator that decides on proposals that were recorded: one run, no proposer asked."""

    def __init__(self, moa: MoA, recording: Recording, bill: Bill) -> None:
        super().__init__()
        self.aggregator = moa.aggregator.deepcopy()
        self.place = "aggregator"
        self.strategy = moa.strategy.name
        self.task = moa.signature
        self.has_aggregator = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
        self.recording = recording
        self.bill = bill

    def forward(self, **inputs: Any) -> dspy.Prediction:
        round = self.recording.round(inputs)
        given = {name: inputs[name] for name in self.task.input_fields if name in inputs}
        case = Case(self.task, given, round.proposals, round.asked, self.has_aggregator)
        with self.bill.asking(self.place):
            verdict, failed = self._decide(case)
        return accounted(self.strategy, verdict, case, round, fallback_used=failed)

    def _decide(self, case: Case) -> tuple[Verdict, bool]:
        try:
            verdict: Any = self.aggregator(case=case)
        except (AdapterParseError, Unusable):
            return fall_back(case), True  # as the mixture would answer
        return verdict, False


def accounted(strategy: str, verdict: Verdict, case: Case, round: Round, fallback_used: bool = False) -> MoAPrediction:
    """The answer, with what a metric may look at in that of a mixture: proposals, failures, votes.

    Args:
        strategy: Its name.
        verdict: What it decided.
        case: On what.
        round: What the panel gave; calls are on the bill and not told here.
        fallback_used: Whether the aggregator gave no verdict.
    """
    account = Account(strategy, len(set(round.asked.values())))
    account.add(Round(round.proposals, round.failures, [], round.asked, round.abandoned))
    account.fallback_used = fallback_used
    return account.prediction(verdict, case)
