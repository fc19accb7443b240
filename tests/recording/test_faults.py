"""Files that change, or cannot be written, while a recording is made: said, and nothing that was paid for is lost."""

import os
import resource
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, echo, question

from moa_dspy import MoA, Recording, record
from moa_dspy.recording import RecordingStopped

ROWS = [{"id": f"q{n}", "question": f"question {n}"} for n in range(6)]


def one(answers: Any = echo, **options: Any) -> tuple[MoA, FakeLM]:
    lm = FakeLM("only", answers, **options)
    return MoA(QA, [lm], strategy="voting"), lm


def asked(lm: FakeLM) -> list[str]:
    return sorted(question(prompt) for prompt in lm.prompts)


def answered(*paths: Path) -> set[str]:
    return {str(row.inputs["question"]) for path in paths if path.exists() for row in Recording.load(path)}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


@pytest.fixture
def limit() -> Iterator[Callable[[int], None]]:
    """Lets no file grow beyond so many bytes, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def write_over(path: Path, text: str) -> None:
    path.with_name("other").write_text(text)
    os.replace(path.with_name("other"), path)


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


CHANGES: dict[str, tuple[Callable[[Path], object], str, str | None]] = {
    "removed": (Path.unlink, "was removed or replaced while it was written", None),
    "replaced": (lambda path: write_over(path, "mine\n"), "was removed or replaced", "mine\n"),
    "emptied": (lambda path: os.truncate(path, 0), "was cut short while it was written, by", ""),
    "cut": (lambda path: os.truncate(path, path.stat().st_size - 9), "was cut short while it was written, by 9", None),
    "edited": (lambda path: append(path, "a note\n"), "was changed while it was written: what was added", None),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_changes_is_left_alone_and_what_came_goes_beside_it(out: Path, change: str) -> None:
    (act, message, content), seen = CHANGES[change], list[str]()
    moa, lm = one()

    def on_row(row: Any, summary: Any) -> None:
        seen.append("" if row is None else row.id)
        if len(seen) == 4:
            act(out)

    with pytest.raises(RecordingStopped, match=message) as caught:
        record(moa, ROWS, out, concurrency=2, on_row=on_row)
    rescued = list(out.parent.glob("answers-rescued-*.jsonl"))
    assert all(str(path) in str(caught.value) for path in rescued) and isinstance(caught.value.__cause__, OSError)
    assert (
        {str(row.inputs["question"]) for row in caught.value.recording}
        == set(asked(lm))
        < {r["question"] for r in ROWS}
    )
    there = out.read_text() if out.exists() else None
    assert there == content or (change in ("cut", "edited") and there)
    if there and change == "edited":
        out.write_text(there.replace("a note\n", ""))  # it is still there
    whole = [] if change == "replaced" else [out]
    assert answered(*rescued, *whole) == set(asked(lm))


@pytest.mark.parametrize("more", [0, 40, 700])
def test_a_full_disk_stops_it_and_it_goes_on_when_there_is_room(out: Path, limit: Any, more: int) -> None:
    moa, lm = one()

    def on_row(row: Any, summary: Any) -> None:
        if summary.answered == 3:  # the two under way fit beside it
            limit(out.stat().st_size + more)

    with pytest.raises(RecordingStopped, match="File too large") as caught:
        record(moa, ROWS, out, concurrency=2, on_row=on_row)
    limit(resource.RLIM_INFINITY)
    [rescued] = out.parent.glob("answers-rescued-*.jsonl")
    assert answered(out) | answered(rescued) == set(asked(lm)) and "go on from there" in caught.value.reason
    with open(out, "ab") as file:
        file.write(b"\n" + rescued.read_bytes())
    again, more_asked = one()
    assert len(record(again, ROWS, out)) == 6 and not set(asked(lm)) & set(asked(more_asked))


def test_room_that_comes_back_is_used(out: Path, limit: Any) -> None:
    hold = threading.Event()

    def hanging(prompt: str) -> Any:
        if question(prompt) == "question 2":
            hold.wait(5)
            limit(resource.RLIM_INFINITY)
        return echo(prompt)

    def on_row(row: Any, summary: Any) -> None:
        if summary.answered == 1 and row is not None:
            limit(out.stat().st_size)
        elif summary.answered == 2:
            hold.set()

    moa, lm = one(hanging)
    with pytest.raises(RecordingStopped, match=r"What came is in .*answers.jsonl"):
        record(moa, ROWS, out, concurrency=2, on_row=on_row)
    assert answered(out) == set(asked(lm)) and os.listdir(out.parent) == ["answers.jsonl"]


def test_without_room_to_sort_the_file_stays_in_the_order_of_the_answers(
    out: Path, limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    record(one()[0], ROWS, out)
    limit(out.stat().st_size - 1)
    assert [row.id for row in record(one([])[0], ROWS[::-1], out)] == [row["id"] for row in ROWS[::-1]]
    assert "is whole, but stays in the order in which the answers came" in caplog.text
    limit(resource.RLIM_INFINITY)
    assert [row.id for row in Recording.load(out)] == [row["id"] for row in ROWS]
    killed = out.with_name(".moa-killed")  # as it was sorted
    killed.mkdir()
    (killed / out.name).touch()
    assert [row.id for row in record(one([])[0], ROWS[::-1], out)] == [row["id"] for row in ROWS[::-1]]
    assert os.listdir(out.parent) == ["answers.jsonl"]


def test_rows_that_somebody_edits_in_place_count_and_rows_taken_out_are_kept(out: Path) -> None:
    def on_row(row: Any, summary: Any) -> None:
        if summary.left == 0:
            lines = out.read_text().splitlines(keepends=True)
            out.write_text("".join(lines[1:]).ljust(out.stat().st_size - 1) + "\n")

    with pytest.raises(RecordingStopped, match="1 rows were taken out of"):
        record(one()[0], ROWS, out, on_row=on_row)
    [rescued] = out.parent.glob("answers-rescued-*.jsonl")
    assert answered(rescued) == {"question 0"}


@pytest.mark.parametrize("link", [False, True], ids=["same name", "hard link"])
def test_two_threads_ask_nothing_twice(out: Path, link: bool) -> None:
    out.touch()
    other = out.with_name("linked.jsonl") if link else out
    if link:
        os.link(out, other)
    moa, lm = one(delay=0.01)
    rows = [{"id": n, "question": f"question {n}"} for n in range(30)]
    threads = [threading.Thread(target=record, args=(moa, rows, path)) for path in (out, other)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        Recording.load(out)  # opens and closes it, which ends POSIX locks
    assert set(Counter(asked(lm)).values()) == {1} and len(Recording.load(out)) == len(Recording.load(other)) == 30
    assert sorted(os.listdir(out.parent)) == sorted({out.name, other.name})


@pytest.mark.parametrize("text", ["{", '{"rec', '{"recording": 1', '{"recording": 1, "mixture": "mine'])
def test_a_foreign_line_is_no_torn_row(out: Path, text: str) -> None:
    out.write_text(text)
    with pytest.raises(ValueError, match=r"Line 1 of .* is no row of a recording"):
        record(one([])[0], ROWS, out)
    assert out.read_text() == text


def test_a_line_that_somebody_broke_is_no_torn_row(out: Path) -> None:
    record(one()[0], ROWS, out)
    text = out.read_text().replace('"error": null', '"error": nul', 1)
    out.write_text(text)
    with pytest.raises(ValueError, match=r"Line 1 of .* is no row of a recording"):
        record(one([])[0], ROWS, out)
    assert out.read_text() == text


def test_pandas_reads_nothing_but_rows(out: Path) -> None:
    pandas = pytest.importorskip("pandas")
    record(one()[0], ROWS, out)
    frame = pandas.read_json(out, lines=True)
    assert list(frame.columns[:3]) == ["recording", "mixture", "id"] and list(frame["id"]) == [r["id"] for r in ROWS]
