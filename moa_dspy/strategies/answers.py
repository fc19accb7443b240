"""What the answer is: what values of a type are made of, and what of it only explains or grades the rest."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import dspy
from dspy.experimental import Citations
from pydantic import BaseModel
from typing_extensions import is_typeddict

from moa_dspy.values import cached

__all__ = ["INEXACT", "Answer", "answer_of", "bare", "leaves_of", "left_out", "left_out_of", "may_hold", "parts_of"]

INEXACT = (float, Decimal, Fraction)
"""Numbers that are compared with a tolerance."""

# DSPy's decorator for what is experimental hides from checkers that Citations is a class.
_EXPLAINING_TYPES: Any = (dspy.Reasoning, Citations)
_EXPLAINING = {"explanation", "explanations", "justification", "justifications", "rationale", "rationales", "reasoning"}
_GRADING = {"certainty", "confidence", "likelihood", "probabilities", "probability", "uncertainty"}
# Alone these may be data as well (the reason of a refund, the score of a match): what stands beside them decides.
_PERHAPS_EXPLAINING = {"reason", "reasons", "thinking", "thought", "thoughts", "why"}
_ANSWERING = {"answer", "category", "choice", "class", "decision", "label", "prediction", "response", "verdict"}
_QUALIFYING = {"level", "pct", "percent", "percentage", "score", "steps", "summary", "text", "trace", "value"}


class Answer(NamedTuple):
    """What of a task's outputs is compared: the output fields that make up the answer.

    The paths in `left_out`, of fields and sub-fields, explain or grade it, and do not count.
    """

    fields: tuple[str, ...]
    left_out: tuple[str, ...]


def answer_of(task: type[dspy.Signature], fields: Sequence[str] | None = None) -> Answer:
    """What of a task's outputs is the answer: `fields`, or all but what explains or grades the others.

    Text called `reasoning`, `rationale`, `explanation` or `justification` explains, DSPy's `Reasoning` and `Citations`
    do, and `why` or `reason` beside a label or a yes-or-no. `confidence`, `probability`, `certainty` grade, and `score`
    does beside an `answer` or a label. Where nothing else is, they count.
    """
    outputs = output_types(task)
    if unknown := [name for name in fields or () if name not in outputs]:
        raise ValueError(
            f"Voting names the field {unknown[0]!r}, which there is not, so it would count for nothing. "
            f"Known: {', '.join(outputs)}."
        )
    beside = left_out(outputs)
    named = tuple(name for name in outputs if name not in beside) if fields is None else tuple(fields)
    unnamed = [name for name in outputs if name not in named]
    inside = [name + path for name in named for path, _, counts in leaves_of(outputs[name]) if not counts]
    return Answer(named, tuple(dict.fromkeys(unnamed + inside)))


def output_types(task: type[dspy.Signature]) -> dict[str, Any]:
    """A task's outputs and their types, constraints included."""
    return {name: field.rebuild_annotation() for name, field in task.output_fields.items()}


def may_hold(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    """Whether free values of these kinds, no labels or members of an enum, may occur in answers of this type."""
    return any(counts and _admits(kind, kinds) for _, kind, counts in leaves_of(annotation))


@cached
def leaves_of(annotation: Any) -> tuple[tuple[str, Any, bool], ...]:
    """What values of a type are made of in the end (Literals, numbers, text): path, type, and whether it counts."""
    return tuple(_walk(annotation, "", ()))


@cached
def types_of_parts(kind: Any) -> dict[str, Any]:
    """The names and types that a model, dataclass or TypedDict declares; none for any other type."""
    if _is_class(kind) and issubclass(kind, BaseModel):
        return {name: field.rebuild_annotation() for name, field in kind.model_fields.items()}
    if _is_class(kind) and (dataclasses.is_dataclass(kind) or is_typeddict(kind)):
        with suppress(NameError):  # a forward reference that cannot be resolved
            return get_type_hints(kind, include_extras=True)
    return {}


def parts_of(value: Any) -> dict[Any, Any] | None:
    """The named parts of a model, a dataclass or a mapping; None for anything else."""
    if isinstance(value, BaseModel):
        named = {name: getattr(value, name, None) for name in type(value).model_fields}
        return {**named, **(value.model_extra or {})}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.compare}
    return dict(value) if isinstance(value, Mapping) else None


def left_out_of(value: Any, parts: Mapping[Any, Any]) -> frozenset[Any]:
    """Which of a value's parts, as `parts_of` gives them, explain or grade the others, or only number it."""
    if isinstance(value, dspy.ToolCalls.ToolCall):
        return frozenset({"id"})  # each provider numbers its calls itself
    declared = types_of_parts(type(value))
    return left_out({name: declared.get(name, type(part)) for name, part in parts.items()})


def left_out(parts: Mapping[Any, Any]) -> frozenset[Any]:
    """Which parts of a structure, given by names and types, explain or grade the others."""
    # A dict may have any number of keys, which nobody asks about twice.
    find = _left_out if len(parts) < 100 else _find_left_out
    return find(tuple(parts.items()))


def bare(annotation: Any) -> Any:
    """The type without `Optional` and `Annotated`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return bare(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not types.NoneType]
        return bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def _find_left_out(parts: tuple[tuple[Any, Any], ...]) -> frozenset[Any]:
    has_choice = any(_is_closed(kind) for _, kind in parts)
    has_answer = any(word in _ANSWERING for name, _ in parts for word in _words(name)[-1:])
    roles = {name: _role(name, kind, has_choice, has_answer) for name, kind in parts}
    if None not in roles.values():  # then grades count, or else all
        roles = {name: role for name, role in roles.items() if role == "explains" and "grades" in roles.values()}
    return frozenset(name for name, role in roles.items() if role is not None)


_left_out = cached(_find_left_out)


def _role(name: Any, kind: Any, has_choice: bool, has_answer: bool) -> Literal["explains", "grades"] | None:
    *first, last = _words(name) or ("",)
    explains, grades = _is_a(kind, _EXPLAINING_TYPES), last in _GRADING
    if _is_a(kind, (int, *INEXACT)):
        if last in ("score", "rating") and not _is_closed(kind):
            beside = has_answer or (has_choice and not _is_a(kind, int))
            grades = first[-1] in ("answer", "own", "self") if first else beside
    elif not _is_closed(kind):
        perhaps = has_choice and not first and last in _PERHAPS_EXPLAINING
        explains = explains or perhaps or last in _EXPLAINING or (*first, last) == ("chain", "of", "thought")
    return "explains" if explains else "grades" if grades else None


def _words(name: Any) -> tuple[str, ...]:
    """The words of a name, without what only qualifies the last of them: `confidenceScore` -> `confidence`."""
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name) if isinstance(name, str) else []
    words = tuple(word.lower() for word in found)
    is_qualified = len(words) > 1 and words[-1] in _QUALIFYING and words[-2] in _EXPLAINING | _GRADING
    return words[:-1] if is_qualified else words


def _walk(annotation: Any, path: str, above: tuple[Any, ...]) -> Iterator[tuple[str, Any, bool]]:
    if annotation in above:  # a model may hold its own kind
        return
    declared, arguments, above = types_of_parts(annotation), _arguments(annotation), (*above, annotation)
    beside = left_out(declared)
    for name, kind in declared.items():
        inside = f"{path}.{name}"
        yield from [(inside, kind, False)] if name in beside else _walk(kind, inside, above)
    for kind in arguments:
        yield from _walk(kind, path, above)
    if not declared and not arguments:
        yield path, annotation, True


def _arguments(annotation: Any) -> Sequence[Any]:
    """The types that a type is made of, other than named parts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ()
    if origin is Annotated:
        is_pattern = arguments[0] is str and any(map(_has_pattern, arguments[1:]))
        return [re.Pattern if is_pattern else arguments[0]]
    for alias in ("__supertype__", "__value__"):  # NewType, and `type X = ...`
        if hasattr(annotation, alias):
            return [getattr(annotation, alias)]
    if annotation in (list, tuple, set, frozenset, dict):
        return [Any]
    return [argument for argument in arguments if argument is not Ellipsis]


def _has_pattern(item: Any) -> bool:
    return bool(getattr(item, "pattern", None)) or any(map(_has_pattern, getattr(item, "metadata", ())))


def _is_closed(annotation: Any) -> bool:
    """Whether this is a choice among few: a Literal, an enum, yes or no."""
    return get_origin(bare(annotation)) is Literal or _is_a(annotation, (bool, Enum))


def _is_a(annotation: Any, kinds: type | tuple[type, ...]) -> bool:
    kind = bare(annotation)
    return _is_class(kind) and issubclass(kind, kinds)


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and get_origin(kind) is None  # in Python 3.10 `list[str]` is an instance of type, too


def _admits(leaf: Any, kinds: type | tuple[type, ...]) -> bool:
    if get_origin(leaf) is Literal or leaf is None:
        return False
    if leaf in (Any, object) or not _is_class(leaf):  # nothing is known, or a name that is not resolved
        return True
    return issubclass(leaf, kinds) and not issubclass(leaf, Enum)
