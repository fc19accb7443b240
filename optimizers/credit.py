"""What a proposer's answer counts for: on its own, or by what the panel makes of it."""

from __future__ import annotations

import dspy

from moa_dspy.panel import Round
from moa_dspy.proposals import Proposal
from moa_dspy.strategies import Case, Unusable, fall_back

from .recording import Recording
from .solo import accounted

__all__ = ["Marginal"]


class Marginal:
    """Shows the metric the panel's vote with this proposer's answer, instead of that answer.

    The others' proposals are recorded, so what changes from prompt to prompt is what the panel gains from this
    proposer; the vote is counted in code, so no call is made for it.

    Args:
        agent: The proposer's name.
        recording: What the whole panel proposed before it was tuned.
    """

    def __init__(self, agent: str, recording: Recording) -> None:
        self.agent = agent
        self.recording = recording

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction) -> dspy.Prediction:
        inputs = example.inputs().toDict()
        round, task = self.recording.round(inputs), self.recording.task
        mine = Proposal(
            id=self.agent, agent=self.agent, outputs={name: prediction[name] for name in task.output_fields}
        )
        asked = {id: agent for id, agent in round.asked.items() if agent != self.agent or id == self.agent}
        came = {proposal.id: proposal for proposal in round.proposals} | {mine.id: mine}
        case = Case(task, inputs, [came[id] for id in asked if id in came], asked, has_aggregator=False)
        try:
            return accounted(
                "voting", fall_back(case), case, Round(list(case.proposals), round.failures, [], asked, [])
            )
        except Unusable:  # all abstain
            return dspy.Prediction(**dict.fromkeys(task.output_fields))
