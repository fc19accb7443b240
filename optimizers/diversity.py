"""How far proposals fail together: what voting and picking can gain at most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation import Interval, mean_interval, wilson

from .votes import Floats, Votes

__all__ = ["Diversity"]


@dataclass(frozen=True)
class Diversity:
    """How a panel's agents fail together.

    Attributes:
        agents: Of the rows and columns of the matrices.
        oracle: The mean score of the best proposal: the bound for all that pick one.
        oracle_interval: Its 95% interval.
        all_fail: The share of questions on which every proposal scores 0: no vote and no choice can be right there.
        all_fail_interval: Its 95% interval, Wilson's.
        correlation: Of the errors of two agents, -1 to 1; None where one has none, or nothing else.
        same_error: Of the questions on which both are wrong, the share with the same wrong answer; None without any.
            Two different wrong answers do a vote no harm; the same one twice is a lobby. (Large models give the same
            wrong answer far more often than chance: Kim et al., "Correlated Errors in Large Language Models", arXiv
            2506.07962.)
        mean_correlation: Over all pairs; None if it is known for none.
        effective: How many independent voters the agents are worth, `n / (1 + (n - 1) rho)` with the mean
            correlation rho: the design effect (Kish, "Survey Sampling", 1965, section 5.4).
    """

    agents: list[str]
    oracle: float
    oracle_interval: Interval
    all_fail: float
    all_fail_interval: Interval
    correlation: list[list[float | None]]
    same_error: list[list[float | None]]
    mean_correlation: float | None
    effective: float | None

    @classmethod
    def of(cls, votes: Votes, seed: int = 0) -> Diversity:
        """Measured on recorded votes; agents that give several are taken at the mean of their scores."""
        best = votes.scores.max(axis=1)
        failed, asked, count = int((best <= 0).sum()), len(best), len(votes.agents)
        is_accuracy = np.isin(best, (0, 1)).all()
        correlation = _correlation(votes.alone)
        pairs = correlation[np.triu_indices(count, 1)]
        known = pairs[~np.isnan(pairs)]
        rho = float(known.mean()) if known.size else None
        effective = 1.0 if count == 1 else None if rho is None else count / (1 + (count - 1) * min(max(rho, 0.0), 1.0))
        return cls(
            agents=votes.agents,
            oracle=float(best.mean()),
            oracle_interval=wilson(int(best.sum()), asked) if is_accuracy else mean_interval(best, seed=seed),
            all_fail=failed / asked,
            all_fail_interval=wilson(failed, asked),
            correlation=_known(correlation),
            same_error=_known(_same_errors(votes)),
            mean_correlation=rho,
            effective=effective,
        )


def _correlation(scores: Floats) -> Floats:
    """Pearson's correlation of the columns; of right and wrong, the phi coefficient."""
    centered = scores - scores.mean(axis=0)
    spread = np.sqrt((centered**2).sum(axis=0))
    varies = spread > 1e-9
    scaled = centered / np.where(varies, spread, 1.0)
    return np.where(varies[:, None] & varies, np.clip(scaled.T @ scaled, -1.0, 1.0), np.nan)


def _same_errors(votes: Votes) -> Floats:
    first = votes.of_agents(votes.agents, samples=1)
    wrong = (first.scores <= 0) & (first.answers >= 0)
    both = wrong[:, :, None] & wrong[:, None, :]
    counts = both.sum(axis=0)
    same = (both & (first.answers[:, :, None] == first.answers[:, None, :])).sum(axis=0)
    return np.where(counts > 0, same / np.maximum(counts, 1), np.nan)


def _known(matrix: npt.NDArray[np.float64]) -> list[list[float | None]]:
    return [[None if np.isnan(number) else float(number) for number in row] for row in matrix]
