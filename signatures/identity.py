"""Signatures as DSPy's optimizers use them: to know predictors by, and to be written into."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dspy

from .task import for_role


def tell_apart(predictors: Iterable[tuple[str, dspy.Predict]]) -> None:
    """Mark the predictors that GEPA and Refine would take for one another.

    They match by signature, so of two programs for one task each would be handed the other's traces
    and hints. The mark is not shown to any model.

    Args:
        predictors: With their names, as `named_predictors()` gives them; the first of its kind keeps its class.
    """
    known: list[type[dspy.Signature]] = []
    for name, predictor in predictors:
        signature: Any = predictor.signature
        if any(signature.equals(other) for other in known):
            predictor.signature = signature = for_role(signature, name)
        known.append(signature)


def duplicate(signature: type[dspy.Signature]) -> type[dspy.Signature]:
    """Another class with the very same prompt.

    InferRules writes its rules into the signature class itself: what shares the class with the
    candidate (the student, every other candidate, the user's own code) would be rewritten too.
    """
    return signature.with_instructions(signature.instructions)
