"""The probability that an answer is right, by logistic regression that is shrunk to equal weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moa_dspy.certainty.evidence import MEASURES

__all__ = ["Fitted", "fit", "predict"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_RIDGES = (3.0, 30.0)  # of what agents add: some, or next to nothing
_FOLDS = 20
_NEWTON = 30


@dataclass(frozen=True)
class Fitted:
    """A logistic regression.

    Attributes:
        coefficients: Of the columns.
        held_out: Of each row, the confidence that it would have had, had it not taken part; on the scale of the
            final fit. What is claimed of the fit is claimed of these.
    """

    coefficients: Floats
    held_out: Floats


def fit(rows: npt.ArrayLike, right: npt.ArrayLike) -> Fitted:
    """Fit the probability that an answer is right.

    `support` and the constant are free; what else is measured is drawn to 0, and so is what single agents add, so that
    little data give equal weights. How strongly agents are drawn is decided by the likelihood of rows held out.

    A row's place among all rows, by the fit of the other folds, is what is pooled over folds, and not the probability
    itself: folds with more errors get higher ones from the others, which would put errors on top.

    Args:
        rows: Of shape (questions, columns), as `Evidence.row` gives them.
        right: Of each, 1 if the answer is right, else 0.
    """
    features, truth = np.asarray(rows, dtype=float), np.asarray(right, dtype=float)
    fold = np.random.default_rng(0).permutation(len(truth)) % _FOLDS
    tried = [_hold_out(features, truth, fold, _penalise(features.shape[1], ridge)) for ridge in _RIDGES]
    best = max(range(len(tried)), key=lambda number: tried[number][0])
    coefficients = _solve(features, truth, _penalise(features.shape[1], _RIDGES[best]))
    falling = -np.sort(-predict(coefficients, features))
    return Fitted(coefficients, falling[tried[best][1] - 1])


def predict(coefficients: Floats, rows: Floats) -> Floats:
    """The probabilities, strictly between 0 and 1."""
    probabilities: Floats = 1 / (1 + np.exp(-np.clip(rows @ coefficients, -30.0, 30.0)))
    return probabilities


def _hold_out(rows: Floats, right: Floats, fold: npt.NDArray[np.int64], penalty: Floats) -> tuple[float, Ints]:
    """The log-likelihood of rows held out, and how many of all rows are at least as sure as each of them."""
    likelihood, places, whole = 0.0, np.zeros(len(right), dtype=np.int64), _solve(rows, right, penalty)
    for number in range(_FOLDS):
        out = fold == number
        guessed = predict(_solve(rows[~out], right[~out], penalty, whole), rows)
        likelihood += float(np.log(np.where(right == 1, guessed, 1 - guessed)[out]).sum())
        places[out] = len(right) - np.searchsorted(np.sort(guessed), guessed[out] - 1e-12)
    return likelihood, places


def _penalise(columns: int, ridge: float) -> Floats:
    penalty = np.full(columns, ridge)
    penalty[: len(MEASURES)] = 1.0
    penalty[:2] = 0.01  # the constant and `support`
    return penalty


def _solve(rows: Floats, right: Floats, penalty: Floats, start: Floats | None = None) -> Floats:
    """The coefficients of most penalised likelihood, by Newton's method with halved steps."""

    def lose(at: Floats) -> float:
        odds = rows @ at
        return float(np.logaddexp(0, odds).sum() - right @ odds + penalty @ (at * at) / 2)

    found = np.zeros(rows.shape[1]) if start is None else start
    lost = lose(found)
    for _ in range(_NEWTON):
        guessed = predict(found, rows)
        slope = rows.T @ (guessed - right) + penalty * found
        curve = (rows * (guessed * (1 - guessed))[:, None]).T @ rows + np.diag(penalty)
        step, before = np.linalg.solve(curve, slope), lost
        while (lost := lose(found - step)) > before + 1e-12 and np.abs(step).max() > 1e-9:
            step = step / 2
        found = found - step
        if before - lost < 1e-8:
            break
    return found
