"""Recordings that are killed, and that several processes fill."""

import json
import multiprocessing
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.recorder import record_slowly

from moa_dspy import Recording


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have imported everything already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["support.recorder"])
    return context


class Recorder:
    """A process that records questions; it notes each that it asks in a file of its own."""

    def __init__(self, processes: Any, path: Path, first: int, last: int, delay: float) -> None:
        self.notes = path.with_name(f"asked-{time.monotonic_ns()}.txt")
        self.notes.touch()
        self._process = processes.Process(target=record_slowly, args=(path, self.notes, first, last, delay))
        self._process.start()

    @property
    def asked(self) -> list[str]:
        return self.notes.read_text().split()

    def kill(self, after: int) -> None:
        """Kill it when it has asked so many."""
        while len(self.asked) < after:
            assert self._process.is_alive()
            time.sleep(0.001)
        self._process.kill()
        self._process.join()

    def finish(self) -> list[str]:
        """The questions that it asked."""
        self._process.join(60)
        assert self._process.exitcode == 0
        return self.asked


def test_what_a_killed_process_wrote_is_not_asked_again(processes: Any, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Recorder(processes, path, 0, 12, 0.02).kill(after=3)
    kept = {row.id for row in Recording.load(path) if row.outputs} if path.stat().st_size else set()
    asked = Recorder(processes, path, 0, 12, 0).finish()
    assert sorted(asked) == sorted(f"q{n}" for n in range(12) if n not in kept)
    assert [row.id for row in Recording.load(path)] == list(range(12))
    assert all(json.loads(line)["error"] is None for line in path.read_text().splitlines())


def test_several_processes_fill_one_file_and_ask_nothing_twice(processes: Any, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    recorders = [Recorder(processes, path, first, last, 0.01) for first, last in ((0, 16), (0, 16), (8, 24))]
    asked = Counter(question for recorder in recorders for question in recorder.finish())
    assert asked == Counter(f"q{n}" for n in range(24))
    recording = Recording.load(path)
    assert {row.id: row.outputs and row.outputs["answer"] for row in recording} == {n: f"q{n}" for n in range(24)}
    assert len(path.read_text().splitlines()) == 24


def test_a_killed_process_leaves_no_question_claimed(processes: Any, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    Recorder(processes, path, 0, 4, 30).kill(after=1)
    assert sorted(Recorder(processes, path, 0, 4, 0).finish()) == ["q0", "q1", "q2", "q3"]
