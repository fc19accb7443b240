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
from collections.abc import Iterable
from typing import Any

import dspy
import pydantic
from pydantic.fields import FieldInfo

__all__ = ["CONSTRAINTS", "GENERIC", "PLAIN", "TEXT_CONSTRAINTS", "constraints_of"]

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
        for name, value in _parts(item).items():
            value = value.pattern if isinstance(value, re.Pattern) else value
            if name in CONSTRAINTS and isinstance(value, (str, int, float)):
                found[name] = value
            elif value is not None:
                lacks.append(f"{name}={value!r}" if name in CONSTRAINTS else name)
    return {name: found[name] for name in CONSTRAINTS if name in found}, lacks


def _parts(item: Any) -> dict[str, Any]:
    if isinstance(item, FieldInfo):
        constraints, lacks = constraints_of(item.metadata)
        named = {name: getattr(item, name) for name in ("description", "discriminator", "title")}
        return {**constraints, **dict.fromkeys(lacks, True), **named}
    if dataclasses.is_dataclass(item) and not isinstance(item, type) and type(item).__module__ in _CONSTRAINING:
        return {f.name: getattr(item, f.name) for f in dataclasses.fields(item)}
    if type(item).__name__ == "_PydanticGeneralMetadata":
        return dict(vars(item))
    function = getattr(item, "func", item)
    name = getattr(function, "__qualname__", None) or type(item).__qualname__
    return {f"{name}()" if inspect.isroutine(function) else name: True}


_CONSTRAINING = ("annotated_types", "pydantic.types")
