"""Recorded votes as numbers: what a weighted vote scores on each question, and how sure it may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, TypeVar

import dspy
import numpy as np
import numpy.typing as npt

from moa_dspy.concurrency import run_side_by_side
from moa_dspy.evaluation import Comparison, MetricError
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording, Row, replay
from moa_dspy.strategies import Case, Voting, as_strategy

from .examples import find_rows, inputs_of, keeping
from .mixtures import restricted
from .scoring import Scored

__all__ = ["Floats", "Votes", "is_win", "read_cases", "take_vote", "voting_of"]

Floats: TypeAlias = npt.NDArray[np.float64]
Read = TypeVar("Read")

MISSING, ABSTAINS = -2, -1


@dataclass(frozen=True)
class Votes:
    """Questions by proposals."""

    columns: Sequence[str]  # of each proposal, its agent
    answers: npt.NDArray[np.int64]  # in a row, equal numbers are equal answers; `ABSTAINS` and `MISSING` are no votes
    scores: Floats  # what the metric gives for the proposal; 0 where there is none

    @classmethod
    def of(
        cls, moa: MoA, recording: Recording, examples: Sequence[dspy.Example], scored: Scored | None, threads: int = 8
    ) -> Votes:
        """The proposals to examples, told apart as the mixture's vote, or an ordinary one, tells them apart.

        Without a metric all score 0. `MetricError`, for what is no score from 0 to 1, has the recording on it.
        """
        voting = voting_of(moa, {})

        def read(example: dspy.Example, row: Row, case: Case) -> tuple[list[str], list[int], list[float]]:
            votes = {id: n for n, found in enumerate(voting.count(case).candidates) for id in found.voters}
            came = {proposal.id: proposal.outputs for proposal in case.proposals}
            answers = [votes.get(id, ABSTAINS if id in came else MISSING) for id in case.asked]
            scores = [0.0 if scored is None else scored.number(example, came.get(id)) for id in case.asked]
            return list(case.asked.values()), answers, scores

        with keeping(recording):
            columns, answers, scores = zip(*read_cases(moa, recording, examples, read, threads), strict=True)
            votes = cls(columns[0], np.array(answers), np.array(scores))
            if not votes.are_shares:
                raise MetricError(
                    f"The metric gave scores from {votes.scores.min():g} to {votes.scores.max():g}, which cannot be "
                    "read as right and wrong. Give a metric between 0 (wrong) and 1 (right)."
                )
        return votes

    @classmethod
    def of_comparison(cls, moa: MoA, comparison: Comparison) -> Votes:
        """The proposals of a comparison, with the scores that they have there."""
        questions = comparison.questions
        votes = cls.of(moa, comparison.recording, [question.example for question in questions], None)
        return replace(votes, scores=np.array([list(question.proposals.values()) for question in questions]))

    @property
    def are_shares(self) -> bool:
        """Whether all scores are between 0 (wrong) and 1 (right)."""
        return bool(((self.scores >= 0) & (self.scores <= 1)).all())

    @property
    def agents(self) -> list[str]:
        """Their names, in declared order."""
        return list(dict.fromkeys(self.columns))

    @property
    def samples(self) -> int:
        """How many proposals each agent makes."""
        return len(self.columns) // max(1, len(self.agents))

    @property
    def owners(self) -> Floats:
        """Of shape (agents, columns): 1 where the column is the agent's."""
        return np.array([[agent == name for agent in self.columns] for name in self.agents], dtype=float)

    @property
    def alone(self) -> Floats:
        """Of shape (questions, agents): the score of each agent alone, the mean of its samples."""
        return self.scores @ self.owners.T / self.samples

    def rows(self, chosen: Any) -> Votes:
        """These questions: a slice or indices."""
        return replace(self, answers=self.answers[chosen], scores=self.scores[chosen])

    def of_agents(self, names: Sequence[str], samples: int) -> Votes:
        """The columns of these agents, and of no more than so many samples of each."""
        kept = [n for n, a in enumerate(self.columns) if a in names and self.columns[:n].count(a) < samples]
        return Votes([self.columns[n] for n in kept], self.answers[:, kept], self.scores[:, kept])

    def compare(self) -> tuple[Floats, Floats]:
        """Of each question and agent, its right votes (fractions where scores are), and its votes."""
        cast = (self.answers >= 0).astype(float)
        return (self.scores * cast) @ self.owners.T, cast @ self.owners.T

    def score(self, weights: npt.ArrayLike) -> Floats:
        """What a vote without an aggregator scores on each question.

        As `Voting` counts: the answer with the most weight; of equal ones, that of the heaviest single supporter,
        then the first in declared order; the answer given is that of its heaviest supporter. Weights are of the
        agents, or of shape (questions, agents); 0: the agent is not asked.
        """
        scores: Floats = self.scores[np.arange(len(self.scores)), self._count(weights)[0]]
        return scores

    def weigh(self, weights: npt.ArrayLike) -> tuple[Floats, Floats, Floats]:
        """What speaks for the answer of the same vote, as `weigh_evidence` finds it.

        Of each also the score, and the weight by which the answer leads all others together.
        """
        winner, each, support, cast = self._count(weights)
        places = np.arange(len(winner))
        group = np.where(cast[places, winner], self.answers[places, winner], MISSING)[:, None]
        agrees = (self.answers == group) & cast
        whole, given = np.maximum(each.sum(axis=1), 1e-12), (each * cast).sum(axis=1)
        mine, rival = (each * agrees).sum(axis=1), np.where(cast & ~agrees, support, 0.0).max(axis=1)
        nothing = np.zeros(len(winner))
        measured = np.stack([nothing + 1, mine / whole, rival / whole, 1 - given / whole, nothing, nothing], axis=1)
        agents = agrees @ self.owners.T / self.samples
        return np.hstack([measured, agents]), self.scores[places, winner], (2 * mine - given).round(9)

    def _count(self, weights: npt.ArrayLike) -> tuple[Any, Floats, Floats, Any]:
        """The column of each question's answer; of each column, its weight, its answer's, and whether it votes."""
        each = np.broadcast_to(np.asarray(weights, dtype=float) @ self.owners, self.answers.shape)
        asked, cast = each > 0, (each > 0) & (self.answers >= 0)
        same = (self.answers[:, :, None] == self.answers[:, None, :]) & cast[:, None, :]
        # Weights that differ only by rounding are equal, as in a tally.
        support = np.where(cast, (same * each[:, None, :]).sum(axis=2), -1.0).round(9)
        heaviest = np.where(same, each[:, None, :], 0.0).max(axis=2).round(9)
        own, place = np.where(cast, each, -1.0), np.broadcast_to(-np.arange(each.shape[1]), each.shape)
        winner = np.lexsort((place, own, -same.argmax(axis=2), heaviest, support), axis=-1)[:, -1]
        # Where nobody votes, all may say None: the first that came is the answer.
        first = (asked & (self.answers != MISSING)).argmax(axis=1)
        return np.where(cast.any(axis=1), winner, first), each, support, cast


def read_cases(
    moa: MoA,
    recording: Recording,
    examples: Sequence[dspy.Example],
    read: Callable[[dspy.Example, Row, Case], Read],
    threads: int,
) -> list[Read]:
    """What is read of the last panel's proposals to each example, side by side."""
    panel: Any = replay(moa, recording).panels[-1]
    row_of = find_rows(moa.signature, recording)

    def read_one(number: int) -> tuple[int, Read]:
        example = examples[number]
        row: Any = row_of(example)
        round = panel.round(row)
        case = Case(moa.signature, inputs_of(moa.signature, example), round.proposals, round.asked, False)
        return number, read(example, row, case)

    found = dict(run_side_by_side(read_one, range(len(examples)), threads))
    return [found[number] for number in range(len(examples))]


def is_win(scores: Floats, others: Floats, errors: float = 1.96) -> bool:
    """Whether they are better by more than chance: by so many standard errors of the difference."""
    gained = scores - others
    return bool(gained.mean() > errors * gained.std() / len(gained) ** 0.5 + 1e-9)


def voting_of(moa: MoA, weights: Mapping[str, float]) -> Voting:
    """A vote with these weights that counts as the mixture's strategy does, if that is a vote."""
    voting: Any = as_strategy(moa.strategy) if isinstance(moa.strategy, Voting) else Voting()
    voting.weights = dict(weights)
    return voting


def take_vote(moa: MoA, agents: Sequence[str], samples: int, weights: Mapping[str, float]) -> MoA:
    """The vote of some of a mixture's agents, for which one answer is enough."""
    mixture = restricted(moa, agents, samples, strategy=voting_of(moa, weights))
    mixture.limits = mixture.panels[0].limits = mixture.limits.model_copy(update={"min_proposals": 1})
    return mixture
