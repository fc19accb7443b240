"""What the answer is: what values of a type are made of, and what of it only explains or grades the rest."""

from __future__ import annotations

import dataclasses
import re
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import dspy
from dspy.experimental import Citations
from pydantic import BaseModel
from typing_extensions import is_typeddict

from moa_dspy.values import cached

__all__ = [
    "Answer",
    "answer_of",
    "approximate",
    "bare",
    "free_text",
    "leaves_of",
    "left_out",
    "left_out_of",
    "output_types",
    "parts_of",
    "types_of_parts",
]

# DSPy's decorator for what is experimental hides from checkers that Citations is a class.
_EXPLAINING_TYPES: Any = (dspy.Reasoning, Citations)
_EXPLAINING = {"explanation", "explanations", "justification", "justifications", "rationale", "rationales", "reasoning"}
_GRADING = {"certainty", "confidence", "likelihood", "probabilities", "probability", "uncertainty"}
# Alone these may be data as well (the reason of a refund, the score of a match): what stands beside them decides.
_PERHAPS_EXPLAINING = {"reason", "reasons", "thinking", "thought", "thoughts", "why"}
_ANSWERING = {"answer", "category", "choice", "class", "decision", "label", "prediction", "response", "verdict"}
_OWN = {"answer", "own", "self"}
_QUALIFYING = {"level", "pct", "percent", "percentage", "score", "steps", "summary", "text", "trace", "value"}
_NUMBERS = (int, float, Decimal, Fraction)


@dataclass(frozen=True)
class Answer:
    """What of a task's outputs is compared.

    Attributes:
        fields: The output fields that make up the answer.
        left_out: The paths of fields and sub-fields that explain or grade it, and do not count.
    """

    fields: tuple[str, ...]
    left_out: tuple[str, ...]


class Leaf(NamedTuple):
    """Where the walk over a type ends; `counts` is false if it explains or grades what stands beside it."""

    path: str
    kind: Any
    counts: bool


def answer_of(task: type[dspy.Signature], fields: Sequence[str] | None = None) -> Answer:
    """What of a task's outputs is the answer.

    All outputs and all their parts are, but those that explain (`reasoning`, `rationale`, `explanation`,
    `justification` as text, DSPy's `Reasoning` and `Citations`; `why` or `reason` beside a label or a yes-or-no) or
    grade (`confidence`, `probability`, `certainty`; `score` beside an `answer` or a label). Where nothing else is,
    they count.

    Args:
        task: The task's signature.
        fields: The fields that count, and no others.

    Raises:
        ValueError: If a field is not among the task's outputs.

    Examples:
        >>> answer_of(dspy.Signature("question -> reasoning, answer: str, confidence: float"))
        Answer(fields=('answer',), left_out=('reasoning', 'confidence'))
    """
    outputs = output_types(task)
    if unknown := [name for name in fields or () if name not in outputs]:
        raise ValueError(
            f"Voting names the field {unknown[0]!r}, which there is not, so it would count for nothing. "
            f"Known: {', '.join(outputs)}."
        )
    beside = left_out(outputs)
    named = tuple(fields) if fields is not None else tuple(name for name in outputs if name not in beside)
    leaves = [leaf for name in named for leaf in leaves_of(outputs[name], name)]
    unnamed = [name for name in outputs if name not in named]
    return Answer(named, tuple(dict.fromkeys([*unnamed, *(leaf.path for leaf in leaves if not leaf.counts)])))


def output_types(task: type[dspy.Signature]) -> dict[str, Any]:
    """A task's outputs and their types, constraints included."""
    return {name: field.rebuild_annotation() for name, field in task.output_fields.items()}


@cached
def free_text(annotation: Any) -> bool:
    """Whether text that nothing constrains may occur in answers of this type; in Any, it may.

    Examples:
        >>> free_text(list[str]), free_text(Literal["yes", "no"] | None)
        (True, False)
    """
    return any(leaf.counts and _may_hold(leaf.kind, str) for leaf in leaves_of(annotation))


@cached
def approximate(annotation: Any) -> bool:
    """Whether numbers that are compared with a tolerance may occur in answers of this type."""
    return any(leaf.counts and _may_hold(leaf.kind, (float, Decimal, Fraction)) for leaf in leaves_of(annotation))


def leaves_of(annotation: Any, path: str = "", above: tuple[Any, ...] = ()) -> Iterator[Leaf]:
    """Walk over a type, down to what its values are made of in the end: Literals, numbers, text, ..."""
    if annotation in above:  # a model may hold its own kind
        return
    above = (*above, annotation)
    declared, arguments = types_of_parts(annotation), _arguments(annotation)
    for name, kind in declared.items():
        if name in left_out(declared):
            yield Leaf(f"{path}.{name}", kind, False)
        else:
            yield from leaves_of(kind, f"{path}.{name}", above)
    for kind in arguments:
        yield from leaves_of(kind, path, above)
    if not declared and not arguments:
        yield Leaf(path, annotation, True)


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
    """Which parts of a structure, given by names and types, explain or grade the others.

    Examples:
        >>> left_out({"label": str, "confidence": float}), left_out({"confidence": float})
        (frozenset({'confidence'}), frozenset())
    """
    # A dict may have any number of keys, which nobody asks about twice.
    find = _left_out if len(parts) < 100 else _find_left_out
    return find(tuple(parts.items()))


def _find_left_out(parts: tuple[tuple[Any, Any], ...]) -> frozenset[Any]:
    has_choice = any(_is_closed(kind) for _, kind in parts)
    has_answer = any(word in _ANSWERING for name, _ in parts for word in _words(name)[-1:])
    explaining = frozenset(name for name, kind in parts if _explains(name, kind, has_choice))
    grading = frozenset(
        name for name, kind in parts if name not in explaining and _grades(name, kind, has_choice, has_answer)
    )
    if len(explaining) + len(grading) < len(parts):
        return explaining | grading
    return explaining if grading else frozenset()


_left_out = cached(_find_left_out)


def _explains(name: Any, kind: Any, has_choice: bool) -> bool:
    if _is_a(kind, _EXPLAINING_TYPES):
        return True
    words = _words(name)
    if not words or _is_closed(kind) or _is_a(kind, _NUMBERS):
        return False
    if len(words) == 1 and words[0] in _PERHAPS_EXPLAINING:
        return has_choice
    return words[-1] in _EXPLAINING or words == ["chain", "of", "thought"]


def _grades(name: Any, kind: Any, has_choice: bool, has_answer: bool) -> bool:
    words = _words(name)
    if not words or words[-1] in _GRADING:
        return bool(words)
    if words[-1] not in ("score", "rating") or _is_closed(kind) or not _is_a(kind, _NUMBERS):
        return False
    if len(words) > 1:
        return words[-2] in _OWN
    return has_answer or (has_choice and not _is_a(kind, (int,)))


def _words(name: Any) -> list[str]:
    """The words of a name, without what only qualifies the last of them: `confidenceScore` -> `confidence`."""
    found = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name) if isinstance(name, str) else []
    words = [word.lower() for word in found]
    if len(words) > 1 and words[-1] in _QUALIFYING and words[-2] in _EXPLAINING | _GRADING:
        words.pop()
    return words


def bare(annotation: Any) -> Any:
    """The type without `Optional` and `Annotated`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return bare(arguments[0])
    if origin in (Union, types.UnionType):
        rest = [argument for argument in arguments if argument is not types.NoneType]
        return bare(rest[0]) if len(rest) == 1 else annotation
    return annotation


def _is_closed(annotation: Any) -> bool:
    """Whether this is a choice among few: a Literal, an enum, yes or no."""
    return get_origin(bare(annotation)) is Literal or _is_a(annotation, (bool, Enum))


def _is_a(annotation: Any, kinds: tuple[type, ...]) -> bool:
    kind = bare(annotation)
    return _is_class(kind) and issubclass(kind, kinds)


def _is_class(kind: Any) -> bool:
    # In Python 3.10 `list[str]` is an instance of type, too.
    return isinstance(kind, type) and get_origin(kind) is None


def _may_hold(leaf: Any, kinds: type | tuple[type, ...]) -> bool:
    if get_origin(leaf) is Literal or leaf is None:
        return False
    if leaf in (Any, object) or not _is_class(leaf):  # nothing is known, or a name that is not resolved
        return True
    return issubclass(leaf, kinds) and not issubclass(leaf, Enum)


def _arguments(annotation: Any) -> Sequence[Any]:
    """The types that a type is made of, other than named parts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ()
    if origin is Annotated:
        is_pattern = arguments[0] is str and any(_has_pattern(item) for item in arguments[1:])
        return [re.Pattern if is_pattern else arguments[0]]
    for alias in ("__supertype__", "__value__"):  # NewType, and `type X = ...`
        if hasattr(annotation, alias):
            return [getattr(annotation, alias)]
    if annotation in (list, tuple, set, frozenset, dict):
        return [Any]
    return [argument for argument in arguments if argument is not Ellipsis]


def _has_pattern(item: Any) -> bool:
    return bool(getattr(item, "pattern", None)) or any(_has_pattern(part) for part in getattr(item, "metadata", ()))
