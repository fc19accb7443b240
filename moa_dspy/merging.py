"""Structured values merged in code, part by part; what is in conflict is left to a model."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import AliasChoices, BaseModel, RootModel, ValidationError
from typing_extensions import is_typeddict

from moa_dspy.ballots import Ballot, count, free_text
from moa_dspy.results import Element
from moa_dspy.uniting import lined_up
from moa_dspy.values import as_text, validated

__all__ = ["Merged", "merge"]


@dataclass(frozen=True)
class Merged:
    """Several values made one.

    Attributes:
        value: The merged value; meaningless in a conflict.
        elements: What the parts that could be merged say, and who supports them.
        conflicts: Paths of the parts that only a model can decide; empty if `value` stands.
        parts: The parts of a model or a dict, where they had to be merged one by one.
    """

    value: Any = None
    elements: list[Element] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    parts: dict[Any, Merged] = field(default_factory=dict)

    @property
    def standing(self) -> Any:
        """What needs no model: the value, or of a model or a dict the parts that are not in conflict."""
        if not self.conflicts:
            return self.value
        return {name: part.standing for name, part in self.parts.items() if not part.conflicts or part.standing}

    def completed_by(self, answer: Any) -> Any:
        """A model's answer, with what needs no model put back into it; as it is, if the two do not fit."""
        if not self.conflicts:
            return self.value
        if not self.parts or not isinstance(answer, (Mapping, BaseModel)):
            return answer
        given = _parts(answer)
        known = {name: part for name, part in self.parts.items() if name in given or not part.conflicts}
        parts = {name: part.completed_by(given.get(name)) for name, part in known.items()}
        try:
            return _rebuilt(answer, {**given, **parts})
        except ValidationError:
            return answer


def merge(values: Mapping[str, Any], annotation: Any, path: str) -> Merged:
    """Merge what proposals hold in one field.

    What all agree on is kept as it is, lists unite, models and dicts merge part by part, other values
    vote. Differing texts, a tied vote, and a merge that the type refuses are conflicts.

    Args:
        values: Proposal id -> its value, in declared order. None, empty text and refusals abstain.
        annotation: The field's declared type.
        path: How the part is named in elements and conflicts.

    Example:
        >>> merge({"a": [1, 2], "b": [2, 3]}, list[int], "sizes").value
        [1, 2, 3]
    """
    kind = _bare(annotation)
    tally = count([Ballot(id, {path: value}) for id, value in values.items()], {path: kind})
    if not tally.candidates:
        return _of_nothing(values, annotation, path)
    leader = tally.candidates[0]
    value = leader.values[path]
    if len(tally.candidates) == 1:
        says = "consensus" if len(leader.voters) > 1 else "unique"
        return Merged(value, [_element(path, value, says, leader.voters)])
    present = {id: value for id, value in values.items() if id not in tally.abstained}
    if _all(present, RootModel):
        inner = merge({id: v.root for id, v in present.items()}, type(value).model_fields["root"].annotation, path)
        return _checked(replace(inner, parts={}), annotation, path)
    if _all(present, (list, set, frozenset)) or (_all(present, tuple) and Ellipsis in get_args(kind)):
        return _checked(_united(present, kind, path), annotation, path)
    if _all(present, Mapping) or (_all(present, BaseModel) and len(set(map(type, present.values()))) == 1):
        return _checked(_by_part(present, kind, path), annotation, path)
    if len(tally.tied) > 1 or (free_text(kind) and any(isinstance(value, str) for value in present.values())):
        return Merged(conflicts=[path])
    return Merged(value, [_element(path, value, "majority", leader.voters)])


def _of_nothing(values: Mapping[str, Any], annotation: Any, path: str) -> Merged:
    """All abstain: that is an answer where the type allows it, but a refusal is none."""
    held = [value for value in values.values() if value is not None]
    if any(isinstance(value, str) and value.strip() for value in held):
        return Merged(conflicts=[path])
    return _checked(Merged(held[0] if held else None), annotation, path)


def _by_part(values: Mapping[str, Any], kind: Any, path: str) -> Merged:
    holders = {id: _parts(value) for id, value in values.items()}
    names = dict.fromkeys(name for parts in holders.values() for name in parts)
    parts = {
        name: merge(
            {id: parts[name] for id, parts in holders.items() if name in parts},
            _part_type(kind, name),
            f"{path}.{name}",
        )
        for name in names
    }
    elements = [element for part in parts.values() for element in part.elements]
    conflicts = [conflict for part in parts.values() for conflict in part.conflicts]
    if conflicts:
        return Merged(None, elements, conflicts, parts)
    try:
        value = _rebuilt(next(iter(values.values())), {name: part.value for name, part in parts.items()})
    except ValidationError:
        return Merged(conflicts=[path])
    return Merged(value, elements)


def _united(values: Mapping[str, Any], kind: Any, path: str) -> Merged:
    item_kind = (get_args(kind) or (Any,))[0]
    united, elements, conflicts = [], [], []
    for place, same in enumerate(lined_up(values, item_kind)):
        item = merge(same, item_kind, f"{path}[{place}]")
        united.append(item.value)
        conflicts += item.conflicts
        if not item.conflicts:
            says = "unique" if len(same) == 1 else "consensus" if len(same) == len(values) else "union"
            elements.append(_element(path, item.value, says, list(same)))
    container = type(next(iter(values.values())))
    return Merged(container(united) if not conflicts else None, elements, conflicts)


def _checked(merged: Merged, annotation: Any, path: str) -> Merged:
    if merged.conflicts:
        return merged
    try:
        return Merged(validated(merged.value, annotation), merged.elements)
    except ValidationError:
        return Merged(conflicts=[path])


def _parts(value: Any) -> dict[Any, Any]:
    if isinstance(value, BaseModel):
        return {**{name: getattr(value, name) for name in type(value).model_fields}, **(value.model_extra or {})}
    return dict(value)


def _rebuilt(like: Any, parts: Mapping[Any, Any]) -> Any:
    """A value of the same type, of these parts.

    Raises:
        ValidationError: If they do not make one.
    """
    if not isinstance(like, BaseModel):
        return dict(parts)
    names = {name: _read_as(name, field.validation_alias) for name, field in type(like).model_fields.items()}
    return type(like).model_validate({names.get(name, name): value for name, value in parts.items()})


def _read_as(name: str, alias: Any) -> str:
    first = alias.choices[0] if isinstance(alias, AliasChoices) else alias
    return first if isinstance(first, str) else name


def _part_type(kind: Any, name: str) -> Any:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return kind.model_fields[name].rebuild_annotation() if name in kind.model_fields else Any
    if is_typeddict(kind):
        return kind.__annotations__.get(name, Any)
    return (get_args(kind) or (Any, Any))[-1] if get_origin(kind) in (dict, Mapping) else Any


def _bare(annotation: Any) -> Any:
    """The type without `Optional` and `Annotated`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _bare(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not type(None)]
        return _bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def _all(values: Mapping[str, Any], kinds: Any) -> bool:
    return all(isinstance(value, kinds) for value in values.values())


def _element(path: str, value: Any, kind: str, supporters: Sequence[str]) -> Element:
    return Element(statement=f"{path}: {as_text(value)}", kind=kind, supported_by=list(supporters))
