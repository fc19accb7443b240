"""Whether fitted weights make a vote better."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moa_dspy.evaluation.intervals import difference_interval
from moa_dspy.usage import Usage

from .log_odds import PRIOR, FittedWeights
from .optimism import corrected_scores
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
        val: Those to compare on; if there are none, those to fit to, less the `optimism`.
        has_scores: Whether the proposals have scores to compare by.
        usage: What recording them took.
        seed: Of the bootstrap.
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
    if len(val):
        new, where = vote_scores(val, val.weights(fitted.weights))[0], f"On the {len(val)} examples of the valset"
    else:
        new = corrected_scores(train, lambda rows, _: [rows.weights(fit(rows).weights)], seed=seed)[0]
        where = "Less what it flatters itself on the questions it was fitted to,"
    return report.compared(float(old.mean()), float(new.mean()), difference_interval(new, old, seed=seed), where)


def _row(name: str, fitted: FittedWeights) -> AgentWeight:
    weight, votes, note = fitted.weights[name], round(fitted.votes[name]), ""
    if not weight:
        note = "clipped to 0: right too seldom, and a vote cannot count against an answer"
    elif votes < PRIOR:
        note = "few votes: its accuracy is mostly the panel's mean"
    return AgentWeight(name, weight, fitted.accuracy[name], fitted.right[name], votes, note)
