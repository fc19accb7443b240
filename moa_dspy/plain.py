"""Any value as plain data, the same in every process: what goes into prompts, seeds and comparisons."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping, Set
from enum import Enum
from typing import Any

import dspy
from dspy.adapters.types.base_type import CUSTOM_TYPE_START_IDENTIFIER
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

__all__ = ["as_json", "as_text", "plain"]


def plain(value: Any, opaque: Callable[[Any], str] | None = None) -> Any:
    """The value as strings, numbers, lists and dicts; sets are sorted, lone surrogates replaced.

    Args:
        value: Anything.
        opaque: Names what has no plain form; by default its repr, without the address in memory.

    Example:
        >>> plain({"tags": {"b", "a"}, "none": None})
        {'tags': ['a', 'b'], 'none': None}
    """
    opaque = opaque or _named
    try:
        return _plain(value, opaque)
    except Exception:  # a structure that holds itself, or a serializer of somebody's own
        return opaque(value)


def as_json(value: Any, opaque: Callable[[Any], str] | None = None) -> str:
    """The plain value as JSON, the same for equal values."""
    return json.dumps(plain(value, opaque), sort_keys=True, ensure_ascii=False)


def as_text(value: Any) -> str:
    """The plain value as a reader likes it: text as it is, structures indented, with real line breaks."""
    data = plain(value)
    return _unescaped(json.dumps(data, ensure_ascii=False, indent=2)) if isinstance(data, (dict, list)) else str(data)


def _plain(value: Any, opaque: Callable[[Any], str]) -> Any:
    if isinstance(value, Enum):
        value = value.value
    elif isinstance(value, BaseModel):
        value = _of_model(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif callable(listed := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        value = listed()
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, Mapping):
        return {str(_plain(key, opaque)): _plain(item, opaque) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item, opaque) for item in value]
    if isinstance(value, Set):
        return sorted((_plain(item, opaque) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, (Iterator, BaseException)):
        return opaque(value)
    try:
        return to_jsonable_python(value)  # dates, decimals, paths, ...
    except ValueError:
        return opaque(value)


def _of_model(value: BaseModel) -> Any:
    if isinstance(value, dspy.Type):
        # An image would be its whole data between DSPy's markers; its repr says which one it is.
        text = value.model_dump()
        return repr(value) if isinstance(text, str) and CUSTOM_TYPE_START_IDENTIFIER in text else text
    return value.model_dump(warnings=False)


def _named(value: Any) -> str:
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))  # the address differs between processes


def _unescaped(text: str) -> str:
    """JSON with real line breaks; a backslash before an n stays one."""
    pieces = text.split("\\\\")
    return "\\\\".join(piece.replace("\\n", "\n") for piece in pieces)
