"""Verifiers: metrics, unit tests or judges that score each proposal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import dspy

from moa_dspy.agent import Agent
from moa_dspy.concurrency import Batch, Call, Steps
from moa_dspy.rendering import group_identical
from moa_dspy.results import Proposal
from moa_dspy.strategies.base import Case

__all__ = ["Function", "Verifier", "score_proposals"]

Verifier: TypeAlias = Callable[..., Any] | dspy.Module
"""`verifier(example, prediction)`, a number or a bool; or a module from the task's fields to a `score`."""


class Function(dspy.Module):
    """A function as a module: it is given the inputs as an example, and a proposal's outputs as a prediction."""

    def __init__(self, verify: Callable[..., Any]) -> None:
        super().__init__()
        self.verify = verify

    def forward(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> Any:
        return self.verify(dspy.Example(dict(inputs)).with_inputs(*inputs), dspy.Prediction(**outputs))


def score_proposals(
    verifiers: Sequence[dspy.Module], case: Case, weights: Sequence[float]
) -> Steps[tuple[dict[str, float], list[Exception]]]:
    """The weighted mean of what the verifiers give each proposal; identical ones are scored once.

    A model's judgement of its own proposal is left out. A verifier that fails on a proposal says nothing of it.

    Returns:
        Proposal id -> score, of those that somebody scored; and what went wrong.
    """
    groups = group_identical(case.proposals)
    asked = [
        (verifier, weight, group)
        for verifier, weight in zip(verifiers, weights, strict=True)
        for group in groups
        if weight > 0 and not _is_its_own(verifier, group)
    ]
    outcomes = yield Batch([_call(verifier, case, group[0]) for verifier, _, group in asked])
    found: dict[str, list[tuple[float, float]]] = {}
    errors: list[Exception] = []
    for (_, weight, group), outcome in zip(asked, outcomes, strict=True):
        try:
            if outcome.error is not None:
                raise outcome.error
            score = _number(outcome.value)
        except Exception as error:
            errors.append(error)
        else:
            for proposal in group:
                found.setdefault(proposal.id, []).append((weight, score))
    return {id: sum(w * s for w, s in rows) / sum(w for w, _ in rows) for id, rows in found.items()}, errors


def _is_its_own(verifier: dspy.Module, group: Sequence[Proposal]) -> bool:
    lms = verifier.lms if isinstance(verifier, Agent) else [predictor.lm for predictor in verifier.predictors()]
    models = {lm.model for lm in lms if lm is not None}
    return bool(models) and all(proposal.model in models for proposal in group)


def _call(verifier: dspy.Module, case: Case, proposal: Proposal) -> Call:
    if isinstance(verifier, Function):
        return Call(verifier, {"inputs": case.inputs, "outputs": proposal.outputs})
    return Call(verifier, {**case.inputs, **proposal.outputs})


def _number(value: Any) -> float:
    score = float(value.score if isinstance(value, dspy.Prediction) else value)
    if not math.isfinite(score):
        raise ValueError(f"A verifier gave {value!r}, which is no score. Give a bool, or a finite number.")
    return score
