"""Vote weights from counts: how much more a right answer is to be expected of an agent than any one wrong answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation.metrics import MetricError

from .vote_counting import log_likelihood
from .vote_matrix import VoteMatrix

__all__ = ["FittedWeights", "check_settings", "fit_log_odds", "log_odds", "shrunk"]

Floats = npt.NDArray[np.float64]

ALTERNATIVES = (1.0, 1.5, 2.0, 3.0, 5.0, 9.0, 30.0, 1000.0)
_SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0, 3.0)
PRIOR = 10.0


@dataclass(frozen=True)
class FittedWeights:
    """What votes count, and what that rests on.

    Attributes:
        weights: Agent -> what its vote counts.
        accuracy: Agent -> how often it is right when it votes, shrunk to the panel's mean.
        right: Agent -> its right votes, estimated where there are no labels; fractions where scores are.
        votes: Agent -> its votes: proposals that did not abstain or fail.
        alternatives: Among how many wrong answers an agent's errors are taken to spread.
        scale: How much of the weights the votes bear out, as voters err together: weights times this are log-odds.
    """

    weights: Mapping[str, float]
    accuracy: Mapping[str, float]
    right: Mapping[str, float]
    votes: Mapping[str, float]
    alternatives: float
    scale: float = 1.0


def log_odds(accuracy: npt.ArrayLike, alternatives: float) -> Floats:
    """The weights of voters of these accuracies: `ln(alternatives * p / (1 - p))`, not below 0.

    With independent voters whose errors spread evenly over the wrong answers, the vote with these weights finds the
    right answer most often. Two answers, one of them wrong: Nitzan and Paroush, "Optimal Decision Rules in Uncertain
    Dichotomous Choice Situations" (International Economic Review 23, 1982). More: the term `ln(alternatives)` that
    Zhu et al., "Multi-class AdaBoost" (Statistics and Its Interface 2, 2009) add. Without it whoever is right less
    than half of the time would count for nothing, though to open questions it is still right far more often than
    chance. What remains below 0 is clipped: a vote cannot be turned into one for the others, as the winner is an
    actual proposal.

    Args:
        accuracy: Of each voter, between 0 and 1, both excluded.
        alternatives: The number of wrong answers, at least 1.

    Example:
        >>> log_odds([0.9, 0.5, 0.1], 9.0).round(2).tolist()
        [4.39, 2.2, 0.0]
    """
    p = np.asarray(accuracy, dtype=float)
    return np.maximum(np.log(alternatives * p / (1 - p)), 0.0)


def shrunk(right: npt.ArrayLike, votes: npt.ArrayLike, prior: float = PRIOR) -> Floats:
    """Accuracies, drawn to the mean of all: the less, the more an agent has voted.

    As if each agent had voted `prior` times more, and been right as often as all together; these are taken to have
    been right once and wrong once more (Laplace), so that no accuracy is 0 or 1.

    Args:
        right: Right votes of each agent.
        votes: Votes of each agent.
        prior: At least 0; with 0, agents are not drawn together, and each has the one more of both for itself.

    Example:
        >>> shrunk([90, 0], [100, 0], prior=10).round(3).tolist()
        [0.899, 0.892]
    """
    r, n = np.asarray(right, dtype=float), np.asarray(votes, dtype=float)
    if not prior:
        return (r + 1) / (n + 2)
    mean = (r.sum() + 1) / (n.sum() + 2)
    return (r + prior * mean) / (n + prior)


def fit_log_odds(matrix: VoteMatrix, *, alternatives: float | None = None, prior: float = PRIOR) -> FittedWeights:
    """Weights from proposals with scores.

    Args:
        matrix: The recorded proposals. An abstention is no vote: the weights are about votes that are cast.
        alternatives: See `log_odds`. None chooses what the votes bear out: of a few numbers the largest, and so the
            most equal weights, whose `log_likelihood` is within one standard error of the best (Breiman et al.,
            "Classification and Regression Trees", 1984, section 3.4.3).
        prior: See `shrunk`.

    Raises:
        MetricError: If scores are not between 0 and 1.
        ValueError: If a setting is out of range.
    """
    check_settings(alternatives, prior)
    _check_scores(matrix.scores)
    cast = matrix.answers >= 0
    votes = matrix.owners @ cast.sum(axis=0)
    right = matrix.owners @ np.where(cast, matrix.scores, 0.0).sum(axis=0)
    accuracy = shrunk(right, votes, prior)
    chosen, scale = _borne_out(matrix, accuracy, ALTERNATIVES if alternatives is None else [alternatives])
    return FittedWeights(
        weights=_named(matrix, log_odds(accuracy, chosen)),
        accuracy=_named(matrix, accuracy),
        right=_named(matrix, right),
        votes=_named(matrix, votes),
        alternatives=chosen,
        scale=scale,
    )


def _borne_out(matrix: VoteMatrix, accuracy: Floats, offered: Sequence[float]) -> tuple[float, float]:
    """The number of alternatives, and the scale."""
    weights = np.array([log_odds(accuracy, number) for number in offered])
    # Some must count at all, and one that counts alone is the only vote.
    usable = [index for index in range(len(offered)) if weights[index].any()] or [len(offered) - 1]
    means = [weights[index].mean() or 1.0 for index in usable]
    tried = np.array(
        [weights[index] * scale / mean for index, mean in zip(usable, means, strict=True) for scale in _SCALES]
    )
    fits = log_likelihood(matrix, tried @ matrix.owners).reshape(len(usable), len(_SCALES), -1)
    scales = fits.sum(axis=2).argmax(axis=1)
    each = fits[np.arange(len(usable)), scales]
    lost = each[each.sum(axis=1).argmax()] - each
    within = lost.sum(axis=1) <= lost.std(axis=1) * np.sqrt(lost.shape[1]) + 1e-9
    last = int(np.flatnonzero(within).max())
    return offered[usable[last]], _SCALES[scales[last]] / float(means[last])


def _named(matrix: VoteMatrix, values: Floats) -> dict[str, float]:
    return dict(zip(matrix.names, values.tolist(), strict=True))


def check_settings(alternatives: float | None, prior: float) -> None:
    """Refuse settings that make no sense.

    Raises:
        ValueError: If there are to be no wrong answers, or less than no votes.
    """
    if alternatives is not None and not 1 <= alternatives < np.inf:
        raise ValueError(f"alternatives={alternatives}: there is at least one wrong answer. Give a number from 1.")
    if not 0 <= prior < np.inf:
        raise ValueError(f"prior={prior} is no number of votes. Give 0 or more.")


def _check_scores(scores: Floats) -> None:
    if ((scores < 0) | (scores > 1)).any():
        raise MetricError(
            f"The metric gave scores from {scores.min():g} to {scores.max():g}, which cannot be read as right and "
            "wrong. Give a metric between 0 (wrong) and 1 (right)."
        )
