"""Fields of signatures and of pydantic models: from pydantic's to the file's, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Annotated, Any

from pydantic import Field, StringConstraints, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from moa_dspy.saving.saved_format import SavedField
from moa_dspy.saving.type_names import TEXT_CONSTRAINTS, constraints_of

__all__ = ["constrained", "field_state", "json_or_none", "read_field"]

WriteType = Callable[[Any], tuple[str, list[str]]]


def field_state(name: str, info: FieldInfo, write: WriteType) -> SavedField:
    """A field as it stands in a file, without its `json_schema_extra`.

    Args:
        name: Its name.
        info: The field.
        write: Writes its type as text and says what that lacks.
    """
    text, lacks = write(info.annotation)
    constraints, validators = constraints_of(info.metadata)
    state: dict[str, Any] = {"name": name, "type": text}
    examples = json_or_none(info.examples)
    named = {"title": info.title, "description": info.description, "alias": info.alias, "examples": examples}
    for key, value in {"constraints": constraints, **named}.items():
        if value:
            state[key] = value
    if isinstance(info.discriminator, str):
        state["constraints"] = {**constraints, "discriminator": info.discriminator}
    lacks += [] if examples == info.examples or examples else ["examples"]
    if lacks := [*lacks, *validators, *_default(state, info), *_aliases(info)]:
        state["lacks"] = lacks
    return SavedField(**state)


def read_field(saved: SavedField, annotation: Any, extra: Mapping[str, Any] | None = None) -> tuple[Any, Any]:
    """The type and the `FieldInfo` of a saved field, as `pydantic.create_model` takes them."""
    named: dict[str, Any] = {
        key: value
        for key in ("title", "description", "alias", "examples")
        if (value := getattr(saved, key)) is not None
    }
    if saved.default_factory is not None:
        named["default_factory"] = {"list": list, "dict": dict, "set": set}[saved.default_factory]
    elif "default" in saved.model_fields_set:
        named["default"] = _typed(saved.default, annotation)
    if extra or saved.extra:
        named["json_schema_extra"] = {**saved.extra, **(extra or {})}
    return constrained(annotation, saved.constraints), Field(**named)


def constrained(annotation: Any, constraints: Mapping[str, Any]) -> Any:
    """The type with these constraints."""
    of_text: Any = {name: value for name, value in constraints.items() if name in TEXT_CONSTRAINTS}
    others: Any = {name: value for name, value in constraints.items() if name not in TEXT_CONSTRAINTS}
    annotation = Annotated[annotation, StringConstraints(**of_text)] if of_text else annotation
    return Annotated[annotation, Field(**others)] if others else annotation


def json_or_none(value: Any) -> Any:
    """The value as JSON-able data; None if it has no such form."""
    with suppress(ValueError, TypeError):
        data = to_jsonable_python(value)
        json.dumps(data, allow_nan=False)
        return data
    return None


def _default(state: dict[str, Any], info: FieldInfo) -> list[str]:
    factory: Any = info.default_factory
    if factory in (list, dict, set):
        state["default_factory"] = factory.__name__
        return []
    if factory is not None:
        return ["default_factory"]
    if info.default is PydanticUndefined:
        return []
    is_infinite = isinstance(info.default, float) and not math.isfinite(info.default)
    default = str(info.default) if is_infinite else json_or_none(info.default)
    if default is None and info.default is not None:
        return ["default"]
    state["default"] = default
    return []


def _aliases(info: FieldInfo) -> list[str]:
    aliases = {"validation_alias": info.validation_alias, "serialization_alias": info.serialization_alias}
    return [name for name, alias in aliases.items() if alias not in (None, info.alias)]


def _typed(default: Any, annotation: Any) -> Any:
    with suppress(Exception):  # a type that is not complete yet, or a default that its type does not allow
        return TypeAdapter(annotation).validate_python(default)
    return default
