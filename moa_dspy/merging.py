"""Structured values merged in code, field by field; what is in conflict is left to a model."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from typing_extensions import is_typeddict

from moa_dspy.ballots import Ballot, count
from moa_dspy.metadata import Element

__all__ = ["Merged", "merge"]

_SCALARS = (bool, int, float, complex, Decimal, date, time, timedelta, UUID, Enum)
_IDENTITY = ("id", "key", "name", "title")


@dataclass(frozen=True)
class Merged:
    """Several values made one.

    Attributes:
        value: The merged value; meaningless in a conflict.
        elements: What the parts that could be merged say, and who supports them.
        conflicts: Paths of the parts that only a model can decide; empty if `value` stands.
    """

    value: Any = None
    elements: list[Element] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)


def merge(values: Mapping[str, Any], annotation: Any, path: str) -> Merged:
    """Merge what proposals hold in one field.

    What all agree on is kept as it is, scalars vote, lists unite, models and dicts merge part by
    part. Differing texts, a tied vote, and a merge that the type refuses are conflicts.

    Args:
        values: Proposal id -> its value, in declared order. None abstains.
        annotation: The field's declared type.
        path: How the part is named in elements and conflicts.

    Example:
        >>> merge({"a": [1, 2], "b": [2, 3]}, list[int], "sizes").value
        [1, 2, 3]
    """
    kind = _bare(annotation)
    tally = count([Ballot(id, {path: value}) for id, value in values.items()], {path: kind})
    if not tally.candidates:
        return Merged(None if all(v is None for v in values.values()) else next(iter(values.values())))
    leader = tally.candidates[0]
    if len(tally.candidates) == 1:
        kind_of = "consensus" if len(values) > 1 else "unique"
        return Merged(leader.values[path], [_element(path, leader.values[path], kind_of, leader.voters)])
    present = {id: values[id] for candidate in tally.candidates for id in candidate.voters}
    present = {id: value for id, value in values.items() if id in present}
    if _is_scalar(kind):
        if len(tally.tied) > 1:
            return Merged(conflicts=[path])
        return Merged(leader.values[path], [_element(path, leader.values[path], "majority", leader.voters)])
    if all(isinstance(value, (list, set, frozenset, tuple)) for value in present.values()):
        return _checked(_united(present, kind, path), annotation, path)
    if all(isinstance(value, (Mapping, BaseModel)) for value in present.values()):
        return _checked(_by_part(present, kind, path), annotation, path)
    return Merged(conflicts=[path])


def _by_part(values: Mapping[str, Any], kind: Any, path: str) -> Merged:
    parts = {id: _parts(value) for id, value in values.items()}
    names = list(dict.fromkeys(name for part in parts.values() for name in part))
    merged = {}
    elements, conflicts = [], []
    for name in names:
        here = {id: part[name] for id, part in parts.items() if name in part}
        result = merge(here, _part_type(kind, name), f"{path}.{name}")
        merged[name] = result.value
        elements += result.elements
        conflicts += result.conflicts
    return Merged(merged, elements, conflicts)


def _united(values: Mapping[str, Any], kind: Any, path: str) -> Merged:
    """All items, each as often as the value that has it most often, in order of first appearance."""
    item_type = (get_args(kind) or (Any,))[0]
    items: list[tuple[str, int, Any]] = []
    for id, value in values.items():
        seen: list[Any] = []
        for item in value:
            items.append((id, sum(_same_thing(item, other, item_type) for other in seen), item))
            seen.append(item)
    united, elements, conflicts = [], [], []
    while items:
        _, nth, item = items[0]
        same = [entry for entry in items if entry[1] == nth and _same_thing(entry[2], item, item_type)]
        items = [entry for entry in items if not any(entry is other for other in same)]
        result = merge({id: value for id, _, value in same}, item_type, f"{path}[{len(united)}]")
        united.append(result.value)
        conflicts += result.conflicts
        statement = _element(path, result.value, "union", [id for id, _, _ in same])
        elements.append(statement)
    return Merged(united, elements, conflicts)


def _same_thing(a: Any, b: Any, kind: Any) -> bool:
    """Equal, or structures of one identity, whose other parts can then be merged."""
    if isinstance(a, (Mapping, BaseModel)) and isinstance(b, (Mapping, BaseModel)):
        left, right = _parts(a), _parts(b)
        for name in _IDENTITY:
            if name in left and name in right:
                return _equal(left[name], right[name], Any)
    return _equal(a, b, kind)


def _equal(a: Any, b: Any, kind: Any) -> bool:
    tally = count([Ballot("a", {"item": a}), Ballot("b", {"item": b})], {"item": kind})
    return len(tally.candidates) == 1 and not tally.abstained


def _checked(merged: Merged, annotation: Any, path: str) -> Merged:
    if merged.conflicts:
        return merged
    try:
        value = TypeAdapter(annotation).validate_python(merged.value)
    except ValidationError:
        return Merged(conflicts=[path])
    return Merged(value, merged.elements)


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, BaseModel):
        return {name: getattr(value, name) for name in type(value).model_fields}
    return dict(value)


def _part_type(kind: Any, name: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[name].annotation if name in kind.model_fields else Any
    if is_typeddict(kind):
        return kind.__annotations__.get(name, Any)
    return (get_args(kind) or (Any, Any))[-1] if get_origin(kind) in (dict, Mapping) else Any


def _is_scalar(kind: Any) -> bool:
    return get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, _SCALARS))


def _bare(annotation: Any) -> Any:
    """The type without `Optional` and `Annotated`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        return _bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def _element(path: str, value: Any, kind: str, supporters: Sequence[str]) -> Element:
    return Element(statement=f"{path}: {value}", kind=kind, supported_by=list(supporters))
