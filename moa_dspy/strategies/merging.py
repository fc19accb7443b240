"""Structured values merged in code, part by part; what is in conflict is left to a model."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Annotated, Any, Union, get_args, get_origin

import dspy
from pydantic import AliasChoices, BaseModel, RootModel, ValidationError

from moa_dspy.results import Element
from moa_dspy.strategies.aligning import align
from moa_dspy.strategies.annotations import bare, parts_of, types_of_parts
from moa_dspy.strategies.answers import explaining_parts, left_out
from moa_dspy.strategies.counting import Ballot, Candidate, count
from moa_dspy.strategies.equality import normalise, normalise_part, same
from moa_dspy.values import as_text, to_json, validated

__all__ = ["Merged", "merge", "merge_outputs"]

_MERGED_TYPES = (dspy.ToolCalls, dspy.ToolCalls.ToolCall)


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
        given = parts_of(answer) if isinstance(answer, (Mapping, BaseModel)) else None
        if not self.parts or given is None:
            return answer
        known = {name: part for name, part in self.parts.items() if name in given or not part.conflicts}
        parts = {name: part.completed_by(given.get(name)) for name, part in known.items()}
        try:
            return _rebuilt(answer, {**given, **parts})
        except ValidationError:
            return answer


def merge_outputs(
    outputs: Mapping[str, Mapping[str, Any]], annotations: Mapping[str, Any], min_support: int = 1
) -> dict[str, Merged]:
    """Merge the outputs of proposals, field by field; see `merge`.

    Args:
        outputs: Proposal id -> its outputs, in declared order.
        annotations: The task's output fields and their types.
        min_support: How many proposals must hold an item for it to stay.
    """
    return _merge_parts(outputs, annotations.__getitem__, left_out(annotations), str, min_support)


def merge(values: Mapping[str, Any], annotation: Any, path: str, min_support: int = 1) -> Merged:
    """Merge what proposals hold in one field.

    What all agree on is kept as it is. Lists are merged as sequences, sets unite, models and dicts merge part by
    part; a part that explains or grades the others follows the proposal that says most of what was merged. Any other
    value needs a majority of those that hold one; so does a list whose length means something (fixed by its type, or
    the same in all and numbers only: a box, a vector). What no majority settles, and a merge that the type refuses,
    is a conflict.

    Args:
        values: Proposal id -> its value, in declared order. None, empty text and refusals abstain.
        annotation: The field's declared type.
        path: How the part is named in elements and conflicts.
        min_support: How many proposals must hold an item of a list or a set, or a key of a dict, for it to stay.

    Example:
        >>> merge({"a": ["x", "z"], "b": ["x", "y", "z"]}, list[str], "route").value
        ['x', 'y', 'z']
    """
    kind = bare(annotation)
    tally = count([Ballot(id, {path: value}) for id, value in values.items()], {path: annotation})
    if not tally.candidates:
        return _merge_abstentions(values, annotation, path)
    leader = tally.candidates[0]
    value = leader.values[path]
    present = {id: value for id, value in values.items() if id not in tally.abstained}
    if len(tally.candidates) == 1 and (len(present) >= min_support or not _has_items(value)):
        return _settled(leader, values, present, path, min_support)
    if _all(present, RootModel):
        root = type(value).model_fields["root"].rebuild_annotation()
        inner = merge({id: v.root for id, v in present.items()}, root, path, min_support)
        return _checked(replace(inner, parts={}), annotation, path)
    if _all(present, (list, set, frozenset)) or (_all(present, tuple) and Ellipsis in get_args(kind)):
        if not _is_whole(present.values(), annotation):
            return _checked(_merge_items(present, kind, path, min_support), annotation, path)
    elif _all(present, Mapping) or _are_records(present):
        return _checked(_merge_record(present, kind, path, min_support), annotation, path)
    return _settled(leader, values, present, path, min_support)


def _settled(
    leader: Candidate, values: Mapping[str, Any], present: Mapping[str, Any], path: str, min_support: int
) -> Merged:
    """The leading value, if a majority of those that hold one agrees."""
    voters, value = leader.voters, leader.values[path]
    if 2 * len(voters) <= len(present):
        return Merged(conflicts=[path])
    if len(voters) < min_support and any(other is None for other in values.values()):
        return Merged(None)
    says = "majority" if len(voters) < len(present) else "consensus" if len(voters) > 1 else "unique"
    return Merged(value, [_element(path, value, says, voters)])


def _merge_abstentions(values: Mapping[str, Any], annotation: Any, path: str) -> Merged:
    """All abstain: that is an answer where the type allows it, but a refusal is none."""
    held = [value for value in values.values() if value is not None]
    if any(isinstance(value, str) and value.strip() for value in held):
        return Merged(conflicts=[path])
    return _checked(Merged(held[0] if held else None), annotation, path)


def _merge_items(values: Mapping[str, Any], kind: Any, path: str, min_support: int) -> Merged:
    item_kind = (get_args(kind) or (Any,))[0]
    # The order of a set of texts differs between processes.
    lists = {id: sorted(items, key=to_json) if isinstance(items, Set) else items for id, items in values.items()}
    merged: list[Any] = []
    elements: list[Element] = []
    conflicts: list[str] = []
    for same_items in align(lists, item_kind):
        if len(same_items) < min_support:
            continue
        place = f"{path}[{len(merged)}]"
        item = merge(same_items, item_kind, place)
        merged.append(item.value)
        conflicts += item.conflicts
        if not item.conflicts:
            number = len(same_items)
            says = "unique" if number == 1 else "consensus" if number == len(values) else "union"
            elements.append(_element(path, item.value, says, list(same_items), place))
    container = type(next(iter(values.values())))
    return Merged(container(merged) if not conflicts else None, elements, conflicts)


def _merge_record(values: Mapping[str, Any], kind: Any, path: str, min_support: int) -> Merged:
    holders = {id: parts_of(value) or {} for id, value in values.items()}
    if _all(values, Mapping):
        supported = Counter(name for parts in holders.values() for name in parts)
        holders = {
            id: {name: part for name, part in parts.items() if supported[name] >= min_support}
            for id, parts in holders.items()
        }
    beside = frozenset[Any]().union(*(explaining_parts(value, holders[id]) for id, value in values.items()))
    declared = types_of_parts(kind)
    value_kind = (get_args(kind) or (Any, Any))[-1] if get_origin(kind) in (dict, Mapping) else Any
    parts = _merge_parts(
        holders, lambda name: (declared or {}).get(name, value_kind), beside, lambda name: f"{path}.{name}", min_support
    )
    elements = [element for part in parts.values() for element in part.elements]
    conflicts = [conflict for part in parts.values() for conflict in part.conflicts]
    if conflicts:
        return Merged(None, elements, conflicts, parts)
    try:
        value = _rebuilt(next(iter(values.values())), {name: part.value for name, part in parts.items()})
    except ValidationError:
        return Merged(conflicts=[path])
    return Merged(value, elements)


def _merge_parts(
    holders: Mapping[str, Mapping[Any, Any]],
    type_of: Callable[[Any], Any],
    beside: frozenset[Any],
    path_of: Callable[[Any], str],
    min_support: int,
) -> dict[Any, Merged]:
    """Each part merged for itself; those beside the answer are taken from the one that best says the merged rest."""
    names = list(dict.fromkeys(name for parts in holders.values() for name in parts))
    answering = [name for name in names if name not in beside] or names
    merged = {
        name: merge(
            {id: parts[name] for id, parts in holders.items() if name in parts},
            type_of(name),
            path_of(name),
            min_support,
        )
        for name in answering
    }
    following = [name for name in names if name not in merged]
    if not following:
        return merged
    if any(part.conflicts for part in merged.values()):
        merged.update({name: Merged(conflicts=[path_of(name)]) for name in following})
    else:
        source = _best_source(holders, merged, following, type_of)
        merged.update({name: Merged(holders[source][name]) for name in following if name in holders[source]})
    return {name: merged[name] for name in names if name in merged}


def _best_source(
    holders: Mapping[str, Mapping[Any, Any]],
    merged: Mapping[Any, Merged],
    following: Sequence[Any],
    type_of: Callable[[Any], Any],
) -> str:
    """Of those that say most of what was merged, the first of the most frequent explanation."""
    said = {name: normalise(part.value, type_of(name)) for name, part in merged.items()}

    def agreeing(id: str) -> int:
        return sum(same(normalise(holders[id].get(name), type_of(name)), form) for name, form in said.items())

    def explanation(id: str) -> Hashable:
        return tuple(normalise_part(holders[id].get(name), type_of(name), exact_text=True) for name in following)

    explaining = [id for id in holders if any(name in holders[id] for name in following)]
    most = max(agreeing(id) for id in explaining)
    best = [id for id in explaining if agreeing(id) == most]
    frequency = Counter(explanation(id) for id in best)
    return max(best, key=lambda id: frequency[explanation(id)])


def _is_whole(lists: Iterable[Any], annotation: Any) -> bool:
    """Whether the length of these lists means something, so that they are one value each."""
    given = list(lists)
    if not all(isinstance(items, list) for items in given):
        return False
    shapes = {_shape(items) for items in given}
    return _has_fixed_length(annotation) or (len(shapes) == 1 and None not in shapes)


def _shape(value: Any) -> Hashable:
    """The lengths of lists of numbers, of lists of such; None if anything else stands in them."""
    if isinstance(value, list):
        inside = tuple(_shape(item) for item in value)
        return None if None in inside else inside
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    return "number" if is_number else None


def _has_fixed_length(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType):
        return any(_has_fixed_length(argument) for argument in get_args(annotation))
    if get_origin(annotation) is not Annotated:
        return False
    constraints = [part for item in get_args(annotation)[1:] for part in (item, *getattr(item, "metadata", ()))]
    least = [item.min_length for item in constraints if getattr(item, "min_length", None) is not None]
    most = [item.max_length for item in constraints if getattr(item, "max_length", None) is not None]
    return bool(least and most) and max(least) == min(most)


def _has_items(value: Any) -> bool:
    return isinstance(value, (list, set, frozenset, Mapping, BaseModel))


def _are_records(values: Mapping[str, Any]) -> bool:
    """Whether these are models of one kind that are merged part by part; DSPy's own types are one value each."""
    kinds = {type(value) for value in values.values()}
    kind = next(iter(kinds))
    if len(kinds) > 1 or not issubclass(kind, BaseModel):
        return False
    return not issubclass(kind, dspy.Type) or issubclass(kind, _MERGED_TYPES) or "confidence" in kind.model_fields


def _checked(merged: Merged, annotation: Any, path: str) -> Merged:
    if merged.conflicts:
        return merged
    try:
        return Merged(validated(merged.value, annotation), merged.elements)
    except ValidationError:
        return Merged(conflicts=[path])


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


def _all(values: Mapping[str, Any], kinds: Any) -> bool:
    return all(isinstance(value, kinds) for value in values.values())


def _element(path: str, value: Any, kind: str, supporters: Sequence[str], place: str | None = None) -> Element:
    return Element(
        statement=f"{path}: {as_text(value)}",
        path=place or path,
        value=value,
        kind=kind,
        supported_by=list(supporters),
    )
