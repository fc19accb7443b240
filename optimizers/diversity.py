"""How far proposals fail together: what voting and picking can gain at most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation.intervals import Interval, mean_interval, wilson

from .vote_matrix import VoteMatrix

__all__ = ["Diversity", "effective_voters", "error_correlation", "shared_errors"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Diversity:
    """How a panel's agents fail together.

    Attributes:
        agents: Of the rows and columns of the matrices.
        oracle: The mean score of the best proposal: the bound for all that pick one.
        oracle_interval: Its 95% interval.
        all_fail: The share of questions on which every proposal scores 0: no vote and no choice can be right there.
        all_fail_interval: Its 95% interval, Wilson's.
        correlation: Of the errors of two agents, -1 to 1; NaN where one has none, or nothing else.
        same_error: Of the questions on which both are wrong, the share with the same wrong answer; NaN without any.
        mean_correlation: Over all pairs; None if it is known for none.
        effective: How many independent voters the agents are worth; see `effective_voters`.
    """

    agents: Sequence[str]
    oracle: float
    oracle_interval: Interval
    all_fail: float
    all_fail_interval: Interval
    correlation: Floats
    same_error: Floats
    mean_correlation: float | None
    effective: float | None

    @classmethod
    def of(cls, matrix: VoteMatrix, seed: int = 0) -> Diversity:
        """Measured on recorded proposals.

        Args:
            matrix: The proposals; agents that give several are taken at the mean of their scores.
            seed: Of the bootstrap.
        """
        best = matrix.scores.max(axis=1)
        failed = int((best <= 0).sum())
        correlation = error_correlation(matrix.solo)
        pairs = correlation[np.triu_indices(len(correlation), 1)]
        known = pairs[~np.isnan(pairs)]
        rho = float(known.mean()) if known.size else None
        return cls(
            agents=matrix.names,
            oracle=float(best.mean()),
            oracle_interval=(
                wilson(int(best.sum()), len(best)) if np.isin(best, (0, 1)).all() else mean_interval(best, seed=seed)
            ),
            all_fail=failed / len(best),
            all_fail_interval=wilson(failed, len(best)),
            correlation=correlation,
            same_error=shared_errors(matrix),
            mean_correlation=rho,
            effective=1.0
            if len(correlation) == 1
            else None
            if rho is None
            else effective_voters(len(correlation), rho),
        )


def effective_voters(voters: int, correlation: float) -> float:
    """How many voters that err independently are worth as much as these: `n / (1 + (n - 1) rho)`.

    The design effect (Kish, "Survey Sampling", 1965, section 5.4): the mean of n measurements with this mean
    correlation varies as much as that of so many independent ones. A negative correlation counts as 0.

    Args:
        voters: How many there are, n.
        correlation: The mean correlation of the errors of two of them, rho.

    Example:
        >>> effective_voters(9, 0.0), effective_voters(9, 1.0), effective_voters(9, 0.4375)
        (9.0, 1.0, 2.0)
    """
    return voters / (1 + (voters - 1) * min(max(correlation, 0.0), 1.0))


def error_correlation(scores: npt.ArrayLike) -> Floats:
    """Pearson's correlation of the columns of a table of questions by agents; of right and wrong, the phi coefficient.

    NaN where a column does not vary: who is always right, or always wrong, has no errors to share.
    """
    table = np.asarray(scores, dtype=float)
    centered = table - table.mean(axis=0)
    spread = np.sqrt((centered**2).sum(axis=0))
    varies = spread > 1e-9
    scale = np.where(varies, spread, 1.0)
    correlation = (centered / scale).T @ (centered / scale)
    return np.where(varies[:, None] & varies, np.clip(correlation, -1.0, 1.0), np.nan)


def shared_errors(matrix: VoteMatrix) -> Floats:
    """Of the questions on which two agents are wrong, the share on which their answers are the same.

    An agent's first proposal counts. Two different wrong answers do a vote no harm; the same one twice is a lobby.
    (Large models give the same wrong answer far more often than chance: Kim et al., "Correlated Errors in Large
    Language Models", arXiv 2506.07962.)
    """
    first = matrix.of_agents(matrix.names, samples=1)
    wrong = (first.scores <= 0) & (first.answers >= 0)
    both = wrong[:, :, None] & wrong[:, None, :]
    same = both & (first.answers[:, :, None] == first.answers[:, None, :])
    counts = both.sum(axis=0)
    return np.where(counts > 0, same.sum(axis=0) / np.maximum(counts, 1), np.nan)
