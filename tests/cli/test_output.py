"""What holds for every command: closed pipes, narrow terminals, quiet and verbose, errors as JSON."""

import json
import re
from pathlib import Path

import pytest
from support.command import CAPITAL, TWO, Process, moa_dspy, printed, words, write, write_config, write_questions
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render

from moa_dspy import Recording
from moa_dspy.cli import output


@pytest.fixture(autouse=True)
def data(here: Path) -> None:
    write_questions("data.jsonl", 12)


@pytest.mark.parametrize(
    ("arguments", "closed"),
    [
        ("run data.jsonl --out rows.jsonl", "both"),
        ("eval data.jsonl --out rows.jsonl --plot plot.svg", "stdout"),
        ("data sample", "stdout"),
    ],
)
def test_a_closed_pipe_loses_nothing_and_shows_no_traceback(arguments: str, closed: str) -> None:
    process = Process(*arguments.split())
    process.popen.stdout.close()  # type: ignore[union-attr]
    err = ""
    if closed == "both":
        process.popen.stderr.close()  # type: ignore[union-attr]
    else:
        err = process.popen.stderr.read()  # type: ignore[union-attr]
    assert process.popen.wait(60) == 0 and "Traceback" not in err and "BrokenPipe" not in err
    if "rows.jsonl" in arguments:
        assert len(Recording.load("rows.jsonl")) == 12
    if "plot.svg" in arguments:
        assert "<svg" in Path("plot.svg").read_text()


@pytest.mark.parametrize("command", ["ask", "run", "eval", "presets", "diagnose", "compile"])
def test_60_columns_are_enough(command: str) -> None:
    arguments = {
        "ask": [CAPITAL],
        "run": ["data.jsonl", "--out", "rows.jsonl"],
        "eval": ["data.jsonl", "--by", "kind"],
        "diagnose": ["-d", "data.jsonl", *TWO, "-s", "voting", "--no-self-moa"],
        "compile": ["-d", "data.jsonl", *TWO, "-s", "voting", "-o", "t.json", "--optimizer", "bootstrap"],
    }
    result = moa_dspy(command, *arguments.get(command, []), columns=60)
    assert result.exit_code == 0
    # Prompts, file names and commands to copy stay whole on their lines.
    tables = [line for line in result.stdout.splitlines() if "moa-dspy" not in line and line[:1] not in ("+", "-", " ")]
    assert max(map(len, tables)) <= 60


def test_quiet_leaves_errors_alone_before_the_command_or_after_it() -> None:
    assert moa_dspy("ask", CAPITAL, "-q").stderr == moa_dspy("-q", "ask", CAPITAL).stderr == ""
    assert "Error: " in moa_dspy("ask", "q", "-q", "-c", "none.yaml").stderr
    assert "Simulated models" in moa_dspy("ask", CAPITAL).stderr  # it holds for one call


def test_verbose_shows_what_dspy_says() -> None:
    options = (
        "compile",
        "-d",
        "data.jsonl",
        *TWO,
        "-s",
        "voting",
        "--optimizer",
        "bootstrap",
        "--force",
        "-o",
        "t.json",
    )
    assert "Bootstrapped" in moa_dspy(*options, "-v").stderr
    assert "Bootstrapped" not in moa_dspy(*options).output


def test_progress_off_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("run", "data.jsonl", "--out", "rows.jsonl", *TWO, "-s", "voting")
    assert moa_dspy(*command).stderr == ""
    monkeypatch.setattr(output, "SECONDS_BETWEEN_LINES", 0.0)
    told = moa_dspy(*command[:3], "b.jsonl", *command[4:]).stderr
    assert re.search(r"^asking: 12 of 12, \d+ s$", told, re.MULTILINE)


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "data.jsonl", "--out", "rows.jsonl"),
        ("diagnose", "-d", "data.jsonl", "--no-self-moa", "--out", "rows.jsonl"),
        ("compile", "-d", "data.jsonl", "--out", "t.json", "--heldout", 0),
    ],
)
def test_a_budget_stops_every_command_and_what_came_is_gone_on_from(command: tuple[object, ...]) -> None:
    options = (*command, *TWO, "-s", "voting")
    assert moa_dspy(*options, "--dry-run").exit_code == 0 and not Path("rows.jsonl").exists()
    stopped = moa_dspy(*options, "--max-calls", 15)
    assert stopped.exit_code == 1 and "The budget is used up: 1" in words(stopped.stderr)
    if command[0] != "compile":
        kept = Recording.load("rows.jsonl")
        assert len(kept) == 7 and kept.usage.calls == 14
    assert moa_dspy(*options).exit_code == 0


def test_errors_are_json_too_also_of_arguments_that_cannot_be_read() -> None:
    assert printed("ask", "q", "-c", "none.yaml", status=2)["error"]["type"] == "FileNotFoundError"
    result = moa_dspy("run", "data.jsonl", "--out", "rows.jsonl", "--concurrency", "many", "--json")
    assert result.exit_code == 2 and "--concurrency" in json.loads(result.stdout)["error"]["message"]


def test_a_compiled_mixture_is_a_config_everywhere() -> None:
    compiling = ("-s", "voting", "-o", "tuned.json", "--optimizer", "bootstrap", "--heldout", 0)
    assert moa_dspy("compile", "-d", "data.jsonl", *TWO, *compiling).exit_code == 0
    config = ("-c", "tuned.json")
    assert printed("ask", CAPITAL, *config)["outputs"] == {"answer": "Edinburgh"}
    assert printed("run", "data.jsonl", "-o", "rows.jsonl", *config)["answered"] == 12
    assert [row["name"] for row in printed("eval", "data.jsonl", *config, "-s", "voting")["rows"]][:2] == [
        "alice",
        "bob",
    ]
    assert printed("diagnose", "-d", "data.jsonl", *config, "-s", "voting", "--dry-run")["calls"] == 48
    assert printed("compile", "-d", "data.jsonl", *config, "-o", "b.json", "--dry-run")["optimizer"] == "specialize"
    refused = moa_dspy("ask", CAPITAL, *config, "-p", "simulated/carol")
    assert refused.exit_code == 2 and "tuned.json is a compiled mixture" in words(refused.stderr)


def test_names_of_files_are_no_markup() -> None:
    assert "[red]none.yaml" in moa_dspy("ask", "q", "-c", "[red]none.yaml").stderr


HOSTILE = "[/b] [link=https://evil]x[/link] \x1b]0;pwned\x07\x1b[31m \u202edrowssap\u2066 \u200b\x9b2J :smile:"


@pytest.mark.parametrize(
    "arguments",
    [
        ["ask", HOSTILE, "-c", "moa.json"],
        ["ask", HOSTILE, "-c", "moa.json", "-s", "voting"],
        ["ask", HOSTILE, "-c", "moa.json", "-s", "fusion", "--signature", "question -> answer: dict[str, Any]"],
        ["run", "hostile.jsonl", "-o", "rows.jsonl", "-c", "moa.json"],
        ["eval", "hostile.jsonl", "-c", "moa.json", "--by", "kind", "-s", "voting"],
        ["diagnose", "-d", "hostile.jsonl", "-c", "moa.json", "-s", "voting", "--no-self-moa"],
        ["compile", "-d", "hostile.jsonl", "-c", "moa.json", "-o", "t.json", "--optimizer", "bootstrap"],
        ["ask", "x", "-s", HOSTILE],
        ["ask", "x", "-p", HOSTILE, "-a", HOSTILE],
        ["ask", "x", "--signature", HOSTILE],
        ["show", HOSTILE],
        [HOSTILE],
    ],
    ids=lambda arguments: " ".join(argument for argument in arguments if argument != HOSTILE)[:40],
)
def test_nothing_foreign_acts_on_the_terminal(arguments: list[str]) -> None:
    said = {"answer": HOSTILE, "reasoning": HOSTILE, "elements": [], "choice": "P1", "groups": [], "best": "P1"}

    def answer(request: ChatRequest) -> Reply:
        if request.model == "lame [/b]\x1b[31m":
            return Reply(HOSTILE, status=400)
        return Reply(render("chat", said))

    write("hostile.jsonl", *({"question": f"{HOSTILE} {n}", "answer": HOSTILE, "kind": HOSTILE} for n in range(9)))
    with OpenAIServer(answer) as server:
        write_config(server, "[/b]", "lame [/b]\x1b[31m", "judge[/b]")
        result = moa_dspy(*arguments)
    shown = result.stdout + result.stderr
    # A carriage return is tqdm's.
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u202e\u2066]|\U0001f604", shown)
    assert "[/b]" in shown and "Traceback" not in shown and not isinstance(result.exception, Exception)
