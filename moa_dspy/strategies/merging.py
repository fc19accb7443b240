"""Structured values merged in code, part by part; what is in conflict is left to a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args, get_origin

import dspy
from pydantic import BaseModel, TypeAdapter, ValidationError

from moa_dspy.results import Element
from moa_dspy.strategies.aligning import align
from moa_dspy.strategies.answers import bare, left_out, left_out_of, parts_of, types_of_parts
from moa_dspy.strategies.counting import Ballot, Candidate, count
from moa_dspy.strategies.equality import normalise, same
from moa_dspy.values import as_text, cached, to_json, validated

__all__ = ["Merged", "merge", "merge_outputs"]


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
        given = parts_of(answer)
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
    """Merge the outputs of proposals (id -> outputs), each field by its type; see `merge`."""
    return _merge_parts(outputs, annotations, left_out(annotations), "", min_support)


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

    Examples:
        >>> merge({"a": ["x", "z"], "b": ["x", "y", "z"]}, list[str], "route").value
        ['x', 'y', 'z']
    """
    tally = count([Ballot(id, {path: value}) for id, value in values.items()], {path: annotation})
    present = {id: value for id, value in values.items() if id not in tally.abstained}
    try:
        if not present:
            return _merge_abstentions(values, annotation, path)
        leader, *others = tally.candidates
        if others or len(present) < min_support:
            if _are_records(present):
                return _merge_record(present, annotation, path, min_support)
            if _all(present, (list, set, frozenset)) and not _is_whole(present, annotation):
                return _merge_items(present, annotation, path, min_support)
        return _settle(leader, values, present, path, min_support)
    except ValidationError:
        return Merged(conflicts=[path])


def _merge_abstentions(values: Mapping[str, Any], annotation: Any, path: str) -> Merged:
    """All abstain: that is an answer where the type allows it, but a refusal is none."""
    held = [value for value in values.values() if value is not None]
    if any(isinstance(value, str) and value.strip() for value in held):
        return Merged(conflicts=[path])
    return Merged(validated(held[0] if held else None, annotation))


def _settle(
    leader: Candidate, values: Mapping[str, Any], present: Mapping[str, Any], path: str, min_support: int
) -> Merged:
    """The leading value, if a majority of those that hold one agrees."""
    voters, value = leader.voters, leader.values[path]
    if 2 * len(voters) <= len(present):
        return Merged(conflicts=[path])
    if len(voters) < min_support and None in values.values():
        return Merged(None)
    says = "majority" if len(voters) < len(present) else "consensus" if len(voters) > 1 else "unique"
    return Merged(value, [_element(path, value, says, voters)])


def _merge_items(values: Mapping[str, Any], annotation: Any, path: str, min_support: int) -> Merged:
    item_kind = (get_args(bare(annotation)) or (Any,))[0]
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
    if conflicts:
        return Merged(None, elements, conflicts)
    container = type(next(iter(values.values())))
    return Merged(validated(container(merged), annotation), elements)


def _merge_record(values: Mapping[str, Any], annotation: Any, path: str, min_support: int) -> Merged:
    like, kind = next(iter(values.values())), bare(annotation)
    held = {id: parts_of(value) or {} for id, value in values.items()}
    if isinstance(like, Mapping):
        support = Counter(name for parts in held.values() for name in parts)
        held = {id: {n: part for n, part in parts.items() if support[n] >= min_support} for id, parts in held.items()}
    beside = frozenset[Any]().union(*(left_out_of(value, held[id]) for id, value in values.items()))
    value_kind = (get_args(kind) or (Any,))[-1] if get_origin(kind) in (dict, Mapping) else Any
    kinds = {name: value_kind for parts in held.values() for name in parts}
    kinds.update(types_of_parts(kind) or types_of_parts(type(like)))
    parts = _merge_parts(held, kinds, beside, f"{path}.", min_support)
    elements = [element for part in parts.values() for element in part.elements]
    if conflicts := [conflict for part in parts.values() for conflict in part.conflicts]:
        return Merged(None, elements, conflicts, parts)
    value = _rebuilt(like, {name: part.value for name, part in parts.items()})
    return Merged(validated(value, annotation), elements)


def _merge_parts(
    held: Mapping[str, Mapping[Any, Any]], kinds: Mapping[Any, Any], beside: Set[Any], prefix: str, min_support: int
) -> dict[Any, Merged]:
    """Each part merged for itself; those beside the answer are taken from the one that best says the merged rest."""
    names = list(dict.fromkeys(name for parts in held.values() for name in parts))
    beside = beside if beside & set(names) != set(names) else set()
    answering = [name for name in names if name not in beside]
    following = [name for name in names if name in beside]
    merged: dict[Any, Merged] = {}
    for name in answering:
        values = {id: parts[name] for id, parts in held.items() if name in parts}
        merged[name] = merge(values, kinds[name], f"{prefix}{name}", min_support)
    if any(part.conflicts for part in merged.values()):
        merged.update({name: Merged(conflicts=[f"{prefix}{name}"]) for name in following})
    elif following:
        said = {name: normalise(part.value, kinds[name]) for name, part in merged.items()}

        def agreement(id: str) -> int:
            return sum(same(normalise(held[id].get(name), kinds[name]), form) for name, form in said.items())

        source = max((id for id in held if held[id].keys() & set(following)), key=agreement)
        merged.update({name: Merged(held[source][name]) for name in following if name in held[source]})
    return {name: merged[name] for name in names if name in merged}


def _are_records(values: Mapping[str, Any]) -> bool:
    """Whether these are dicts, or models of one kind, to merge part by part; DSPy's own types are one value each."""
    if _all(values, Mapping):
        return True
    kind, *others = {type(value) for value in values.values()}
    return not others and issubclass(kind, BaseModel) and not issubclass(kind, dspy.Type)


def _is_whole(values: Mapping[str, Any], annotation: Any) -> bool:
    """Whether the length of these lists means something, so that they are one value each."""
    shapes = {_shape(items) for items in values.values()}
    return _all(values, list) and (_has_fixed_length(annotation) or (len(shapes) == 1 and None not in shapes))


def _shape(value: Any) -> Hashable:
    """The lengths of lists of numbers, of lists of such; None if anything else stands in them."""
    if isinstance(value, list):
        inside = tuple(_shape(item) for item in value)
        return None if None in inside else inside
    is_number = isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)
    return "number" if is_number else None


@cached
def _has_fixed_length(annotation: Any) -> bool:
    schema: dict[str, Any] = {}
    with suppress(Exception):  # a type that has no JSON Schema
        schema = TypeAdapter(annotation).json_schema()
    kinds = [schema, *schema.get("anyOf", ())]
    return any("minItems" in kind and kind["minItems"] == kind.get("maxItems") for kind in kinds)


def _rebuilt(like: Any, parts: Mapping[Any, Any]) -> Any:
    """A value of the same type, of these parts; raises pydantic's ValidationError if they do not make one."""
    if not isinstance(like, BaseModel):
        return dict(parts)
    aliases: dict[Any, Any] = {name: field.validation_alias for name, field in type(like).model_fields.items()}
    named = {name: getattr(alias, "choices", [alias])[0] or name for name, alias in aliases.items()}
    return type(like).model_validate({named.get(name, name): value for name, value in parts.items()})


def _all(values: Mapping[str, Any], kinds: Any) -> bool:
    return all(isinstance(value, kinds) for value in values.values())


def _element(path: str, value: Any, kind: str, supporters: Sequence[str], place: str | None = None) -> Element:
    statement = f"{path}: {as_text(value)}"
    return Element(statement=statement, path=place or path, value=value, kind=kind, supported_by=list(supporters))
