"""Vote weights without labels: whoever tends to agree with the others is taken to be right more often."""

from __future__ import annotations

from enum import Enum
from typing import Any, Literal, get_args, get_origin

import numpy as np
import numpy.typing as npt

from moa_dspy.moa import MoA
from moa_dspy.strategies import Voting
from moa_dspy.strategies.answers import answer_of

from .log_odds import PRIOR, FittedWeights, check_settings, log_odds, shrunk
from .vote_matrix import VoteMatrix

__all__ = ["dawid_skene", "wrong_answers"]

Floats = npt.NDArray[np.float64]

ALTERNATIVES = 9.0
_ROUNDS, _PRECISION = 1000, 1e-10


def dawid_skene(matrix: VoteMatrix, *, alternatives: float = ALTERNATIVES, prior: float = PRIOR) -> FittedWeights:
    """Weights from proposals alone, by expectation maximization.

    Dawid and Skene, "Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm" (Applied
    Statistics 28, 1979), with one parameter per agent, its accuracy (the "one-coin" model; Li and Yu, "Error Rate
    Bounds and Iterative Weighted Majority Voting for Crowdsourcing", 2014). Each question has answers of its own:
    those that were given and, as all may be wrong, others that nobody gave. An agent gives the right one with its
    accuracy p, and each of the wrong ones with (1 - p) / alternatives. It starts from the shares of the votes, so
    that the result is the same every time.

    It takes agents to err independently. Those that make the same mistakes vouch for each other: where errors are
    shared, the weights are too high for those that share them, and a few labels are worth more.

    Args:
        matrix: The recorded proposals; their scores are not looked at.
        alternatives: How many wrong answers there are: 1 for yes or no; open answers have no number, 9 stands for
            "some", as in the multi-class weight ln(9p / (1 - p)).
        prior: Draws accuracies to their mean; see `shrunk`.

    Returns:
        The weights; `right` and `accuracy` are estimates.

    Raises:
        ValueError: If nobody votes, or a setting is out of range.
    """
    check_settings(alternatives, prior)
    cast = (matrix.answers >= 0).astype(float)
    if not cast.any():
        raise ValueError("All proposals abstain or failed, so there is no agreement to learn from.")
    votes = matrix.owners @ cast.sum(axis=0)
    truth = matrix.classes.sum(axis=1) / np.maximum(cast.sum(axis=1, keepdims=True), 1)
    accuracy = _accuracy(matrix, truth, votes, prior)
    for _ in range(_ROUNDS):
        before = accuracy
        truth = _truth(matrix, accuracy, alternatives)
        accuracy = _accuracy(matrix, truth, votes, prior)
        if np.abs(accuracy - before).max() < _PRECISION:
            break

    def named(values: Floats) -> dict[str, float]:
        return dict(zip(matrix.names, values.tolist(), strict=True))

    return FittedWeights(
        weights=named(log_odds(accuracy, alternatives)),
        accuracy=named(accuracy),
        right=named(_right(matrix, truth)),
        votes=named(votes),
        alternatives=alternatives,
    )


def wrong_answers(moa: MoA) -> float:
    """How many wrong answers there are to a question, as far as the type of what is voted on says it; else 9."""
    types: dict[str, Any] = {name: field.annotation for name, field in moa.signature.output_fields.items()}
    fields = answer_of(moa.signature, moa.strategy.fields if isinstance(moa.strategy, Voting) else None).fields
    kind: Any = types.get(fields[0]) if len(fields) == 1 else Any
    if kind is bool:
        return 1.0
    if get_origin(kind) is Literal:
        return max(1.0, len(get_args(kind)) - 1.0)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return max(1.0, len(kind) - 1.0)
    return ALTERNATIVES


def _truth(matrix: VoteMatrix, accuracy: Floats, alternatives: float) -> Floats:
    """The E-step: how probably each answer is the right one, given all votes."""
    odds = np.log(alternatives * accuracy / (1 - accuracy)) @ matrix.owners
    support = np.einsum("qvc,v->qc", matrix.classes, odds)
    given = matrix.classes.any(axis=1)
    # An answer that nobody gave has no vote for it: support 0, weight 1.
    others = np.maximum(alternatives + 1 - given.sum(axis=1), 0.0)
    top = np.maximum(np.where(given, support, 0.0).max(axis=1, keepdims=True), 0.0)
    weight = np.exp(support - top) * given
    total: Floats = weight.sum(axis=1, keepdims=True) + others[:, None] * np.exp(-top)
    return weight / np.where(total, total, 1.0)


def _accuracy(matrix: VoteMatrix, truth: Floats, votes: Floats, prior: float) -> Floats:
    """The M-step."""
    return shrunk(_right(matrix, truth), votes, prior)


def _right(matrix: VoteMatrix, truth: Floats) -> Floats:
    return matrix.owners @ np.einsum("qvc,qc->v", matrix.classes, truth)
