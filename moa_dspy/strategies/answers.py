"""What the answer is: which outputs, and which parts of them, are compared, and which only explain or grade it."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, get_args, get_origin

import dspy
from dspy.experimental import Citations
from pydantic import BaseModel

from moa_dspy.strategies.annotations import bare, cached_by_type, free_text, is_a, is_closed, parts_of, types_of_parts

__all__ = ["Answer", "answer_of", "explaining_parts", "left_out", "output_types", "type_at", "value_at"]

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
        fields: The output fields, or paths into them (`"label.name"`), that make up the answer.
        left_out: The paths of fields and sub-fields that explain or grade it, and do not count.
    """

    fields: tuple[str, ...]
    left_out: tuple[str, ...]


def answer_of(task: type[dspy.Signature], fields: Sequence[str] | None = None) -> Answer:
    """What of a task's outputs is the answer.

    All outputs and all their parts are, but those that explain (`reasoning`, `rationale`, `explanation`,
    `justification` as text, DSPy's `Reasoning` and `Citations`; `why` or `reason` beside a label or a yes-or-no) or
    grade (`confidence`, `probability`, `certainty`; `score` beside an `answer` or a label). Where nothing else is,
    they count.

    Args:
        task: The task's signature.
        fields: The fields that count, and no others; a path counts whatever its last part is called.

    Raises:
        ValueError: If a field is not among the task's outputs.

    Example:
        >>> answer_of(dspy.Signature("question -> reasoning, answer: str, confidence: float"))
        Answer(fields=('answer',), left_out=('reasoning', 'confidence'))
    """
    outputs = output_types(task)
    for path in fields or ():
        try:
            type_at(outputs, path)
        except KeyError:
            raise ValueError(
                f"Voting names the field {path!r}, which there is not, so it would count for nothing. "
                f"Known: {', '.join(outputs)}."
            ) from None
    beside = left_out(outputs)
    named = tuple(fields) if fields is not None else tuple(name for name in outputs if name not in beside)
    unnamed = [name for name in outputs if name not in {path.partition(".")[0] for path in named}]
    inside = [path for name in named if name in outputs for path in _left_out_inside(outputs[name], name, ())]
    return Answer(named, (*unnamed, *(path for path in inside if path not in named)))


def left_out(parts: Mapping[Any, Any]) -> frozenset[Any]:
    """Which parts of a structure explain or grade the others.

    Args:
        parts: Their names and types.

    Example:
        >>> sorted(left_out({"label": str, "confidence": float, "reasoning": str}))
        ['confidence', 'reasoning']
        >>> left_out({"confidence": float})
        frozenset()
    """
    explaining = frozenset(name for name, kind in parts.items() if _explains(name, kind, parts))
    grading = frozenset(name for name, kind in parts.items() if name not in explaining and _grades(name, kind, parts))
    if len(explaining) + len(grading) < len(parts):
        return explaining | grading
    return explaining if grading else frozenset()


def explaining_parts(value: Any, parts: Mapping[Any, Any]) -> frozenset[Any]:
    """Which of a value's parts explain or grade the others, or say nothing but who made it.

    Args:
        value: A model, a dataclass or a mapping.
        parts: What `parts_of` says of it.
    """
    if isinstance(value, Mapping):
        return left_out({name: type(part) for name, part in parts.items()})
    if getattr(value, "model_extra", None):
        declared = types_of_parts(type(value)) or {}
        return left_out({name: declared.get(name, type(part)) for name, part in parts.items()})
    return _explaining_parts_of_class(type(value))


def value_at(outputs: Mapping[str, Any], path: str) -> Any:
    """What stands at a path; in lists, what stands there in each item.

    Example:
        >>> value_at({"rows": [{"id": 1}, {"id": 2}]}, "rows.id")
        [1, 2]
    """
    name, _, rest = path.partition(".")
    return _follow(outputs.get(name), rest.split(".") if rest else [])


def type_at(types: Mapping[str, Any], path: str) -> Any:
    """The declared type of what stands at a path; Any where none is declared.

    Raises:
        KeyError: If a model on the way declares no such part.
    """
    name, _, rest = path.partition(".")
    return _follow_type(types[name], rest.split(".") if rest else [])


def output_types(task: type[dspy.Signature]) -> dict[str, Any]:
    """A task's outputs and their types, constraints included."""
    return {name: field.rebuild_annotation() for name, field in task.output_fields.items()}


@cached_by_type
def _explaining_parts_of_class(kind: Any) -> frozenset[Any]:
    """Which parts of all values of a class explain or grade the others."""
    if isinstance(kind, type) and issubclass(kind, dspy.ToolCalls.ToolCall):
        return frozenset({"id"})  # each provider numbers its calls itself
    return left_out(types_of_parts(kind) or {})


def _follow(value: Any, names: Sequence[str]) -> Any:
    if not names:
        return value
    if isinstance(value, (list, tuple)):
        return [_follow(item, names) for item in value]
    return _follow((parts_of(value) or {}).get(names[0]), names[1:])


def _follow_type(annotation: Any, names: Sequence[str]) -> Any:
    kind = bare(annotation)
    if not names:
        return annotation
    if get_origin(kind) in (list, tuple):
        item: Any = _follow_type(get_args(kind)[0], names)
        return list[item]
    declared = types_of_parts(kind)
    if declared is None or (names[0] not in declared and _takes_extras(kind)):
        return Any
    return _follow_type(declared[names[0]], names[1:])


def _takes_extras(kind: Any) -> bool:
    return issubclass(kind, BaseModel) and kind.model_config.get("extra") == "allow"


def _explains(name: Any, kind: Any, parts: Mapping[Any, Any]) -> bool:
    if is_a(kind, _EXPLAINING_TYPES):
        return True
    words = _words(name)
    if not words or not (free_text(kind) or kind is types.NoneType):
        return False
    if len(words) == 1 and words[0] in _PERHAPS_EXPLAINING:
        return any(is_closed(other) for key, other in parts.items() if key != name)
    return words[-1] in _EXPLAINING or words == ("chain", "of", "thought")


def _grades(name: Any, kind: Any, parts: Mapping[Any, Any]) -> bool:
    words = _words(name)
    if not words:
        return False
    if words[-1] in _GRADING:
        return True
    if words[-1] != "score" and words[-1] != "rating":
        return False
    if not is_a(kind, _NUMBERS):
        return False
    if len(words) > 1:
        return words[-2] in _OWN
    others = {key: other for key, other in parts.items() if key != name}
    is_labelled = any(is_closed(other) for other in others.values()) and not is_a(kind, int)
    return is_labelled or any(_words(key)[-1:] in [(word,) for word in _ANSWERING] for key in others)


@lru_cache(maxsize=4096)
def _words(name: Any) -> tuple[str, ...]:
    """The words of a name, without what only qualifies the last of them: `confidenceScore` -> `confidence`."""
    if not isinstance(name, str):
        return ()
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)]
    if len(words) > 1 and words[-1] in _QUALIFYING and words[-2] in _EXPLAINING | _GRADING:
        words.pop()
    return tuple(words)


def _left_out_inside(annotation: Any, path: str, seen: tuple[Any, ...]) -> Iterator[str]:
    kind = bare(annotation)
    if kind in seen:  # a model may hold its own kind
        return
    declared = types_of_parts(kind)
    if declared is None:
        for argument in get_args(kind) if get_origin(kind) is not Literal else ():
            yield from _left_out_inside(argument, path, (*seen, kind))
        return
    beside = left_out(declared)
    for name, part in declared.items():
        if name in beside:
            yield f"{path}.{name}"
        else:
            yield from _left_out_inside(part, f"{path}.{name}", (*seen, kind))
