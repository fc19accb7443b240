"""Whether fitted weights make a vote better, on questions that they were not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from moa_dspy.accounting import Usage
from moa_dspy.intervals import difference_interval

from .folds import REPEATS, held_out
from .log_odds import PRIOR, FittedWeights
from .vote_counting import vote_scores
from .vote_matrix import VoteMatrix
from .weights_report import AgentWeight, WeightsReport

__all__ = ["judged_weights"]

Fit = Callable[[VoteMatrix], FittedWeights]


def judged_weights(
    fit: Fit,
    before: Mapping[str, float],
    train: VoteMatrix,
    val: VoteMatrix,
    *,
    has_scores: bool,
    usage: Usage,
    seed: int,
) -> WeightsReport:
    """Fit weights, and compare them with others.

    Args:
        fit: Gives the weights for recorded proposals.
        before: Agent -> the weight to compare with.
        train: The proposals to fit to.
        val: Those to compare on; if there are none, those to fit to, by cross-validation.
        has_scores: Whether the proposals have scores to compare by.
        usage: What recording them took.
        seed: Of the folds and the bootstrap.
    """
    fitted = fit(train)
    report = WeightsReport(
        method="log-odds" if has_scores else "dawid-skene",
        agents=[_row(name, fitted) for name in train.names],
        alternatives=fitted.alternatives,
        questions=len(train),
        before=None,
        after=None,
        gain=None,
        kept=any(fitted.weights.values()),
        reason=f"Fitted on {len(train)} examples.",
        usage=usage,
    )
    if not report.kept:
        return report.saying("No agent is better than chance, so no vote would count: the weights stay as they were.")
    if not has_scores:
        return report.saying("Without a metric it cannot be said whether the vote is better with them.")
    judged = val if len(val) else train
    old = vote_scores(judged, judged.weights(before))[0]
    new = vote_scores(val, val.weights(fitted.weights))[0] if len(val) else _cross_validated(fit, train, seed)
    where = f"On the {len(val)} of the valset" if len(val) else "On questions that they were not fitted on"
    return report.compared(float(old.mean()), float(new.mean()), difference_interval(new, old, seed=seed), where)


def _cross_validated(fit: Fit, matrix: VoteMatrix, seed: int) -> npt.NDArray[np.float64]:
    scores = np.zeros(len(matrix))
    for part in held_out(len(matrix), seed=seed):
        rows = matrix.rows(part)
        scores[part] += vote_scores(rows, rows.weights(fit(matrix.rows(~part)).weights))[0] / REPEATS
    return scores


def _row(name: str, fitted: FittedWeights) -> AgentWeight:
    weight, votes, note = fitted.weights[name], round(fitted.votes[name]), ""
    if not weight:
        note = "clipped to 0: right too seldom, and a vote cannot count against an answer"
    elif votes < PRIOR:
        note = "few votes: its accuracy is mostly the panel's mean"
    return AgentWeight(name, weight, fitted.accuracy[name], fitted.right[name], votes, note)
