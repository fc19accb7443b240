"""What the optimizers that know of agents refuse, before anything is paid for."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import dspy

from moa_dspy.evaluation.metrics import METRICS
from moa_dspy.moa import MoA
from moa_dspy.values import check_inputs

__all__ = ["check_mixture", "check_student", "checked_examples", "checked_sets"]

logger = logging.getLogger(__name__)

Examples = list[dspy.Example]


def check_student(student: Any, optimizer: str) -> MoA:
    """The student, refused if no proposals can be recorded of it.

    Args:
        student: What is to be compiled.
        optimizer: The name of who refuses.

    Raises:
        ValueError: If the mixture has layers.
        TypeError: If the student is no mixture.
    """
    check_mixture(student, optimizer)
    if len(student.panels) > 1:
        raise ValueError(
            f"{optimizer} learns from what the proposers say on their own, and in this mixture the agents of layer "
            f"{len(student.panels)} have seen others' proposals. Build it with layers=1."
        )
    mixture: MoA = student
    return mixture


def check_mixture(student: Any, what: str) -> None:
    """Refuse what is no mixture.

    Raises:
        TypeError: Saying so.
    """
    if not isinstance(student, MoA):
        kind = f"the class {student.__name__}" if isinstance(student, type) else f"a {type(student).__name__}"
        raise TypeError(
            f"{what} works on the agents of a MoA, and {kind} has none of its own. Give it the mixture itself, also "
            "where that is a part of a larger program."
        )


def checked_sets(
    moa: MoA, trainset: Iterable[dspy.Example], valset: Iterable[dspy.Example] | None, metric: Any
) -> tuple[Examples, Examples]:
    """Both sets, checked; see `checked_examples`. Warns of what stands in both.

    Args:
        moa: The mixture.
        trainset: Examples to learn from.
        valset: Examples to compare by; None or empty gives none.
        metric: What scores them.
    """
    train = checked_examples(moa, trainset, metric)
    val = checked_examples(moa, valset, metric, name="valset") if valset else []
    seen = {_question(example) for example in train}
    if twice := sum(_question(example) in seen for example in val):
        logger.warning(
            "%d of %d examples of the valset stand in the trainset too: what is tuned on them looks better than it is.",
            twice,
            len(val),
        )
    return train, val


def checked_examples(moa: MoA, examples: Iterable[dspy.Example], metric: Any, name: str = "trainset") -> Examples:
    """The examples with the inputs that the mixture takes, whether or not `with_inputs` was called.

    Args:
        moa: The mixture.
        examples: What is to be asked.
        metric: What scores the answers: one that comes with a name needs gold outputs.
        name: What the examples are called.

    Raises:
        ValueError: If there are none, or inputs or gold outputs are missing.
        TypeError: If these are no examples.
    """
    if isinstance(examples, (str, bytes)) or not isinstance(examples, Iterable | None):
        raise TypeError(f"The {name} is no list of dspy.Example, but {type(examples).__name__}.")
    checked = [_checked(moa, example, metric, f"{name}[{number}]") for number, example in enumerate(examples or ())]
    if not checked:
        raise ValueError(f"The {name} is empty, so there is nothing to go by. Give at least a few examples.")
    return checked


def _checked(moa: MoA, example: Any, metric: Any, name: str) -> dspy.Example:
    inputs, outputs = moa.signature.input_fields, moa.signature.output_fields
    if not isinstance(example, dspy.Example):
        raise TypeError(
            f"{name} is no dspy.Example but {type(example).__name__}. Write dspy.Example(**row)"
            f".with_inputs({', '.join(map(repr, inputs))}) of it."
        )
    holds = f"{name} holds {', '.join(example.keys()) or 'nothing'}"
    try:
        given = check_inputs(moa.signature, {field: example[field] for field in inputs if field in example})
    except ValueError as error:
        raise ValueError(f"{holds}. {error}") from error
    if isinstance(metric, str) and metric in METRICS and not any(output in example for output in outputs):
        raise ValueError(
            f"{holds}, and no gold value for {' or '.join(outputs)}, with which the metric {metric!r} compares. Add "
            "it, or give a metric of your own."
        )
    return example.with_inputs(*given)


def _question(example: dspy.Example) -> str:
    return repr(sorted(example.inputs().items()))
