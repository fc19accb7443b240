"""What a declared type says of its values: which texts and numbers may stand in them, and of what parts they are."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache, wraps
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from typing_extensions import is_typeddict

__all__ = [
    "approximate",
    "bare",
    "cached_by_type",
    "free_text",
    "is_a",
    "is_closed",
    "parts_of",
    "type_leaves",
    "types_of_parts",
]

T = TypeVar("T")


def cached_by_type(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Remember what a function says of a type; types that cannot be hashed are asked about again."""
    cached = lru_cache(maxsize=512)(function)

    @wraps(function)
    def ask(annotation: Any) -> T:
        try:
            hash(annotation)
        except TypeError:  # Annotated with metadata that cannot be hashed
            return function(annotation)
        return cached(annotation)

    return ask


@cached_by_type
def free_text(annotation: Any) -> bool:
    """Whether text that nothing constrains may occur anywhere in values of this type.

    Literals, enums and text with a pattern are not free. Types that say nothing (Any, a bare `list`) may hold it.

    Example:
        >>> free_text(list[str]), free_text(Literal["yes", "no"] | None)
        (True, False)
    """
    return any(_may_hold(leaf, str) for leaf in type_leaves(annotation))


@cached_by_type
def approximate(annotation: Any) -> bool:
    """Whether numbers that are compared with a tolerance may occur anywhere in values of this type.

    Example:
        >>> approximate(dict[int, float]), approximate(int)
        (True, False)
    """
    return any(_may_hold(leaf, (float, Decimal, Fraction)) for leaf in type_leaves(annotation))


def type_leaves(annotation: Any) -> list[Any]:
    """The types that values of this type are made of in the end; Literals whole, text with a pattern as `Pattern`."""
    return list(_leaves(annotation, []))


@cached_by_type
def types_of_parts(kind: Any) -> dict[str, Any] | None:
    """The names and types that a model, dataclass, TypedDict or NamedTuple declares; None for any other type."""
    if not isinstance(kind, type):
        return None
    if issubclass(kind, BaseModel):
        return {name: field.rebuild_annotation() for name, field in kind.model_fields.items()}
    if dataclasses.is_dataclass(kind) or is_typeddict(kind) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
        try:
            return get_type_hints(kind, include_extras=True)
        except Exception:  # a forward reference that cannot be resolved
            return dict.fromkeys(getattr(kind, "__annotations__", ()), Any)
    return None


def parts_of(value: Any) -> dict[Any, Any] | None:
    """The named parts of a model, a dataclass or a mapping; None for anything else."""
    if isinstance(value, BaseModel):
        named = {name: getattr(value, name, None) for name in type(value).model_fields}
        return {**named, **(value.model_extra or {})}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.compare}
    return dict(value) if isinstance(value, Mapping) else None


def bare(annotation: Any) -> Any:
    """The type without `Optional` and `Annotated`.

    Example:
        >>> bare(Annotated[int | None, "stars"])
        <class 'int'>
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return bare(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not types.NoneType]
        return bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


@cached_by_type
def is_closed(annotation: Any) -> bool:
    """Whether this is a choice among few: a Literal, an enum, yes or no."""
    kind = bare(annotation)
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, (bool, Enum)))


def is_a(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether the type, `Optional` or not, is one of these; a bool is no number."""
    kind = bare(annotation)
    return isinstance(kind, type) and issubclass(kind, kinds) and not issubclass(kind, bool)


def _may_hold(leaf: Any, kinds: type | tuple[type, ...]) -> bool:
    if get_origin(leaf) is Literal or leaf is None:
        return False
    if leaf in (Any, object) or not isinstance(leaf, type):  # nothing is known, or a name that is not resolved
        return True
    return issubclass(leaf, kinds) and not issubclass(leaf, Enum)


def _leaves(annotation: Any, seen: list[Any]) -> Iterator[Any]:
    if annotation in seen:  # a model may hold its own kind
        return
    seen.append(annotation)
    inside = _inside(annotation)
    if not inside:
        yield annotation
    for part in inside:
        yield from _leaves(part, seen)


def _inside(annotation: Any) -> list[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return []
    if origin is Annotated:
        return [re.Pattern if args[0] is str and any(_has_pattern(item) for item in args[1:]) else args[0]]
    if isinstance(annotation, TypeVar):
        return [*annotation.__constraints__] or [annotation.__bound__ or Any]
    for alias in ("__supertype__", "__value__"):  # NewType, and `type X = ...`
        if hasattr(annotation, alias):
            return [getattr(annotation, alias)]
    kind = origin or annotation
    if not args and kind in (list, tuple, set, frozenset, dict):
        return [Any]
    return [*(types_of_parts(kind) or {}).values(), *(arg for arg in args if arg is not Ellipsis)]


def _has_pattern(item: Any) -> bool:
    return bool(getattr(item, "pattern", None)) or any(_has_pattern(part) for part in getattr(item, "metadata", ()))
