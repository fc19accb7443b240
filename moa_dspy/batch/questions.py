"""The questions of a batch: read and checked, all of them, before anything is paid for."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import dspy
from dspy.adapters.utils import annotation_allows_none
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

__all__ = ["Question", "as_questions", "digest", "missing_inputs", "read_questions", "typed_input"]

ID = "id"
_SHOWN = 5


@dataclass(frozen=True)
class Question:
    """One row of a batch.

    Attributes:
        id: Its `id`; without one, a hash of its inputs, so that it is the same wherever the row stands.
        inputs: The signature's inputs, typed as the signature says.
        given: The same as they were given, JSON-able.
        extra: The row's other fields; they pass through into the answer row.
    """

    id: str | int
    inputs: dict[str, Any]
    given: dict[str, Any]
    extra: dict[str, Any]

    @property
    def key(self) -> str:
        """What it is known by: 7 and "7" are one id."""
        return str(self.id)


def read_questions(path: str | Path, signature: type[dspy.Signature]) -> list[Question]:
    """The questions of a JSONL file, one object a line; blank lines are skipped.

    Args:
        path: The file, in UTF-8.
        signature: Says which fields are inputs, and of what types.

    Raises:
        ValueError: If there are none, or rows are malformed: the message names every line number (up to five).
        OSError: If the file cannot be read.
    """
    questions = _checked(_lines(Path(path).read_bytes()), signature)
    if not questions:
        raise ValueError(f"{path} holds no questions. Write one JSON object a line, with {_wanted(signature)}.")
    return questions


def as_questions(rows: Iterable[Mapping[str, Any]], signature: type[dspy.Signature]) -> list[Question]:
    """The questions of rows that are in memory.

    Raises:
        ValueError: If rows are malformed: the message names them, counted from 1.
    """
    return _checked(((f"Row {number}", row) for number, row in enumerate(rows, start=1)), signature)


def digest(inputs: Mapping[str, Any]) -> str:
    """A hash of a question's inputs as they were given: the same in every process.

    Raises:
        ValueError: If there is half a character in them (a lone surrogate), which no model could be sent.
    """
    canonical = json.dumps(inputs, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def missing_inputs(row: Mapping[str, Any], signature: type[dspy.Signature]) -> list[str]:
    """The inputs that the signature needs and the row does not have."""
    return [
        name
        for name, field in signature.input_fields.items()
        if name not in row and field.is_required() and not annotation_allows_none(field.annotation)
    ]


def typed_input(name: str, value: Any, signature: type[dspy.Signature]) -> Any:
    """The value as the signature's input wants it.

    Raises:
        ValueError: If it is of another type.
    """
    annotation = signature.input_fields[name].annotation
    if annotation is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    adapter = _adapter(annotation)
    try:
        return value if adapter is None else adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"`{name}`: {error.errors()[0]['msg']}, not {value!r:.60}.") from None


def _lines(content: bytes) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            yield f"Line {number}", _parsed(line)


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant)
    except ValueError as error:  # also what is no UTF-8
        return error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _checked(rows: Iterable[tuple[str, Any]], signature: type[dspy.Signature]) -> list[Question]:
    questions: list[Question] = []
    problems: list[str] = []
    places: dict[str, str] = {}
    repeated: Counter[str] = Counter()
    for place, row in rows:
        try:
            question = _question(row, signature, repeated)
            if question.key in places:
                raise ValueError(f"the id {question.id!r} is that of {places[question.key].lower()} too.")
            places[question.key] = place
            questions.append(question)
        except ValueError as problem:
            problems.append(f"{place}: {problem}")
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
        raise ValueError("Nothing was asked, because rows are malformed.\n" + "\n".join(problems[:_SHOWN]) + more)
    return questions


def _question(row: Any, signature: type[dspy.Signature], repeated: Counter[str]) -> Question:
    if isinstance(row, ValueError):
        raise ValueError(f"this is no JSON: {row}.")
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is a JSON object with {_wanted(signature)}, not {row!r:.60}.")
    fields = signature.input_fields
    missing = missing_inputs(row, signature)
    if missing:
        raise ValueError(f"the input {', '.join(missing)} is missing. Given: {', '.join(row) or 'nothing'}.")
    inputs = {name: typed_input(name, row[name], signature) for name in fields if name in row}
    given = to_jsonable_python({name: row[name] for name in inputs}, fallback=str)
    extra = {name: value for name, value in row.items() if name not in fields and name != ID}
    content = digest(given)
    if ID in row and ID not in fields:
        return Question(_checked_id(row[ID]), inputs, given, extra)
    repeated[content] += 1
    # The same question twice is asked twice: its ids differ by how often it stood before.
    return Question(content if repeated[content] == 1 else f"{content}-{repeated[content]}", inputs, given, extra)


def _checked_id(id: Any) -> str | int:
    if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
        raise ValueError(f"an id is a text or a whole number, not {id!r:.60}. Leave it out to have one made.")
    return id


def _wanted(signature: type[dspy.Signature]) -> str:
    return ", ".join(f'"{name}"' for name in signature.input_fields)


@lru_cache(maxsize=256)
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    try:
        return TypeAdapter(annotation)
    except Exception:  # a type that pydantic does not know is taken as it comes
        return None
