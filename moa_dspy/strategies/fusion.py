"""Fusion: structured values merged in code, part by part; what is in conflict goes to the aggregator."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, get_args, get_origin

import dspy
from pydantic import BaseModel, TypeAdapter, ValidationError

from moa_dspy.concurrency import Steps
from moa_dspy.escaping import escaper
from moa_dspy.rendering import Rendering
from moa_dspy.results import Element
from moa_dspy.signatures import ELEMENTS, SETTLED, fusion_signature, without
from moa_dspy.strategies import answers
from moa_dspy.strategies.aligning import align
from moa_dspy.strategies.answers import Answer, answer_of, bare, output_types, parts_of
from moa_dspy.strategies.base import Case, Strategy, Verdict, fields_of
from moa_dspy.strategies.equality import normalise, same
from moa_dspy.strategies.voting import count
from moa_dspy.values import as_text, cached, to_json, validated

__all__ = ["Fusion", "Merged", "merge", "merge_parts"]


class Fusion(Strategy):
    """Compatible elements are merged; `metadata.elements` holds each with the proposals that support it.

    Structured outputs are merged in code, field by field: a value that most agree on is kept, lists are merged in
    the order that they share; outputs that explain or grade the others (`ballot.left_out`) follow the proposal that
    says most of what was merged. Only fields in conflict, differing texts among them, go to the aggregator, in one
    call. It takes the proposals apart (consensus, contradictions, unique points) before it composes the answer; cf.
    Jiang et al., "LLM-Blender" (2023), for fusing.

    Args:
        min_support: How many proposals must hold an item of a list, or a key of a dict, for it to stay.

    Raises:
        ValueError: If `min_support` is less than 1.
    """

    name = "fusion"
    needs_aggregator = True
    asks_one_lm = True
    ballot: Answer | None = None
    """Once bound: the output fields that are merged, and those that follow them."""

    def __init__(self, min_support: int = 1) -> None:
        super().__init__()
        if not isinstance(min_support, int) or isinstance(min_support, bool) or min_support < 1:
            raise ValueError(f"min_support={min_support!r} keeps what nobody says. Give a whole number from 1.")
        self.min_support = min_support

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.ballot = answer_of(task)
        self.fuse = dspy.Predict(fusion_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        outputs = {proposal.id: proposal.outputs for proposal in case.proposals}
        merged = merge_parts(outputs, output_types(case.task), self.min_support)
        if not merged.conflicts:
            return Verdict(merged.value, elements=merged.elements)
        # Merged or not, it comes from proposals, and this field has no fence.
        escape = escaper((*case.task.fields, *fields_of(self.fuse)), tuple(merged.parts))
        settled = [f"{name}: {escape(as_text(value))}" for name, value in merged.standing.items()]
        # ReAnchor's settings for an output would be refused in a signature without it.
        whole = [name for name, part in merged.parts.items() if not part.conflicts and name not in self.fuse.fields]
        reply = yield from self.ask(
            self.fuse,
            case,
            extra={SETTLED: "\n".join(settled) or "nothing yet"},
            narrow=lambda asks, labels: without(asks, tuple(whole)),
            complaint=_find_unknown_labels,
        )
        told = []
        for element in reply.prediction[ELEMENTS]:
            by = [proposal.id for label in _labels(element.supported_by) for proposal in reply.shown.labels[label]]
            told.append(Element(**{**dict(element), "supported_by": by}))
        answer = merged.completed_by({name: reply.prediction.get(name) for name in merged.parts})
        return Verdict(answer, elements=[*merged.elements, *told], **reply.told)


@dataclass(frozen=True)
class Merged:
    """Several values made one, unless there are `conflicts`: paths of the parts that only a model can decide.

    `elements` tell what the parts say that could be merged, and who supports them; `parts` are those of a model or a
    dict that had to be merged one by one.
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
        completed = {name: part.completed_by(given.get(name)) for name, part in known.items()}
        try:
            return _rebuild(answer, {**given, **completed})
        except ValidationError:
            return answer


def merge(values: Mapping[str, Any], annotation: Any, path: str, min_support: int = 1) -> Merged:
    """Merge what proposals (id -> value, in declared order) hold in one field, which `path` names in elements.

    What all agree on is kept as it is. Lists are merged as sequences, sets unite, models and dicts merge part by part.
    Any other value needs a majority of those that hold one; so does a list whose length means something (fixed by its
    type, or the same in all and numbers only: a box, a vector). What no majority settles, and a merge that the type
    refuses, is a conflict. None, empty text and refusals abstain.

    Examples:
        >>> merge({"a": ["x", "z"], "b": ["x", "y", "z"]}, list[str], "route").value
        ['x', 'y', 'z']
    """
    tally = count({id: {path: value} for id, value in values.items()}, {path: annotation})
    present = {id: value for id, value in values.items() if id not in tally.abstained}
    conflict = Merged(conflicts=[path])
    try:
        if not present:  # that is an answer where the type allows it, but a refusal is none
            held = [value for value in values.values() if value is not None]
            has_refusal = any(isinstance(value, str) and value.strip() for value in held)
            return conflict if has_refusal else Merged(validated(held[0] if held else None, annotation))
        leader, *others = tally.candidates
        if others or len(present) < min_support:
            if _are_records(present.values()):
                return _merge_records(present, annotation, path, min_support)
            if _are_lists(present.values(), annotation):
                return _merge_items(present, annotation, path, min_support)
    except ValidationError:
        return conflict
    if 2 * len(leader.voters) <= len(present):
        return conflict
    if len(leader.voters) < min_support and any(value is None for value in values.values()):
        return Merged(None)
    value = leader.values[path]
    return Merged(value, [_element(path, path, value, leader.voters, len(present), "majority")])


def _merge_items(values: Mapping[str, Any], annotation: Any, path: str, min_support: int) -> Merged:
    kind, *_ = get_args(bare(annotation)) or (Any,)
    # The order of a set of texts differs between processes.
    lists = {id: sorted(items, key=to_json) if isinstance(items, Set) else items for id, items in values.items()}
    things = [thing for thing in align(lists, kind) if len(thing) >= min_support]
    items = {f"{path}[{place}]": merge(thing, kind, f"{path}[{place}]") for place, thing in enumerate(things)}
    elements = [
        _element(path, place, item.value, list(thing), len(values), "union")
        for (place, item), thing in zip(items.items(), things, strict=True)
        if not item.conflicts
    ]
    if conflicts := [conflict for item in items.values() for conflict in item.conflicts]:
        return Merged(None, elements, conflicts)
    container = type(next(iter(values.values())))
    return Merged(validated(container(item.value for item in items.values()), annotation), elements)


def _merge_records(values: Mapping[str, Any], annotation: Any, path: str, min_support: int) -> Merged:
    like, kind = next(iter(values.values())), bare(annotation)
    held = {id: parts_of(value) or {} for id, value in values.items()}
    if isinstance(like, Mapping):
        support = Counter(name for parts in held.values() for name in parts)
        held = {id: {n: part for n, part in parts.items() if support[n] >= min_support} for id, parts in held.items()}
    beside = {name for id, value in values.items() for name in answers.left_out_of(value, held[id])}
    value_kind = (get_args(kind) or (Any,))[-1] if get_origin(kind) in (dict, Mapping) else Any
    kinds = {name: value_kind for parts in held.values() for name in parts}
    kinds.update(answers.types_of_parts(kind) or answers.types_of_parts(type(like)))
    merged = merge_parts(held, kinds, min_support, beside, f"{path}.")
    if merged.conflicts:
        return merged
    return Merged(validated(_rebuild(like, merged.value), annotation), merged.elements)


def merge_parts(
    held: Mapping[str, Mapping[Any, Any]],
    kinds: Mapping[Any, Any],
    min_support: int = 1,
    beside: Set[Any] | None = None,
    prefix: str = "",
) -> Merged:
    """Each part merged for itself; those beside the answer are taken from the one that best says the merged rest."""
    beside = answers.left_out(kinds) if beside is None else beside
    names = list(dict.fromkeys(name for parts in held.values() for name in parts))
    answering = [name for name in names if name not in beside] or names
    following = [name for name in names if name not in answering]
    parts = {
        name: merge(
            {id: has[name] for id, has in held.items() if name in has}, kinds[name], f"{prefix}{name}", min_support
        )
        for name in answering
    }
    if any(part.conflicts for part in parts.values()):
        parts.update({name: Merged(conflicts=[f"{prefix}{name}"]) for name in following})
    elif following:
        said = {name: normalise(part.value, kinds[name]) for name, part in parts.items()}

        def agreement(id: str) -> int:
            return sum(same(normalise(held[id].get(name), kinds[name]), form) for name, form in said.items())

        source = held[max((id for id in held if held[id].keys() & set(following)), key=agreement)]
        parts.update({name: Merged(source[name]) for name in following if name in source})
    parts = {name: parts[name] for name in names if name in parts}
    return Merged(
        {name: part.value for name, part in parts.items()},
        [element for part in parts.values() for element in part.elements],
        [conflict for part in parts.values() for conflict in part.conflicts],
        parts,
    )


def _are_records(values: Iterable[Any]) -> bool:
    """Whether these are dicts, or models of one kind, to merge part by part; DSPy's own types are one value each."""
    kind, *others = {type(value) for value in values}
    is_model = not others and issubclass(kind, BaseModel) and not issubclass(kind, dspy.Type)
    return is_model or all(issubclass(each, Mapping) for each in (kind, *others))


def _are_lists(values: Iterable[Any], annotation: Any) -> bool:
    """Whether these are lists or sets to merge item by item: one whose length means something is one value."""
    if not all(isinstance(items, (list, set, frozenset)) for items in values):
        return False
    shapes = {_shape(items) for items in values}
    is_whole = _has_fixed_length(annotation) or (len(shapes) == 1 and None not in shapes)
    return not (is_whole and all(isinstance(items, list) for items in values))


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


def _rebuild(like: Any, parts: Mapping[Any, Any]) -> Any:
    """A value of the same type, of these parts; raises pydantic's ValidationError if they do not make one."""
    if not isinstance(like, BaseModel):
        return dict(parts)
    aliases: dict[Any, Any] = {name: field.validation_alias for name, field in type(like).model_fields.items()}
    named = {name: getattr(alias, "choices", [alias])[0] or name for name, alias in aliases.items()}
    return type(like).model_validate({named.get(name, name): value for name, value in parts.items()})


def _element(path: str, place: str, value: Any, supporters: Sequence[str], of: int, otherwise: str) -> Element:
    kind = "unique" if len(supporters) == 1 else "consensus" if len(supporters) == of else otherwise
    statement = f"{path}: {as_text(value)}"
    return Element(statement=statement, path=place, value=value, kind=kind, supported_by=list(supporters))


def _labels(named: Sequence[str]) -> list[str]:
    return [label for name in named for label in re.findall(r"\bP\d+\b", name)]


def _find_unknown_labels(prediction: dspy.Prediction, shown: Rendering) -> str | None:
    named = {label for element in prediction[ELEMENTS] for label in _labels(element.supported_by)}
    unknown = sorted(named - set(shown.labels))
    return f"Elements are supported by {', '.join(unknown)}, which were not shown." if unknown else None
