"""The outputs of any program, checked against the task's types."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from typing import Any

import dspy
from dspy.adapters.utils import apply_output_field_defaults
from pydantic import ConfigDict, TypeAdapter, ValidationError

__all__ = ["IncompleteProposal", "typed_outputs", "validated"]


class IncompleteProposal(Exception):
    """A program's prediction lacks an output of the task, or holds one of another type."""


def typed_outputs(prediction: Any, task: type[dspy.Signature]) -> dict[str, Any]:
    """The task's outputs from a prediction, typed as the task says.

    One that is missing takes its default, as in DSPy's adapters.

    Raises:
        IncompleteProposal: If one is missing or of another type.
    """
    if not isinstance(prediction, dspy.Example):
        raise IncompleteProposal(
            f"The program returned {type(prediction).__name__}; a proposer returns a dspy.Prediction with the "
            f"outputs {', '.join(task.output_fields)}."
        )
    given = {name: prediction[name] for name in task.output_fields if name in prediction}
    outputs = apply_output_field_defaults(task, given)
    missing = [name for name in task.output_fields if name not in outputs]
    if missing:
        raise IncompleteProposal(
            f"The prediction lacks {', '.join(missing)}; it has {', '.join(prediction.keys()) or 'no fields'}."
        )
    return {name: _typed(name, outputs[name], field.annotation) for name, field in task.output_fields.items()}


def validated(value: Any, annotation: Any) -> Any:
    """The value as this type, read the way pydantic does; as it is, if pydantic does not know the type.

    Raises:
        ValidationError: If it is no such value.
    """
    try:
        adapter = _adapter(annotation)
    except TypeError:  # Annotated with metadata that cannot be hashed
        adapter = _adapter.__wrapped__(annotation)
    return value if adapter is None else adapter.validate_python(value)


def _typed(name: str, value: Any, annotation: Any) -> Any:
    if value is None or type(value) is annotation:
        return value
    try:
        return validated(value, annotation)
    except ValidationError as error:
        raise IncompleteProposal(f"The output {name} is no {annotation}: {value!r:.200}") from error


@lru_cache(maxsize=256)
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    # A program of one's own may answer 5 where text is declared. Models take no configuration from outside.
    loose = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    for config in (loose, None):
        with suppress(Exception):  # a type that pydantic does not know
            return TypeAdapter(annotation, config=config)
    return None
