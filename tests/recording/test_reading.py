"""Questions, read and checked before anything is paid for."""

import datetime
import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest

from moa_dspy.recording import Recording, Row, as_questions, read_questions
from moa_dspy.signatures import task_signature

TASK = task_signature("question -> answer")


class Typed(dspy.Signature):
    n: int = dspy.InputField()
    day: datetime.date = dspy.InputField()
    kind: Literal["a", "b"] | None = dspy.InputField()
    names: list[str] = dspy.InputField()
    answer: str = dspy.OutputField()


def write(path: Path, *lines: str | Mapping[str, Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_questions_are_typed_as_the_signature_says(tmp_path: Path) -> None:
    row = {"id": 7, "n": 3, "day": "2024-02-29", "kind": "a", "names": ["x"], "answer": "y", "note": 1}
    [read] = read_questions(write(tmp_path / "q.jsonl", "", row, "  "), Typed)
    assert read.typed_inputs == {"n": 3, "day": datetime.date(2024, 2, 29), "kind": "a", "names": ["x"]}
    assert read.inputs == {"n": 3, "day": "2024-02-29", "kind": "a", "names": ["x"]}
    assert (read.id, read.gold, read.extra) == (7, {"answer": "y"}, {"note": 1})
    [read] = as_questions([{"n": 3, "day": datetime.date(2024, 2, 29), "names": []}], Typed)
    assert read.inputs == {"n": 3, "day": "2024-02-29", "names": []}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("q.jsonl", '{"n": 1, "day": "2024-01-01", "kind": null, "names": ["x, y"], "answer": "007"}\n'),
        ("q.json", '[{"n": 1, "day": "2024-01-01", "kind": null, "names": ["x, y"], "answer": "007"}]'),
        ("q.csv", 'n,day,kind,names,answer\r\n1,2024-01-01,null,"[""x, y""]",007\r\n'),
        ("q.tsv", 'n\tday\tkind\tnames\tanswer\n1\t2024-01-01\tnull\t["x, y"]\t007\n'),
        ("q.TSV", '\ufeffn\tday\tkind\tnames\tanswer\n1\t2024-01-01\tnull\t["x, y"]\t007\n'),
    ],
)
def test_every_kind_of_file_gives_the_same(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    [read] = read_questions(tmp_path / name, Typed)
    assert read.typed_inputs == {"n": 1, "day": datetime.date(2024, 1, 1), "kind": None, "names": ["x, y"]}
    assert read.gold == {"answer": "007"}


def test_questions_are_read_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ('{"question": "a"}\n{"question": "b"}', '[{"question": "a"}, {"question": "b"}]'):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        assert [read.typed_inputs["question"] for read in read_questions("-", TASK)] == ["a", "b"]


def test_parquet_is_read_with_pandas(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pandas = pytest.importorskip("pandas")
    pandas.DataFrame([{"n": 1, "day": "2024-01-01", "names": ["x"]}]).to_parquet(tmp_path / "q.parquet")
    [read] = read_questions(tmp_path / "q.parquet", Typed)
    assert read.typed_inputs == {"n": 1, "day": datetime.date(2024, 1, 1), "names": ["x"]}


def test_a_number_is_taken_as_text_and_an_input_named_id_is_an_input() -> None:
    [read] = as_questions([{"id": 5, "question": 7.5}], task_signature("id, question -> answer"))
    assert (read.typed_inputs, len(str(read.id))) == ({"id": "5", "question": "7.5"}, 12)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question": "a"', "Line 2: this is no JSON: Expecting ',' delimiter"),
        ('["a"]', "Line 2: a row is a JSON object with \"question\", not ['a']"),
        ('{"id": 1, "q": "a"}', "Line 2: the input question is missing. Given: id, q."),
        ('{"question": null}', "Line 2: `question`: Input should be a valid string, not None."),
        ('{"question": "a", "id": "x"}', "Line 2: the id 'x' is that of line 1 too."),
        ('{"question": "a", "id": [1]}', "Line 2: an id is a text or a whole number, not [1]."),
        ('{"question": "a", "x": NaN}', "Line 2: this is no JSON: NaN is no JSON"),
        ("[" * 200_000, "Line 2: this is nested too deeply"),
    ],
)
def test_malformed_rows_are_named(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(ValueError) as caught:
        read_questions(write(tmp_path / "q.jsonl", {"question": "fine", "id": "x"}, line), TASK)
    assert problem in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("q.csv", b"question\n\xe4\n", "Line 2"),
        ("q.jsonl", b'{"question": "\xe4"}', "is not UTF-8. Save the file as UTF-8."),
        ("q.csv", b"question,answer\na,b,c\n", "Line 2: it has more cells than the header"),
        ("q.csv", b"question\n" + b"x" * 200_000, "field larger than field limit"),
        ("q.csv", b"", "holds no questions"),
        ("q.csv", b"What is 2 + 2?,4\nWhy?,so\n", "is no header that names question: it is 'What is 2 + 2?, 4'."),
        ("q.csv", b"question;answer\na;b\n", "it is 'question;answer'. Put a line with the names"),
        ("q.tsv", b'"question","answer"\na,b\n', "cells by commas in a .csv, by tabs in a .tsv"),
        ("q.csv", "question\na\n".encode("utf-16"), "q.csv is UTF-16. Save the file as UTF-8."),
        (".", b"", "is a folder. Name the file in it"),
        ("q.json", b"[", "this is no JSON"),
        ("q.json", b"[1]", "Row 1: a row is a JSON object"),
        ("q.jsonl", b"\n \n", 'holds no questions. Write one JSON object a line, with "question"'),
    ],
)
def test_malformed_files_are_refused(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    if name != ".":
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError) as caught:
        read_questions(tmp_path / name, TASK)
    assert problem in str(caught.value)


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)Line 1: .*Line 5: .*\n\.\.\. and 7 more\."):
        read_questions(write(tmp_path / "q.jsonl", *["{}"] * 12), TASK)


def test_no_lone_surrogate_stops_a_recording() -> None:
    [read] = as_questions([{"question": "a \ud83d"}], TASK)
    assert read.inputs == {"question": "a \ufffd"}


def test_a_key_that_stands_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"question": "a"}\n{"question": "b", "question": "c"}\n')
    with pytest.raises(ValueError, match=r"Line 2: .*'question' is given twice"):
        read_questions(tmp_path / "q.jsonl", task_signature("question -> answer"))


def test_what_json_does_not_have_is_null(tmp_path: Path) -> None:
    row = Row(id=1, inputs={"question": "?"}, outputs={"ratio": float("nan"), "more": [1.0, float("inf")]})
    Recording([row]).save(tmp_path / "r.jsonl")
    assert Recording.load(tmp_path / "r.jsonl")[0].outputs == {"ratio": None, "more": [1.0, None]}
