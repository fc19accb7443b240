"""Classes that a signature's types name: pydantic models and enums, as they stand in a file."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from typing import Any

import dspy
from pydantic import BaseModel, RootModel

from moa_dspy.saving.field_state import WriteType, field_state, json_or_none
from moa_dspy.saving.saved_format import SavedField, SavedType

__all__ = ["class_state"]


def class_state(cls: Any, write: WriteType) -> SavedType:
    """A class as it stands in a file; of one that is neither a model nor a plain enum, only its name.

    Args:
        cls: The class.
        write: Writes the types of its fields.
    """
    path = f"{getattr(cls, '__module__', '?')}:{getattr(cls, '__qualname__', repr(cls))}"
    state: dict[str, Any] = {"class": path}
    if isinstance(cls, type) and issubclass(cls, BaseModel) and not issubclass(cls, dspy.Type):
        cls.model_rebuild(raise_errors=False)  # else types that were named ahead are not known yet
        state |= _doc(cls, None) | _of_model(cls, write)
    elif isinstance(cls, type) and issubclass(cls, enum.Enum):
        state |= _of_enum(cls)
    if lacks := [*getattr(cls, "__moa_lacks__", ()), *state.get("lacks", ())]:
        state["lacks"] = lacks
    return SavedType(**state)


def _of_model(cls: type[BaseModel], write: WriteType) -> dict[str, Any]:
    config = {name: json_or_none(value) for name, value in cls.model_config.items()}
    lacks = [f"config {name}" for name, value in config.items() if value is None and cls.model_config.get(name)]
    state: dict[str, Any] = {}
    if config := {name: value for name, value in config.items() if value is not None}:
        state["config"] = config
    if issubclass(cls, RootModel):
        state["root"], lost = write(cls.model_fields["root"].annotation)
        lacks += lost
    else:
        state["fields"] = [_of_field(name, info, write) for name, info in cls.model_fields.items()]
    lacks += _functions(cls)
    return {**state, "lacks": lacks} if lacks else state


def _of_field(name: str, info: Any, write: WriteType) -> SavedField:
    field = field_state(name, info, write)
    if info.json_schema_extra is None:
        return field
    extra = json_or_none(info.json_schema_extra)
    if isinstance(extra, dict):
        return field.model_copy(update={"extra": extra})
    return field.model_copy(update={"lacks": [*field.lacks, "json_schema_extra"]})


def _functions(cls: type[BaseModel]) -> list[str]:
    """What the class does beside holding fields: validators, serializers, computed fields."""
    decorators = cls.__pydantic_decorators__
    named = [name for kind in dataclasses.fields(decorators) for name in getattr(decorators, kind.name)]
    hooks = [
        hook
        for hook in ("__get_pydantic_core_schema__", "__get_pydantic_json_schema__", "model_post_init")
        if getattr(cls, hook) is not getattr(BaseModel, hook) and _is_own(cls, hook)
    ]
    return [f"{name}()" for name in [*named, *hooks]]


def _is_own(cls: type[BaseModel], name: str) -> bool:
    return any(name in vars(base) for base in cls.__mro__ if base.__module__.partition(".")[0] != "pydantic")


def _of_enum(cls: type[enum.Enum]) -> dict[str, Any]:
    kind: Any = cls
    members = {name: member.value for name, member in cls.__members__.items()}
    base = next((name for known, name in _BASES.items() if issubclass(cls, known)), None)
    plain = all(value is None or type(value) in (str, int, float, bool) for value in members.values())
    if not plain or issubclass(cls, enum.Flag) or (base is None and kind._member_type_ is not object):
        return {}
    lacks = ["_missing_()"] if "_missing_" in vars(cls) else []
    optional = {"base": base, "lacks": lacks}
    return {**_doc(cls, "An enumeration."), "members": members, **{k: v for k, v in optional.items() if v}}


# From the narrowest.
_BASES: dict[type, str] = {
    **({enum.StrEnum: "StrEnum"} if hasattr(enum, "StrEnum") else {}),
    enum.IntEnum: "IntEnum",
    str: "str",
    int: "int",
    float: "float",
}


def _doc(cls: type, standard: str | None) -> dict[str, str]:
    doc = vars(cls).get("__doc__")
    return {"doc": inspect.cleandoc(doc)} if doc and doc != standard else {}
