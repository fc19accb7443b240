import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.mixtures import question
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render
from typer.testing import CliRunner, Result

from moa_dspy.batch import read_answers
from moa_dspy.cli import app

ROWS = [{"id": f"q{n}", "question": f"question {n}", "gold": n} for n in range(60)]


def echo(request: ChatRequest) -> Reply:
    return Reply(render("chat", {"reasoning": "so", "answer": question(request.prompt)}))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, arguments)], env={"COLUMNS": "80"})


def lines(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    write("questions.jsonl", *ROWS)
    return tmp_path


@pytest.fixture
def server(here: Path) -> Iterator[OpenAIServer]:
    """A provider, and a mixture of two of its models that agree."""
    with OpenAIServer(echo) as server:
        entries = [{"model": f"openai/{name}", "api_base": server.url, "num_retries": 0} for name in ("a", "b")]
        write("moa.json", {"proposer_models": entries, "aggregation_strategy": "voting"})
        yield server


def write(name: str, *rows: object) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_all_answered_is_status_0(here: Path) -> None:
    write("few.jsonl", {"question": "What is the capital of Scotland?", "gold": "Edinburgh"})
    result = run("few.jsonl", "--out", "answers.jsonl")
    assert (result.exit_code, "Simulated models answer" in result.stderr) == (0, True)
    *summary, seconds, done = lines(result.stdout)
    assert summary[:3] == ["questions 1", "answered 1", "agreement 100% on average"]
    assert summary[3].endswith(" out, 5 calls") and summary[4] == "cost none" and seconds.startswith("seconds ")
    assert done == "All answers are in answers.jsonl."
    [row] = read_answers("answers.jsonl")
    assert (row.outputs, row.extra) == ({"answer": "Edinburgh"}, {"gold": "Edinburgh"})

    again = lines(run("few.jsonl", "--out", "answers.jsonl").stdout)
    assert again[:3] == ["questions 1", "answered 0", "skipped 1, answered before"]


def test_some_failed_is_status_1_and_the_next_run_asks_them_again(server: OpenAIServer) -> None:
    server.answer = lambda request: Reply("no", status=400) if question(request.prompt)[-1] == "7" else echo(request)
    result = run("questions.jsonl", "--out", "answers.jsonl", "--config", "moa.json")
    assert result.exit_code == 1
    shown = lines(result.stdout)
    assert shown[:3] == ["questions 60", "answered 54", "failed 6"]
    assert shown[3].startswith("first error q") and "TooFewProposals: 0 proposals came back" in shown[3]
    assert shown[-1] == "What was answered is in answers.jsonl. The same command again asks what failed."

    server.answer = echo
    summary = json.loads(run("questions.jsonl", "-o", "answers.jsonl", "--config", "moa.json", "--json").stdout)
    assert (summary["skipped"], summary["answered"], summary["failed"], summary["usage"]["calls"]) == (54, 6, 0, 12)
    assert [row.id for row in read_answers("answers.jsonl") if row.error is None] == [row["id"] for row in ROWS]


def test_a_signature_class_of_the_current_directory(here: Path) -> None:
    Path("task_of_run.py").write_text(
        "import dspy\nclass Task(dspy.Signature):\n    place: str = dspy.InputField()\n"
        "    year: int = dspy.InputField()\n    answer: bool = dspy.OutputField()\n"
    )
    write("rows.jsonl", {"place": "Oslo", "year": 1900, "note": "x"})
    assert run("rows.jsonl", "--out", "answers.jsonl", "--signature", "task_of_run:Task").exit_code == 0
    [row] = read_answers("answers.jsonl")
    assert (row.inputs, row.extra) == ({"place": "Oslo", "year": 1900}, {"note": "x"})
    assert row.outputs is not None and isinstance(row.outputs["answer"], bool)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.jsonl", "--out", "a.jsonl"], "none.jsonl: No such file or directory."),
        (["empty.jsonl", "--out", "a.jsonl"], "empty.jsonl holds no questions."),
        (["bad.jsonl", "--out", "a.jsonl"], "rows are malformed.\nLine 2: this is no JSON: "),
        (["questions.jsonl", "--out", "questions.jsonl"], "questions.jsonl holds the questions"),
        (["questions.jsonl", "--out", "none/a.jsonl"], "does not exist: make it"),
        (["questions.jsonl", "--out", "bad.jsonl"], "is no answer of a batch, so the file is left as it is."),
        (["questions.jsonl", "--out", "a.jsonl", "--signature", "q -> a"], "Line 1: the input q is missing."),
        (["questions.jsonl", "--out", "a.jsonl", "--preset", "budget"], "_API_KEY is not set"),
        (["questions.jsonl", "--out", "a.jsonl", "--strategy", "nope"], "there is no strategy 'nope'"),
    ],
)
def test_bad_input_is_one_message_and_status_2(here: Path, arguments: list[str], problem: str) -> None:
    Path("empty.jsonl").touch()
    Path("bad.jsonl").write_text('{"question": "a"}\n{"question": \n')
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ") and problem in result.stderr


def test_answers_of_another_mixture_are_refused_unless_forced(here: Path) -> None:
    write("few.jsonl", {"question": "2 + 2"})
    run("few.jsonl", "--out", "answers.jsonl", "--strategy", "voting")
    refused = run("few.jsonl", "--out", "answers.jsonl")
    assert (refused.exit_code, "now:   synthesis of alice+bob+carol+dave by judge" in refused.stderr) == (2, True)
    assert run("few.jsonl", "--out", "answers.jsonl", "--force").exit_code == 0


RUN = ["questions.jsonl", "--out", "answers.jsonl", "--config", "moa.json", "--concurrency", "4"]


class Process:
    """The command in a process of its own, on the server's models, without DSPy's cache."""

    def __init__(self, here: Path, server: OpenAIServer) -> None:
        self.server = server
        command = [sys.executable, "-c", "from moa_dspy.cli import main; main()", "run", *RUN]
        env = {**os.environ, "DSPY_CACHEDIR": str(here / f"cache-{time.monotonic_ns()}"), "COLUMNS": "80"}
        pipe: Any = subprocess.PIPE
        self._process = subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, text=True)

    def signal(self, number: int, after: int) -> None:
        """Send a signal when the server has seen so many requests."""
        deadline = time.monotonic() + 60
        while len(self.server.requests) < after:
            assert self._process.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self._process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        out, err = self._process.communicate(timeout=60)
        return self._process.returncode, lines(out), err


def asked(server: OpenAIServer) -> Counter[str]:
    """How often each question was asked, of both models together."""
    return Counter(question(request.prompt) for request in server.requests)


def test_killed_at_any_moment_it_goes_on_where_it_was(here: Path, server: OpenAIServer) -> None:
    draw, done, kills, server.latency = random.Random(7), dict[str, int](), 3, 0.02
    for _ in range(kills):
        process = Process(here, server)
        process.signal(signal.SIGKILL, after=len(server.requests) + draw.randint(1, 40))
        assert process.end()[0] == -signal.SIGKILL
        time.sleep(0.05)  # what was on its way to the server has arrived
        answered = {row.inputs["question"] for row in read_answers("answers.jsonl")}
        assert answered >= done.keys() and {text: asked(server)[text] for text in done} == done
        done = {text: asked(server)[text] for text in answered}
    assert len(done) > 10
    last = run(*RUN)
    assert last.exit_code == 0, last.output
    assert {text: asked(server)[text] for text in done} == done
    assert 2 * len(ROWS) <= len(server.requests) <= 2 * len(ROWS) + kills * 4 * 2
    rows = [json.loads(line) for line in Path("answers.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["outputs"]["answer"]) for row in rows] == [(row["id"], row["question"]) for row in ROWS]


def test_ctrl_c_finishes_what_is_under_way_and_nothing_is_paid_twice(here: Path, server: OpenAIServer) -> None:
    server.latency = 0.5
    process = Process(here, server)
    process.signal(0, after=1)
    assert "Another process is writing" in run(*RUN).stderr
    server.latency = 0.05
    process.signal(signal.SIGINT, after=20)
    status, shown, err = process.end()
    answered = len(read_answers("answers.jsonl"))
    assert (status, shown[:3]) == (130, ["questions 60", f"answered {answered}", f"left {60 - answered}"])
    assert shown[-1] == "What was answered is in answers.jsonl. The same command again asks what is left."
    assert (len(server.requests), "Traceback" in err) == (2 * answered, False)
    last = run(*RUN)
    assert last.exit_code == 0, last.output
    assert (set(asked(server).values()), len(read_answers("answers.jsonl"))) == ({2}, 60)
