"""The questions of a recording: read and checked, all of them, before anything is paid for."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
from pydantic import ValidationError

from moa_dspy.values import adapter_of, hash_of, is_needed, to_jsonable

__all__ = ["Cells", "Question", "as_questions", "read_file", "read_questions"]

Rows = Iterator[tuple[str, Any]]
_SHOWN = 5


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: Its `id`; without one, a hash of its inputs, so that it is the same wherever the row stands.
        inputs: The signature's inputs, typed as the signature says.
        given: The same as they were given, JSON-able.
        gold: The signature's outputs, where they are known.
        extra: Further fields.
    """

    id: str | int
    inputs: dict[str, Any]
    given: dict[str, Any]
    gold: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What it is known by: 7 and "7" are one id."""
        return str(self.id)

    @property
    def example(self) -> dspy.Example:
        """The question as a metric takes it."""
        return dspy.Example({"id": self.id, **self.extra, **self.gold, **self.inputs}).with_inputs(*self.inputs)


def read_questions(path: str | Path, signature: type[dspy.Signature]) -> list[Question]:
    """The questions of a file.

    Args:
        path: JSONL (one object a line), a JSON array, CSV or TSV with a header, or Parquet (with pandas), by its
            ending; `-` reads JSONL or a JSON array from standard input. Text is UTF-8.
        signature: Says which fields are inputs and outputs, and of what types.

    Raises:
        ValueError: If there are none, or rows are malformed: the message names every place (up to five).
        OSError: If the file cannot be read.
    """
    questions = _checked(read_file(path), signature)
    if not questions:
        raise ValueError(f"{path} holds no questions. Write one JSON object a line, with {_wanted(signature)}.")
    return questions


def as_questions(
    rows: str | Path | Iterable[Mapping[str, Any] | dspy.Example], signature: type[dspy.Signature]
) -> list[Question]:
    """The questions of examples or rows that are in memory, or of a file.

    Raises:
        ValueError: If rows are malformed: the message names them, counted from 1.
    """
    if isinstance(rows, (str, Path)):
        return read_questions(rows, signature)
    return _checked(
        (
            (f"Row {number}", dict(row.items()) if isinstance(row, dspy.Example) else row)
            for number, row in enumerate(rows, start=1)
        ),
        signature,
    )


def read_file(path: str | Path) -> Rows:
    """Where each row of a file stands, and what it holds: an object, or the error for which it cannot be read.

    Raises:
        ValueError: If nothing can be read.
        OSError: If the file cannot be read.
    """
    kind = Path(path).suffix.lower()
    if kind == ".parquet":
        return _parquet_rows(Path(path))
    content = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValueError("This is UTF-16, and files are read as UTF-8. Convert it: iconv -f UTF-16 -t UTF-8.")
    content = content.removeprefix(b"\xef\xbb\xbf")
    if kind in (".csv", ".tsv"):
        return _table_rows(content, "," if kind == ".csv" else "\t")
    return _json_rows(content)


def _json_rows(content: bytes) -> Rows:
    if content.lstrip()[:1] == b"[":
        rows = _parse(content)
        if isinstance(rows, ValueError):
            raise ValueError(f"The file cannot be read: {rows}")
        yield from ((f"Row {number}", row) for number, row in enumerate(rows, start=1))
        return
    for number, line in enumerate(content.split(b"\n"), start=1):
        if line.strip():
            yield f"Line {number}", _parse(line)


def _parse(text: bytes) -> Any:
    try:
        return json.loads(text.decode(), parse_constant=_refuse_constant, object_pairs_hook=_refuse_twice)
    except ValueError as error:  # also what is no UTF-8
        return ValueError(f"this is no JSON: {error}.")
    except RecursionError:
        return ValueError("this is no JSON: it is nested too deeply to be a row.")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} stands there twice, so one of the values would be lost")
    return row


def _table_rows(content: bytes, delimiter: str) -> Rows:
    try:
        lines = csv.reader(io.StringIO(content.decode(), newline=""), delimiter=delimiter)
        header = next(lines, [])
        if twice := [name for name, count in Counter(header).items() if count > 1]:
            raise ValueError(f"The column {twice[0]!r} stands there twice, so one of the values would be lost.")
        for cells in lines:
            if len(cells) > len(header):
                yield f"Line {lines.line_num}", ValueError(f"it has more cells than the header ({len(header)}).")
            elif cells:
                yield f"Line {lines.line_num}", Cells(zip(header, cells, strict=False))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"The table cannot be read as UTF-8 text: {error}.") from None


class Cells(dict[str, Any]):
    """A row of a table of texts: what is no text by the signature is read as JSON."""


def _parquet_rows(path: Path) -> Rows:
    try:
        import pandas
    except ImportError:
        raise ValueError(f"Reading {path} needs pandas: pip install pandas pyarrow.") from None
    for number, row in enumerate(pandas.read_parquet(path).to_dict("records"), start=1):
        yield f"Row {number}", to_jsonable(row)


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
        raise row
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is a JSON object with {_wanted(signature)}, not {row!r:.60}.")
    fields, outputs = signature.input_fields, signature.output_fields
    missing = [name for name, info in fields.items() if name not in row and is_needed(info)]
    if missing:
        raise ValueError(f"the input {', '.join(missing)} is missing. Given: {', '.join(row) or 'nothing'}.")
    inputs = {name: _typed(name, row, fields[name].annotation) for name in fields if name in row}
    gold = {name: _cell(row, name, outputs[name].annotation) for name in outputs if name in row and name not in fields}
    given = {name: to_jsonable(row[name]) for name in inputs}
    others = {name: value for name, value in row.items() if name not in fields and name not in outputs and name != _ID}
    if _ID in row and _ID not in fields and _ID not in outputs:
        return Question(_checked_id(row[_ID]), inputs, given, gold, others)
    content = hash_of(given, 12)
    repeated[content] += 1
    # The same question twice is asked twice: its ids differ by how often it stood before.
    id = content if repeated[content] == 1 else f"{content}-{repeated[content]}"
    return Question(id, inputs, given, gold, others)


_ID = "id"


def _typed(name: str, row: Mapping[str, Any], annotation: Any) -> Any:
    value = _cell(row, name, annotation)
    if annotation is str and isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    adapter = adapter_of(annotation)
    try:
        return value if adapter is None or type(value) is annotation else adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(f"`{name}`: {error.errors()[0]['msg']}, not {value!r:.60}.") from None


def _cell(row: Mapping[str, Any], name: str, annotation: Any) -> Any:
    value = row[name]
    if not isinstance(row, Cells) or annotation is str:
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _checked_id(id: Any) -> str | int:
    if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
        raise ValueError(f"an id is a text or a whole number, not {id!r:.60}. Leave it out to have one made.")
    return id


def _wanted(signature: type[dspy.Signature]) -> str:
    return ", ".join(f'"{name}"' for name in signature.input_fields)
