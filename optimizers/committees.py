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

__all__ = ["Committee", "best_committees", "pick"]

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


def pick(scores: npt.ArrayLike, costs: Sequence[float], standard_errors: float | None = None) -> int:
    """The candidate to use, by its scores and what it costs.

    The best score of many is a matter of chance on a few hundred questions, so two candidates need no evidence: the
    cheapest (one model alone) and the dearest (all of them). The better one of these is taken, unless another is
    proven better, by a paired 95% interval. Picking the best score instead loses up to 0.7 points on real answers to
    264 questions or fewer, see `tests/bench/committees.py`.

    Args:
        scores: Of shape (candidates, questions).
        costs: What each takes, in calls or in money.
        standard_errors: If given, the cheapest of those whose mean is within so many standard errors of the best one;
            with 1, the one-standard-error rule (Breiman et al., "Classification and Regression Trees", 1984, section
            3.4.3). The standard error is that of the difference, as all were scored on the same questions.

    Returns:
        The candidate's index; of equal ones, the cheapest.

    Example:
        >>> pick([[1, 1, 0, 0], [1, 1, 1, 0]], [1, 3]), pick([[1, 1, 0, 0], [1, 1, 1, 0]], [1, 3], 2.0)
        (1, 0)
    """
    table = np.asarray(scores, dtype=float)
    order = sorted(range(len(table)), key=lambda index: (costs[index], -table[index].mean(), index))
    table = table[order]
    means = table.mean(axis=1).round(9)
    if standard_errors is not None:
        lost = table[means.argmax()] - table
        return order[int(np.argmax(lost.mean(axis=1) <= standard_errors * _standard_error(lost) + 1e-9))]
    anchor = 0 if means[0] >= means[-1] else len(table) - 1
    gained = table - table[anchor]
    evident = gained.mean(axis=1) > _PROVEN * _standard_error(gained) + 1e-9
    best = int(np.where(evident, means, -np.inf).argmax()) if evident.any() else anchor
    return order[int(np.argmax(means == means[best]))]


_PROVEN = 1.96  # standard errors: two-sided, at 95%


def _standard_error(differences: Floats) -> Floats:
    spread: Floats = differences.std(axis=1) / np.sqrt(differences.shape[1])
    return spread
