"""Recorded proposals as numbers: who gave which answer to which question, and what that answer scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import dspy
import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation.records import Answer, Record
from moa_dspy.moa import MoA
from moa_dspy.proposals import Proposal
from moa_dspy.strategies import Case, Strategy, Unusable, Voting, as_strategy, fall_back

__all__ = ["MISSING", "REFUSED", "SAYS_NONE", "VoteMatrix"]

SAYS_NONE, REFUSED, MISSING = -1, -2, -3
"""What stands for an answer that is no vote: None where the task allows it, one that abstains, none at all."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class VoteMatrix:
    """Questions by proposals; all that vote weights and committees are chosen from.

    Attributes:
        agents: Of each column, its agent: all samples of the first in declared order, then those of the second.
        answers: Of shape (questions, columns). In a row, equal numbers from 0 are equal answers; the order of these
            numbers means nothing. Below 0 there is no vote: `SAYS_NONE`, `REFUSED`, `MISSING`.
        scores: Of the same shape: what the metric gives for the proposal; 0 where there is none.

    Example:
        >>> matrix = VoteMatrix(["a", "b"], np.array([[0, 0], [0, 1]]), np.array([[1.0, 1.0], [0.0, 1.0]]))
        >>> matrix.names, matrix.samples, float(matrix.of_agents(["b"]).scores.mean())
        (['a', 'b'], 1, 1.0)
    """

    agents: Sequence[str]
    answers: npt.NDArray[np.int64]
    scores: Floats

    @classmethod
    def of(cls, records: Sequence[Record], moa: MoA, voting: Voting | None = None) -> VoteMatrix:
        """The proposals of an evaluation, told apart as a vote tells them apart.

        Args:
            records: With the proposals of the mixture's first layer.
            moa: The mixture.
            voting: Its fields, tolerance and `exact_text` decide which answers say the same; by default those of the
                mixture's own strategy, if that is a vote, else those of a plain one.

        Raises:
            ValueError: If there are no records.
        """
        if not records:
            raise ValueError("There are no recorded proposals, so there is nothing to count.")
        plain = _plain(voting or moa.strategy)
        rows = [list(_answers(record, moa.signature, plain)) for record in records]
        scores = [[answer.score for answer in record.proposals.values()] for record in records]
        agents = [agent_of(id) for id in records[0].proposals]
        return cls(agents, np.array(rows, dtype=np.int64), np.array(scores, dtype=float))

    @cached_property
    def names(self) -> list[str]:
        """The agents, in declared order."""
        return list(dict.fromkeys(self.agents))

    @property
    def samples(self) -> int:
        """How many proposals each agent makes."""
        return len(self.agents) // len(self.names)

    @cached_property
    def owners(self) -> Floats:
        """Of shape (agents, columns): 1 where the column is the agent's."""
        return np.array([[agent == name for agent in self.agents] for name in self.names], dtype=float)

    @cached_property
    def classes(self) -> Floats:
        """Of shape (questions, columns, answers): 1 where the column votes for the answer."""
        return (self.answers[:, :, None] == np.arange(self.answers.max(initial=0) + 1)).astype(float)

    @property
    def solo(self) -> Floats:
        """Of shape (questions, agents): the score of each agent alone, the mean of its samples."""
        return self.scores @ self.owners.T / self.samples

    def rows(self, chosen: slice | npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> VoteMatrix:
        """These questions: a slice, a mask, or indices."""
        return replace(self, answers=self.answers[chosen], scores=self.scores[chosen])

    def of_agents(self, names: Sequence[str], samples: int | None = None) -> VoteMatrix:
        """The columns of these agents, in declared order, and of no more than so many samples of each."""
        seen = [self.agents[: column + 1].count(agent) for column, agent in enumerate(self.agents)]
        kept = [
            column
            for column, agent in enumerate(self.agents)
            if agent in names and seen[column] <= (samples or self.samples)
        ]
        return VoteMatrix([self.agents[column] for column in kept], self.answers[:, kept], self.scores[:, kept])

    def weights(self, by_agent: Mapping[str, float]) -> Floats:
        """The weights of the columns; an agent that is not named has none."""
        return np.array([by_agent.get(agent, 0.0) for agent in self.agents])

    def __len__(self) -> int:
        return len(self.answers)


def agent_of(id: str) -> str:
    """The agent of a proposal's id: names are identifiers, further samples are `name#2`, `name#3`."""
    return id.partition("#")[0]


def _plain(strategy: Strategy) -> Voting:
    copy = as_strategy(strategy)
    voting = copy if isinstance(copy, Voting) else Voting()
    voting.weights = {}
    return voting


def _answers(record: Record, task: type[dspy.Signature], voting: Voting) -> Iterator[int]:
    asked = {id: agent_of(id) for id in record.proposals}
    proposals = [_proposal(id, answer) for id, answer in record.proposals.items() if answer.outputs is not None]
    inputs = {name: record.example[name] for name in task.input_fields if name in record.example}
    case = Case(task, inputs, proposals, asked, has_aggregator=False)
    candidates = voting.count(case).candidates
    number = {voter: place for place, candidate in enumerate(candidates) for voter in candidate.voters}
    here = {proposal.id: proposal for proposal in proposals}
    for id in asked:
        if id in number:
            yield number[id]
        else:
            yield (
                _abstention(replace(case, proposals=[here[id]], asked={id: asked[id]}), voting)
                if id in here
                else MISSING
            )


def _abstention(case: Case, voting: Voting) -> int:
    try:
        fall_back(case, voting)
    except Unusable:
        return REFUSED
    return SAYS_NONE


def _proposal(id: str, answer: Answer) -> Proposal:
    return Proposal(id=id, agent=agent_of(id), outputs=dict(answer.outputs or {}))
