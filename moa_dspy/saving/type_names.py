"""The names under which types and their constraints stand in files: what is not here is not read."""

from __future__ import annotations

import collections.abc
import dataclasses
import datetime
import decimal
import inspect
import pathlib
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import annotated_types
import dspy
import pydantic
from pydantic.fields import FieldInfo

__all__ = ["CONSTRAINTS", "GENERIC", "MARKS", "PLAIN", "TEXT_CONSTRAINTS", "constraints_of", "mark_of"]

PLAIN: dict[str, Any] = {
    "Any": Any,
    **{cls.__name__: cls for cls in (str, bool, int, float, complex, bytes, list, dict, set, frozenset, tuple)},
    **{cls.__name__: cls for cls in (datetime.date, datetime.time, datetime.datetime, datetime.timedelta)},
    **{cls.__name__: cls for cls in (decimal.Decimal, uuid.UUID, pathlib.Path)},
    **{
        name: getattr(pydantic, name)
        for name in ("AnyUrl", "HttpUrl", "EmailStr", "AwareDatetime", "NaiveDatetime", "FutureDate", "PastDate")
    },
    **{
        f"dspy.{name}": getattr(dspy, name)
        for name in ("Audio", "Code", "File", "History", "Image", "Reasoning", "Tool", "ToolCalls")
    },
}
GENERIC: dict[str, Any] = {
    **{cls.__name__: cls for cls in (list, dict, set, frozenset, tuple)},
    **{
        name: getattr(collections.abc, name)
        for name in ("Collection", "Iterable", "Mapping", "MutableMapping", "MutableSequence", "Sequence", "Set")
    },
}
# What may stand beside a type in `Annotated`; models see its repr.
MARKS: dict[str, Any] = {
    "Field": pydantic.Field,
    **{cls.__name__: cls for cls in (pydantic.Strict, pydantic.StringConstraints)},
    **{
        name: getattr(annotated_types, name)
        for name in ("Ge", "Gt", "Interval", "Le", "Len", "Lt", "MaxLen", "MinLen", "MultipleOf")
    },
}
TEXT_CONSTRAINTS = ("strip_whitespace", "to_upper", "to_lower")
CONSTRAINTS = (
    *("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places"),
    *("allow_inf_nan", "coerce_numbers_to_str", "discriminator", "strict", "union_mode"),
    *TEXT_CONSTRAINTS,
)


def constraints_of(metadata: Iterable[Any]) -> tuple[dict[str, Any], list[str]]:
    """Pydantic's constraints as `Field` takes them, and the names of what is none, such as validators."""
    found: dict[str, Any] = {}
    lacks: list[str] = []
    for item in metadata:
        for name, value in mark_of(item)[1].items():
            if name in CONSTRAINTS and isinstance(value, (str, int, float)):
                found[name] = value
            else:
                lacks.append(f"{name}={value!r}" if name in CONSTRAINTS else name)
    return {name: found[name] for name in CONSTRAINTS if name in found}, lacks


def mark_of(item: Any) -> tuple[str, dict[str, Any]]:
    """What stands beside a type, as the call that makes it: its name and its arguments."""
    if isinstance(item, FieldInfo):
        inside = dict(pair for part in item.metadata for pair in mark_of(part)[1].items())
        named = {name: getattr(item, name) for name in ("description", "discriminator", "title")}
        return "Field", _given({**inside, **named})
    if type(item).__name__ == "_PydanticGeneralMetadata":
        return "Field", _given(vars(item))
    if type(item) in MARKS.values():
        return type(item).__name__, _given({f.name: getattr(item, f.name) for f in dataclasses.fields(item)})
    function = getattr(item, "func", item)
    name = getattr(function, "__qualname__", None) or type(item).__qualname__
    return "", {f"{name}()" if inspect.isroutine(function) else name: True}


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in arguments.items() if value is not None}
    return {name: value.pattern if isinstance(value, re.Pattern) else value for name, value in given.items()}
