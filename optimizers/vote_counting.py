"""Many weightings of one vote at once: what each would have answered to the recorded questions, and scored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .vote_matrix import MISSING, REFUSED, VoteMatrix

__all__ = ["log_likelihood", "vote_scores"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Numbers held in memory at a time: 32 MB.
_BLOCK = 4_000_000


def vote_scores(matrix: VoteMatrix, weights: npt.ArrayLike) -> Floats:
    """What a vote without an aggregator scores on each question, under each of several weightings.

    As `Voting` counts: the answer with the most weight; of equal ones, that of the heaviest single supporter, then
    the first in declared order; the answer given is that of its heaviest supporter.

    Args:
        matrix: The recorded proposals.
        weights: Of shape (weightings, columns) or (columns,), not negative. 0: the proposal is not there.

    Returns:
        Of shape (weightings, questions); 0 where nobody votes, unless all say None and that is an answer.

    Example:
        >>> matrix = VoteMatrix(["a", "b", "c"], np.array([[0, 1, 1]]), np.array([[1.0, 0.0, 0.0]]))
        >>> vote_scores(matrix, [[1, 1, 1], [3, 1, 1]]).tolist()
        [[0.0], [1.0]]
    """
    table = np.atleast_2d(np.asarray(weights, dtype=float))
    step = max(1, _BLOCK // max(1, matrix.answers.size * matrix.answers.shape[1]))
    return np.concatenate([_scores(matrix, table[at : at + step]) for at in range(0, len(table), step)])


def log_likelihood(matrix: VoteMatrix, weights: npt.ArrayLike) -> Floats:
    """How probable a weighted vote makes the right answers: the log of the score that it expects.

    An answer is taken to be the right one in proportion to `exp(weight of its supporters)`, among those that some
    proposal gave: a conditional logit (McFadden, "Conditional Logit Analysis of Qualitative Choice Behavior", in
    Frontiers in Econometrics, 1974). Unlike the score of the vote it moves with every ballot, and so tells
    weightings apart on few questions.

    Args:
        matrix: The recorded proposals, with scores between 0 and 1.
        weights: Of shape (weightings, columns) or (columns,).

    Returns:
        Of shape (weightings, questions); 0 on questions that no proposal answers rightly, or all alike.
    """
    table, classes = np.atleast_2d(np.asarray(weights, dtype=float)), matrix.classes
    voters = classes.sum(axis=1)
    gold = np.einsum("qvc,qv->qc", classes, matrix.scores) / np.maximum(voters, 1)
    telling = (gold.max(axis=1, initial=0) > 0) & ((voters > 0).sum(axis=1) > 1)
    given, gold, classes = voters[telling] > 0, gold[telling], classes[telling]
    result = np.zeros((len(table), len(matrix)))
    step = max(1, _BLOCK // max(1, gold.size))
    for at in range(0, len(table) if telling.any() else 0, step):
        support = np.einsum("qvc,sv->sqc", classes, table[at : at + step], optimize=True)
        odds = np.exp(support - support.max(axis=2, keepdims=True)) * given
        result[at : at + step, telling] = np.log((odds * gold).sum(axis=2) / odds.sum(axis=2))
    return result


def _scores(matrix: VoteMatrix, weights: Floats) -> Floats:
    answers = matrix.answers
    same = (answers[:, :, None] == answers[:, None, :]) & (answers >= 0)[:, :, None]
    votes = (weights > 0)[:, None, :] & (answers >= 0)
    support = np.where(votes, np.einsum("qij,sj->sqi", same.astype(float), weights, optimize=True), 0.0)
    # Weights that differ only by rounding are equal, as in a tally.
    leads = votes & (support >= support.max(axis=2, keepdims=True) * (1 - 1e-9))
    own = np.where(leads, weights[:, None, :], 0.0)
    heaviest = leads & (own >= own.max(axis=2, keepdims=True) * (1 - 1e-9))
    winner = heaviest.argmax(axis=2)
    _break_ties(winner, heaviest, same, votes, own)
    scores: Floats = matrix.scores[np.arange(len(matrix)), winner]
    return np.where(votes.any(axis=2), scores, _without_votes(matrix, weights > 0))


def _break_ties(winner: npt.NDArray[np.int64], heaviest: Bools, same: Bools, votes: Bools, own: Floats) -> None:
    """Where several answers share the heaviest supporter, the one that anybody gave first leads."""
    led = same[np.arange(len(same)), winner]
    for weighting, question in np.argwhere((heaviest & ~led).any(axis=2)):
        groups = same[question] & votes[weighting, question]
        among = np.flatnonzero(heaviest[weighting, question])
        leader = min(among, key=lambda column: groups[column].argmax())
        winner[weighting, question] = np.where(groups[leader], own[weighting, question], -1.0).argmax()


def _without_votes(matrix: VoteMatrix, asked: Bools) -> Floats:
    """The score where nobody votes: that of the first that came, if all of them say None."""
    came = asked[:, None, :] & (matrix.answers != MISSING)
    refused = (came & (matrix.answers == REFUSED)).any(axis=2)
    first = matrix.scores[np.arange(len(matrix)), came.argmax(axis=2)]
    return np.where(came.any(axis=2) & ~refused, first, 0.0)
