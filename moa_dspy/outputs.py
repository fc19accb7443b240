"""The outputs of any program, checked against the task's types."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import dspy
from pydantic import TypeAdapter, ValidationError

__all__ = ["IncompleteProposal", "typed_outputs"]


class IncompleteProposal(Exception):
    """A program's prediction lacks an output of the task, or holds one of another type."""


def typed_outputs(prediction: Any, task: type[dspy.Signature]) -> dict[str, Any]:
    """The task's outputs from a prediction, typed as the task says.

    Raises:
        IncompleteProposal: If one is missing or of another type.
    """
    if not isinstance(prediction, dspy.Example):
        raise IncompleteProposal(
            f"The program returned {type(prediction).__name__}; a proposer returns a dspy.Prediction with the "
            f"outputs {', '.join(task.output_fields)}."
        )
    missing = [name for name in task.output_fields if name not in prediction]
    if missing:
        raise IncompleteProposal(
            f"The prediction lacks {', '.join(missing)}; it has {', '.join(prediction.keys()) or 'no fields'}."
        )
    return {name: _typed(name, prediction[name], field.annotation) for name, field in task.output_fields.items()}


def _typed(name: str, value: Any, annotation: Any) -> Any:
    if value is None or type(value) is annotation:
        return value
    adapter = _adapter(annotation)
    if adapter is None:
        return value
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise IncompleteProposal(f"The output {name} is no {annotation}: {value!r:.200}") from error


@lru_cache(maxsize=256)
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except Exception:  # a type that pydantic does not know is taken as it comes
        return None
