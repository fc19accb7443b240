"""Committees that vote: the best one of every size, and what it is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .optimism import corrected_scores
from .subsets import Afford, Subsets
from .vote_counting import vote_scores
from .vote_matrix import VoteMatrix

__all__ = ["Committee", "best_committees", "fewest_calls"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Committee:
    """Some of the agents, each asked so many times, and what their votes count.

    Attributes:
        agents: In declared order.
        samples: Proposals of each.
        weights: Agent -> what its vote counts.
        scores: Per question, less what they flatter themselves because it was chosen on these (see `optimism`).
    """

    agents: tuple[str, ...]
    samples: int
    weights: Mapping[str, float]
    scores: Floats

    @property
    def calls(self) -> int:
        """LM calls per question."""
        return len(self.agents) * self.samples


def best_committees(
    matrix: VoteMatrix,
    *,
    affordable: Afford = lambda agents, samples: True,
    judged: VoteMatrix | None = None,
    seed: int = 0,
) -> list[Committee]:
    """The committee of each size and number of samples, and its scores.

    Weights are log-odds (`fit_log_odds`). Of a size, the agents with the highest accuracies are taken, unless others
    make the right answers more probable (`log_likelihood`) by more than one standard error: whom to take is the
    choice that overfits, and the strongest are the choice that needs the least evidence. Of up to 8 agents all
    subsets are tried; of more, those that are left when the least useful one leaves, again and again. Scores are less
    the `optimism` of all that: one model alone, the best of many, is flattered more than all of them together.

    Args:
        matrix: The recorded proposals.
        affordable: Whether a committee (its agents, and how often each is asked) may be taken.
        judged: Other questions to take the scores from.
        seed: Of the bootstrap.

    Returns:
        In the order of calls; none of a size that is not affordable.

    Raises:
        MetricError: If scores are not between 0 and 1.
    """
    subsets = Subsets(matrix, affordable)
    whole = subsets.chosen(np.arange(len(matrix)))
    if not whole:
        return []
    if judged is None:
        scores = corrected_scores(
            matrix, lambda _, drawn: [c.columns for c in subsets.chosen(drawn).values()], seed=seed
        )
    else:
        scores = vote_scores(judged, [chosen.columns for chosen in whole.values()])
    made = [
        Committee(chosen.agents, samples, chosen.weights, row)
        for ((samples, _), chosen), row in zip(whole.items(), scores, strict=True)
    ]
    return sorted(made, key=lambda committee: (committee.calls, committee.samples))


def fewest_calls(scores: npt.ArrayLike, costs: Sequence[float], standard_errors: float = 0.0) -> int:
    """The cheapest of those whose mean score is within so many standard errors of the best one's.

    With 1, the one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984, section 3.4.3),
    with the standard error of the difference to the best, as all were scored on the same questions. With 0, the best
    one, and of equal ones the cheapest.

    Args:
        scores: Of shape (candidates, questions).
        costs: What each takes, in calls or in money.
        standard_errors: At least 0.

    Returns:
        The candidate's index.

    Example:
        >>> fewest_calls([[1, 1, 0, 0], [1, 1, 1, 0]], [1, 3]), fewest_calls([[1, 1, 0, 0], [1, 1, 1, 0]], [1, 3], 2.0)
        (1, 0)
    """
    table = np.asarray(scores, dtype=float)
    means = table.mean(axis=1)
    lost = table[means.argmax()] - table
    within = lost.mean(axis=1) <= standard_errors * lost.std(axis=1) / np.sqrt(table.shape[1]) + 1e-9
    return min(np.flatnonzero(within).tolist(), key=lambda index: (costs[index], -means[index], index))
