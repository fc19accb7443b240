import json
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import CAPITAL, Process, lines, moa_dspy, printed, words, write, write_config
from support.mixtures import question
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render

from moa_dspy import Recording

ROWS = [{"id": f"q{n}", "question": f"question {n}", "note": n} for n in range(60)]
RUN = ["run", "questions.jsonl", "--out", "answers.jsonl", "--config", "moa.json", "--concurrency", "4"]


def echo(request: ChatRequest) -> Reply:
    return Reply(render("chat", {"reasoning": "so", "answer": question(request.prompt)}))


@pytest.fixture
def server(here: Path) -> Iterator[OpenAIServer]:
    """A provider, and a mixture of two of its models that agree."""
    write("questions.jsonl", *ROWS)
    with OpenAIServer(echo) as server:
        write_config(server, "a", "b", aggregation_strategy="voting")
        yield server


def asked(server: OpenAIServer) -> Counter[str]:
    """How often each question was asked, of both models together."""
    return Counter(question(request.prompt) for request in server.requests)


def test_all_answered_is_status_0() -> None:
    write("few.jsonl", {"question": CAPITAL, "answer": "Edinburgh", "note": 1})
    result = moa_dspy("run", "few.jsonl", "--out", "answers.jsonl")
    assert (result.exit_code, "Simulated models answer" in result.stderr) == (0, True)
    *summary, seconds, done = lines(result.stdout)
    assert summary[:3] == ["questions 1", "answered 1", "agreement 100% on average"]
    assert summary[3].endswith(" out, 5 calls") and summary[4] == "cost none" and seconds.startswith("seconds ")
    assert done == "All answers are in answers.jsonl."
    [row] = Recording.load("answers.jsonl")
    assert (row.outputs, row.gold, row.extra) == ({"answer": "Edinburgh"}, {"answer": "Edinburgh"}, {"note": 1})

    again = lines(moa_dspy("run", "few.jsonl", "--out", "answers.jsonl").stdout)
    assert again[:3] == ["questions 1", "answered 0", "skipped 1, answered before"]


def test_some_failed_is_status_1_and_the_next_run_asks_them_again(server: OpenAIServer) -> None:
    server.answer = lambda request: Reply("no", status=400) if question(request.prompt)[-1] == "7" else echo(request)
    result = moa_dspy(*RUN)
    shown = lines(result.stdout)
    assert result.exit_code == 1 and shown[:3] == ["questions 60", "answered 54", "failed 6"]
    assert shown[3:5] == [f"{name} 6 x LMInvalidRequestError: [openai/{name}] no" for name in "ab"]
    assert result.stderr == "What was answered is in answers.jsonl. The same command again asks what failed.\n"
    server.answer = echo
    summary = printed(*RUN)
    assert (summary["skipped"], summary["answered"], summary["failed"], summary["usage"]["calls"]) == (54, 6, 0, 12)
    assert summary["earlier_usage"]["calls"] == 120
    assert [row.id for row in Recording.load("answers.jsonl") if row.error is None] == [row["id"] for row in ROWS]


@pytest.mark.parametrize("options", [(), ("--max-failures", 3)])
def test_dead_providers_stop_it_and_are_named(server: OpenAIServer, options: tuple[object, ...]) -> None:
    server.answer = lambda request: Reply("gone", status=404)
    result = moa_dspy(*RUN, *options)
    assert result.exit_code == 1 and len(server.requests) < 2 * len(ROWS)
    assert re.search(
        r"Error: Stopped: \d+ questions failed and none was answered. a: \d+ x .*gone; b: ", words(result.stderr)
    )


def test_what_was_degraded_is_asked_again_if_wanted(server: OpenAIServer) -> None:
    server.answer = lambda request: Reply("down", status=400) if request.model == "b" else echo(request)
    first = printed(*RUN)
    assert (first["answered"], first["degraded"], [t["who"] for t in first["troubles"]]) == (60, 60, ["b"])
    server.requests.clear()
    server.answer = echo
    assert printed(*RUN)["skipped"] == 60 and not server.requests
    again = printed(*RUN, "--retry-degraded")
    assert (again["answered"], again["degraded"], again["earlier_usage"]["calls"]) == (60, 0, 120)
    assert Counter(request.model for request in server.requests)["b"] == 60


def test_a_budget_is_told_kept_and_gone_on_from(server: OpenAIServer) -> None:
    assert printed(*RUN, "--dry-run") == {
        "questions": 60,
        "calls": 120,
        "cost_usd": None,
        "unpriced": ["openai/a", "openai/b"],
    }
    refused = moa_dspy(*RUN, "--max-cost-usd", 1)
    assert refused.exit_code == 2 and "no price is known of openai/a, openai/b" in words(refused.stderr)
    assert not server.requests
    stopped = printed(*RUN, "--max-calls", 25, status=1)
    assert (stopped["answered"], stopped["left"], len(server.requests)) == (12, 48, 24)
    assert stopped["stopped"].startswith("The budget is used up: 24 of 25 calls are spent")
    assert "48 questions, 96 LM calls, cost unknown: no price of" in words(moa_dspy(*RUN, "--dry-run").stdout)
    assert printed(*RUN)["answered"] == 48


def test_an_unreadable_answer_is_not_taken_from_the_cache_again(server: OpenAIServer) -> None:
    server.answer = lambda request: Reply("nonsense")
    write("few.jsonl", ROWS[0])
    few = ["run", "few.jsonl", *RUN[2:]]
    assert printed(*few, status=1)["failed"] == 1
    server.answer = echo
    assert printed(*few)["answered"] == 1 and Recording.load("answers.jsonl")[0].degraded is False


def test_a_signature_class_of_the_current_directory() -> None:
    Path("task_of_run.py").write_text(
        "import dspy\nclass Task(dspy.Signature):\n    place: str = dspy.InputField()\n"
        "    year: int = dspy.InputField()\n    answer: bool = dspy.OutputField()\n"
    )
    write("rows.csv", "place,year,note", "Oslo,1900,x")
    assert moa_dspy("run", "rows.csv", "--out", "answers.jsonl", "--signature", "task_of_run:Task").exit_code == 0
    [row] = Recording.load("answers.jsonl")
    assert (row.inputs, row.extra) == ({"place": "Oslo", "year": "1900"}, {"note": "x"})
    assert row.outputs is not None and isinstance(row.outputs["answer"], bool)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["none.jsonl", "--out", "a.jsonl"], "none.jsonl: No such file or directory."),
        (["empty.jsonl", "--out", "a.jsonl"], "empty.jsonl holds no questions."),
        (["bad.jsonl", "--out", "a.jsonl"], "rows are malformed. Line 2: this is no JSON: "),
        (["few.jsonl", "--out", "few.jsonl"], "few.jsonl holds the questions"),
        (["few.jsonl", "--out", "none/a.jsonl"], "does not exist: make it"),
        (["few.jsonl", "--out", "bad.jsonl"], "so the file is left as it is."),
        (["few.jsonl", "--out", "a.jsonl", "--signature", "q -> a"], "Line 1: the input q is missing."),
        (["few.jsonl", "--out", "a.jsonl", "--preset", "budget"], "_API_KEY"),
        (["few.jsonl", "--out", "a.jsonl", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_bad_input_is_one_message_and_status_2(arguments: list[str], problem: str) -> None:
    write("few.jsonl", ROWS[0])
    write("empty.jsonl")
    write("bad.jsonl", '{"question": "a"}', '{"question": ')
    result = moa_dspy("run", *arguments, columns=120)
    assert (result.exit_code, result.stdout) == (2, "") and problem in words(result.stderr)
    assert problem in words(printed("run", *arguments, status=2)["error"]["message"])


def test_answers_of_another_mixture_are_refused_unless_forced() -> None:
    write("few.jsonl", {"question": CAPITAL})
    moa_dspy("run", "few.jsonl", "--out", "answers.jsonl", "--strategy", "voting")
    refused = moa_dspy("run", "few.jsonl", "--out", "answers.jsonl")
    assert (refused.exit_code, "now:   synthesis of alice+bob+carol+dave by judge" in refused.stderr) == (2, True)
    assert moa_dspy("run", "few.jsonl", "--out", "answers.jsonl", "--force").exit_code == 0


def test_from_stdin_to_stdout(server: OpenAIServer) -> None:
    text = Path("questions.jsonl").read_text()
    result = moa_dspy("run", "-", "-o", "-", "-c", "moa.json", stdin=text)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and {row["id"]: row["outputs"]["answer"] for row in rows} == {
        row["id"]: row["question"] for row in ROWS
    }
    assert lines(result.stderr)[:2] == ["questions 60", "answered 60"]
    assert moa_dspy("run", "-", "-o", "-", "--json", stdin=text).exit_code == 2


def test_a_reader_that_leaves_loses_nothing_that_was_paid_for(server: OpenAIServer) -> None:
    server.latency = 0.05
    process = Process("run", "questions.jsonl", "-o", "-", "-c", "moa.json", "--concurrency", "2")
    first = json.loads(process.popen.stdout.readline())  # type: ignore[union-attr]
    process.popen.stdout.close()  # type: ignore[union-attr]
    err = process.popen.stderr.read()  # type: ignore[union-attr]
    assert process.popen.wait(60) == 1 and "Traceback" not in err
    kept = re.search(r"paid for are in (\S+):", words(err))
    assert kept is not None
    rows = Recording.load(kept[1])
    os.unlink(kept[1])
    assert first["id"] in [row.id for row in rows] and len(rows) < 60
    assert asked(server) == Counter({row.inputs["question"]: 2 for row in rows})


def test_killed_at_any_moment_it_goes_on_where_it_was(server: OpenAIServer) -> None:
    draw, done, kills, server.latency = random.Random(7), dict[str, int](), 3, 0.02
    for _ in range(kills):
        process = Process(*RUN)
        process.signal(signal.SIGKILL, server, after=len(server.requests) + draw.randint(1, 40))
        assert process.end()[0] == -signal.SIGKILL
        time.sleep(0.05)  # what was on its way to the server has arrived
        answered = {row.inputs["question"] for row in Recording.load("answers.jsonl")}
        assert answered >= done.keys() and {text: asked(server)[text] for text in done} == done
        done = {text: asked(server)[text] for text in answered}
    assert len(done) > 10
    last = moa_dspy(*RUN)
    assert last.exit_code == 0, last.output
    assert {text: asked(server)[text] for text in done} == done
    assert 2 * len(ROWS) <= len(server.requests) <= 2 * len(ROWS) + kills * 4 * 2
    rows = [json.loads(line) for line in Path("answers.jsonl").read_bytes().splitlines()]
    assert [(row["id"], row["outputs"]["answer"]) for row in rows] == [(row["id"], row["question"]) for row in ROWS]


def test_ctrl_c_finishes_what_is_under_way_and_nothing_is_paid_twice(server: OpenAIServer) -> None:
    server.latency = 0.05
    process = Process(*RUN)
    process.signal(signal.SIGINT, server, after=20)
    status, out, err = process.end()
    answered = len(Recording.load("answers.jsonl"))
    assert (status, lines(out)[:3]) == (130, ["questions 60", f"answered {answered}", f"left {60 - answered}"])
    assert "What was answered is in answers.jsonl. The same command again asks what is left." in words(err)
    assert (len(server.requests), "Traceback" in err) == (2 * answered, False)
    last = moa_dspy(*RUN)
    assert last.exit_code == 0, last.output
    assert (set(asked(server).values()), len(Recording.load("answers.jsonl"))) == ({2}, 60)
