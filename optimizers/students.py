"""What the optimizers that learn from recorded proposals refuse, before anything is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dspy

from moa_dspy.checks import checked_inputs
from moa_dspy.moa import MoA

__all__ = ["check_student"]


def check_student(
    student: Any, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example], optimizer: str
) -> MoA:
    """The student, refused if no proposals can be recorded of it.

    Args:
        student: What is to be compiled.
        trainset: Examples to learn from.
        valset: Further examples.
        optimizer: The name of who refuses.

    Raises:
        ValueError: If there is nothing to learn from, inputs are missing, or the mixture has layers.
        TypeError: If the student is no mixture.
    """
    if not isinstance(student, MoA):
        raise TypeError(
            f"{optimizer} compiles a MoA, and a {type(student).__name__} has no proposers to choose from. Compile the "
            "mixture inside it."
        )
    if not trainset:
        raise ValueError("The trainset is empty, so there is nothing to learn from. Give at least a few examples.")
    if len(student.panels) > 1:
        raise ValueError(
            f"{optimizer} learns from what the proposers say on their own, and in this mixture the agents of layer "
            f"{len(student.panels)} have seen others' proposals. Build it with layers=1."
        )
    inputs = student.signature.input_fields
    for example in [*trainset, *valset]:
        checked_inputs(student.signature, {name: example[name] for name in inputs if name in example})
    return student
