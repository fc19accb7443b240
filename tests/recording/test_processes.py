"""Recordings that are killed, and that several processes fill."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

from moa_dspy import Recording

SCRIPT = Path(__file__).parent.parent / "support" / "recorder.py"


def start(path: Path, first: int, last: int, delay: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(SCRIPT), str(path), str(first), str(last), str(delay)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    """The questions that a process asked."""
    asked, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return asked.split()


def test_what_a_killed_process_wrote_is_not_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    process = start(path, 0, 12, 0.02)
    assert process.stdout is not None
    for _ in range(3):
        process.stdout.readline()
    process.kill()
    process.communicate()
    kept = {row.id for row in Recording.load(path) if row.outputs} if path.stat().st_size else set()
    asked = finish(start(path, 0, 12, 0))
    assert sorted(asked) == sorted(f"q{n}" for n in range(12) if n not in kept)
    assert [row.id for row in Recording.load(path)] == list(range(12))
    assert all(json.loads(line)["error"] is None for line in path.read_text().splitlines())


def test_two_processes_fill_one_file_and_ask_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    processes = [start(path, 0, 40, 0.01), start(path, 0, 40, 0.01), start(path, 20, 60, 0.01)]
    asked = Counter(question for process in processes for question in finish(process))
    assert asked == Counter(f"q{n}" for n in range(60))
    recording = Recording.load(path)
    assert {row.id: row.outputs and row.outputs["answer"] for row in recording} == {n: f"q{n}" for n in range(60)}
    assert len(path.read_text().splitlines()) == 60


def test_a_killed_process_leaves_no_question_claimed(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    process = start(path, 0, 4, 30)
    while not path.exists():
        assert process.poll() is None
    process.kill()
    process.communicate()
    assert sorted(finish(start(path, 0, 4, 0))) == ["q0", "q1", "q2", "q3"]
