"""What a call shows of how sure its answer is, whatever strategy made it: who says the same, who says another."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from moa_dspy.results import Proposal
from moa_dspy.strategies import Case, Strategy, Voting

__all__ = ["MEASURES", "Evidence", "weigh_evidence"]

MEASURES: Final[tuple[str, ...]] = ("constant", "support", "rival", "missing", "flips", "fallback")
"""What is measured of every answer, in this order; after them, each agent."""

_ANSWER = "(answer)"  # no agent's name: these are identifiers


@dataclass(frozen=True)
class Evidence:
    """What speaks for an answer; all are shares from 0 to 1.

    Attributes:
        support: Of the votes' weight, what the proposals have that say what the answer says.
        rival: What the strongest other answer has.
        missing: What failed, abstained or was not waited for.
        flips: Of a selection's rotations, those whose verdict was another.
        fallback: 1 if the aggregator failed and the vote is the answer.
        agents: Agent -> how many of its samples say what the answer says.
    """

    support: float
    rival: float
    missing: float
    flips: float
    fallback: float
    agents: Mapping[str, float]

    def row(self, agents: Sequence[str]) -> list[float]:
        """As numbers, in the order of `MEASURES`, then of these agents."""
        measured = [1.0, self.support, self.rival, self.missing, self.flips, self.fallback]
        return [*measured, *(self.agents.get(agent, 0.0) for agent in agents)]


def weigh_evidence(
    case: Case,
    outputs: Mapping[str, Any],
    strategy: Strategy,
    *,
    flip_rate: float | None = None,
    fallback_used: bool = False,
) -> Evidence:
    """Count who supports an answer.

    Proposals are told apart as the strategy tells them apart, if it is a vote, else as an ordinary vote does. The
    answer takes part without weight, so that one that an aggregator wrote is known by what it says.

    Args:
        case: What was asked for and what came.
        outputs: The answer.
        strategy: What made it.
        flip_rate: Of a selection.
        fallback_used: Whether the vote stood in for the aggregator.
    """
    voting: Any = copy.copy(strategy) if isinstance(strategy, Voting) else Voting()
    voting.weights = {**voting.weights, _ANSWER: 0.0}
    answer = Proposal(id=_ANSWER, agent=_ANSWER, outputs=dict(outputs))
    asked = {**case.asked, _ANSWER: _ANSWER}
    tally = voting.count(replace(case, proposals=[*case.proposals, answer], asked=asked))
    whole = tally.weight or 1.0
    shares = {_ANSWER in one.voters: 0.0 for one in tally.candidates}
    for one in tally.candidates:
        shares[_ANSWER in one.voters] = max(shares[_ANSWER in one.voters], one.weight / whole)
    voters = [id for one in tally.candidates if _ANSWER in one.voters for id in one.voters if id != _ANSWER]
    samples, agreeing = Counter(case.asked.values()), Counter(case.asked[id] for id in voters)
    return Evidence(
        support=shares.get(True, 0.0),
        rival=shares.get(False, 0.0),
        missing=max(0.0, 1.0 - sum(one.weight for one in tally.candidates) / whole),
        flips=flip_rate or 0.0,
        fallback=float(fallback_used),
        agents={agent: agreeing[agent] / number for agent, number in samples.items()},
    )
