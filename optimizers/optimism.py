"""How much a choice flatters itself on the questions that it was made on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .vote_counting import vote_scores
from .vote_matrix import VoteMatrix

__all__ = ["corrected_scores", "optimism"]

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

RESAMPLES = 30


def optimism(
    questions: int, choose: Callable[[Indices], Floats], *, seed: int = 0, resamples: int = RESAMPLES
) -> Floats:
    """By how much scores are too high, because what they are of was chosen on the same questions.

    The bootstrap's estimate (Efron, "Estimating the Error Rate of a Prediction Rule: Improvement on
    Cross-Validation", Journal of the American Statistical Association 78, 1983; Harrell et al., Statistics in Medicine
    15, 1996): the choice is made anew on questions drawn with replacement, and what is chosen scores so much more on
    these than on all. Cross-validation is as true on average, but among models that are about equally good it takes
    whichever looks worst on the questions held out: of four that are each right on 70%, the "best" would be reported
    at 63%.

    Args:
        questions: How many there are.
        choose: Given questions (some of them several times), makes the choices, and gives what each of them scores
            on all questions: of shape (choices, questions).
        seed: Of the drawing.
        resamples: How often.

    Returns:
        One number per choice: 0 for one that is always the same, not below 0 but by chance.
    """
    random, fixed = np.random.default_rng(seed), choose(np.arange(questions))
    excess = np.zeros(len(fixed))
    for _ in range(resamples):
        drawn = random.integers(questions, size=questions)
        # What the first choice gains by the draw is chance: taken off, a choice that never changes has no optimism.
        gained = choose(drawn) - fixed
        excess += (gained[:, drawn].mean(axis=1) - gained.mean(axis=1)) / resamples
    return excess


def corrected_scores(
    matrix: VoteMatrix, weigh: Callable[[VoteMatrix, Indices], Sequence[Floats]], *, seed: int = 0
) -> Floats:
    """The scores of votes whose weights were found on the same questions, less their `optimism`.

    Args:
        matrix: The recorded proposals.
        weigh: Given some of the questions, and their indices, finds weights of the columns, one or several.
        seed: Of the drawing.

    Returns:
        Of shape (weightings, questions).
    """

    def scored(chosen: Indices) -> Floats:
        return vote_scores(matrix, np.array(weigh(matrix.rows(chosen), chosen)))

    return scored(np.arange(len(matrix))) - optimism(len(matrix), scored, seed=seed)[:, None]
