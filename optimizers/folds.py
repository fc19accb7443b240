"""Cross-validation: which questions are held out."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

__all__ = ["FOLDS", "REPEATS", "held_out"]

FOLDS, REPEATS = 5, 5


def held_out(
    questions: int, *, seed: int = 0, folds: int = FOLDS, repeats: int = REPEATS
) -> Iterator[npt.NDArray[np.bool_]]:
    """Masks of the questions that are held out, fold by fold: each question once per repeat.

    Args:
        questions: How many there are; fewer than folds are held out one by one.
        seed: Of the folds.
        folds: How many parts the questions are cut into.
        repeats: How often, in other parts each time.

    Example:
        >>> sum(mask.astype(int) for mask in held_out(7, repeats=2)).tolist()
        [2, 2, 2, 2, 2, 2, 2]
    """
    random, parts = np.random.default_rng(seed), min(folds, questions)
    for _ in range(repeats):
        place = random.permutation(questions) % parts
        for part in range(parts):
            yield place == part
