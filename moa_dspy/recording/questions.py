"""The questions of a recording, as rows without answers: read and checked, all of them, before anything is paid for."""

from __future__ import annotations

import codecs
import csv
import io
import json
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import dspy
from pydantic import ValidationError

from moa_dspy.files import parse_json
from moa_dspy.recording.rows import Row
from moa_dspy.values import hash_of, is_needed, to_jsonable, validated

__all__ = ["Cells", "Questions", "as_questions", "read_file", "read_questions"]

Questions: TypeAlias = "str | Path | Iterable[Mapping[str, Any] | dspy.Example | Row]"
_SHOWN = 5


def read_questions(path: str | Path, signature: type[dspy.Signature]) -> list[Row]:
    """The questions of a file, as rows without answers.

    Args:
        path: JSONL (one object a line), a JSON array, CSV or TSV with a header, or Parquet (with pandas), by its
            ending; `-` reads JSONL or a JSON array from standard input. Text is UTF-8.
        signature: Says which fields are inputs and outputs, and of what types.

    Raises:
        ValueError: If there are none, or rows are malformed: the message names every place (up to five).
        OSError: If the file cannot be read.
    """
    if questions := _check(read_file(path, signature.input_fields), signature):
        return questions
    raise ValueError(
        f"{path} holds no questions. Write one JSON object a line, with {_inputs_of(signature)}; or a table, with "
        "these as its header."
    )


def as_questions(rows: Questions, signature: type[dspy.Signature]) -> list[Row]:
    """The questions of examples or rows that are in memory, or of a file; ValueError names malformed ones, from 1."""
    if isinstance(rows, (str, Path)):
        return read_questions(rows, signature)
    # A question as it was read stays as it is; a row of a recording is checked anew.
    given = (row.example if isinstance(row, Row) and row._typed_inputs is None else row for row in rows)
    return _check(_number(dict(row.items()) if isinstance(row, dspy.Example) else row for row in given), signature)


def read_file(path: str | Path, wanted: Collection[str] = ()) -> Iterator[tuple[str, Any]]:
    """Where each row of a file stands, and what it holds: an object, or the error for which it cannot be read.

    Args:
        path: The file; `-` is standard input.
        wanted: Columns of which a table's header should name some.

    Raises:
        ValueError: If nothing can be read.
        OSError: If the file cannot be read.
    """
    kind = Path(path).suffix.lower()
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder. Name the file in it that holds the rows.")
    if kind == ".parquet":
        try:
            import pandas
        except ImportError:
            raise ValueError(f"Reading {path} needs pandas: pip install pandas pyarrow.") from None
        return _number(to_jsonable(pandas.read_parquet(path).to_dict("records")))
    content = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        is_wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        said = f"{path} is UTF-16" if is_wide else f"Line {line} of {path} is not UTF-8"
        raise ValueError(f"{said}. Save the file as UTF-8.") from None
    if kind in (".csv", ".tsv"):
        return _read_cells(text, "," if kind == ".csv" else "\t", path, wanted)
    if text.lstrip()[:1] != "[":
        lines = enumerate(text.split("\n"), start=1)
        return ((f"Line {number}", _parse(line)) for number, line in lines if line.strip())
    rows = _parse(text)
    if isinstance(rows, ValueError):
        raise ValueError(f"The file cannot be read: {rows}")
    return _number(rows)


class Cells(dict[str, Any]):
    """A row of a table of texts: what is no text by the signature is read as JSON."""


def _number(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"Row {number}", row) for number, row in enumerate(rows, start=1))


def _read_cells(text: str, delimiter: str, path: str | Path, wanted: Collection[str]) -> Iterator[tuple[str, Any]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        if wanted and (header := rows.fieldnames) and not set(wanted) & set(header):
            raise ValueError(
                f"The first line of {path} is no header that names {', '.join(wanted)}: it is "
                f"{', '.join(header)!r:.80}. Put a line with the names of the columns above the rows, and separate "
                "cells by commas in a .csv, by tabs in a .tsv."
            )
        for row in rows:
            cells = Cells({name: cell for name, cell in row.items() if cell is not None})
            is_longer = rows.restkey in cells
            yield f"Line {rows.line_num}", ValueError("it has more cells than the header.") if is_longer else cells
    except csv.Error as error:
        raise ValueError(f"The table cannot be read: {error}.") from None


def _parse(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        return ValueError(f"this is no JSON: {error}: {text:.60}")
    except RecursionError:
        return ValueError(f"this is nested too deeply to be a row: {text:.60}")


def _check(rows: Iterable[tuple[str, Any]], signature: type[dspy.Signature]) -> list[Row]:
    questions: dict[str, tuple[str, Row]] = {}
    problems: list[str] = []
    repeated: Counter[str] = Counter()
    for place, row in rows:
        try:
            question = row if isinstance(row, Row) else _as_question(row, signature, repeated)
            if question.key in questions:
                raise ValueError(f"the id {question.id!r} is that of {questions[question.key][0].lower()} too.")
            questions[question.key] = place, question
        except ValueError as problem:
            problems.append(f"{place}: {problem}")
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more." if len(problems) > _SHOWN else ""
        raise ValueError("Nothing was asked, because rows are malformed.\n" + "\n".join(problems[:_SHOWN]) + more)
    return [question for _, question in questions.values()]


def _as_question(row: Any, signature: type[dspy.Signature], repeated: Counter[str]) -> Row:
    if isinstance(row, ValueError):
        raise row
    if not isinstance(row, Mapping):
        raise ValueError(f"a row is a JSON object with {_inputs_of(signature)}, not {row!r:.60}.")
    fields, outputs = signature.input_fields, signature.output_fields
    if missing := [name for name, info in fields.items() if name not in row and is_needed(info)]:
        raise ValueError(f"the input {', '.join(missing)} is missing. Given: {', '.join(row) or 'nothing'}.")
    inputs = {name: _as_input(name, row, info.annotation) for name, info in fields.items() if name in row}
    given = {name: to_jsonable(row[name]) for name in inputs}
    gold = {name: _read_cell(row, name, info.annotation) for name, info in outputs.items() if name in row}
    extra = {name: value for name, value in row.items() if name not in signature.fields and name != "id"}
    if "id" in row and "id" not in signature.fields:
        id = row["id"]
        if isinstance(id, bool) or not isinstance(id, (str, int)) or id == "":
            raise ValueError(f"an id is a text or a whole number, not {id!r:.60}. Leave it out to have one made.")
    else:
        id = hash_of(given, 12)
        repeated[id] += 1
        # The same question twice is asked twice: its ids differ by how often it stood before.
        id = id if repeated[id] == 1 else f"{id}-{repeated[id]}"
    question = Row(id=id, inputs=given, gold=gold, extra=extra)
    question._typed_inputs = inputs
    return question


def _as_input(name: str, row: Mapping[str, Any], annotation: Any) -> Any:
    value = _read_cell(row, name, annotation)
    try:
        return value if type(value) is annotation else validated(value, annotation)
    except ValidationError as error:
        raise ValueError(f"`{name}`: {error.errors()[0]['msg']}, not {value!r:.60}.") from None


def _read_cell(row: Mapping[str, Any], name: str, annotation: Any) -> Any:
    if isinstance(row, Cells) and annotation is not str:
        try:
            return json.loads(row[name])
        except ValueError:
            pass  # a text after all: what it should be, the type says
    return row[name]


def _inputs_of(signature: type[dspy.Signature]) -> str:
    return ", ".join(f'"{name}"' for name in signature.input_fields)
