"""The command line, called as a user would: in this process, or in one of its own that can be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

from .openai_server import ChatRequest, OpenAIServer, Reply
from .rendering import render

CAPITAL = "What is the capital of Scotland?"
TWO = ("-p", "simulated/alice", "-p", "simulated/bob")
DEAD = {"model": "openai/dead", "api_base": "http://127.0.0.1:9", "num_retries": 0}


def moa_dspy(*arguments: object, columns: int = 80, stdin: str | None = None) -> Result:
    """Run a command on a terminal of this width."""
    env = {"COLUMNS": str(columns), "TERM": "dumb"}
    return CliRunner().invoke(app, [*map(str, arguments)], env=env, input=stdin, prog_name="moa-dspy")


def printed(*arguments: object, status: int = 0) -> Any:
    """What stands on stdout with --json: nothing but strict JSON."""
    result = moa_dspy(*arguments, "--json")
    assert result.exit_code == status, result.output

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    return json.loads(result.stdout, parse_constant=refuse)


def words(text: str) -> str:
    return " ".join(text.split())


def lines(text: str) -> list[str]:
    return [words(line) for line in text.splitlines()]


def write(name: str, *rows: Any) -> Path:
    """A file of JSON lines; texts stand in it as they are."""
    path = Path(name)
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def write_questions(name: str, count: int) -> Path:
    """The first of the bundled questions, with gold answers and their kind."""
    return write(name, *(dict(question.items()) for question in bundled_questions()[:count]))


def write_metric(name: str, *body: str) -> str:
    """A metric of one's own in the current folder; gives how it is called there."""
    Path(f"{name}_metric.py").write_text(
        "\n    ".join([f"def {name}(example, pred, trace=None):", *body]), encoding="utf-8"
    )
    return f"{name}_metric:{name}"


def write_config(server: OpenAIServer, *models: str, **settings: Any) -> str:
    """A config of models at the server: the last one is the aggregator, unless the strategy is voting."""
    entries = [{"model": f"openai/{model}", "api_base": server.url, "num_retries": 0} for model in models]
    data: dict[str, Any] = {"proposer_models": entries, **settings}
    if settings.get("aggregation_strategy") != "voting":
        data |= {"proposer_models": entries[:-1], "aggregator_model": entries[-1]}
    write("moa.json", data)
    return "moa.json"


def say(**answers: str) -> Any:
    """What each model of a server answers; those that are not named refuse the key."""

    def answer(request: ChatRequest) -> Reply:
        if request.model not in answers:
            return Reply("the key sk-abcdefghijklmnopqrst is no good", status=401)
        return Reply(render("chat", {"reasoning": "so", "answer": answers[request.model]}))

    return answer


class Process:
    """A command in a process of its own, without DSPy's cache, with pipes that can be closed."""

    def __init__(self, *arguments: str, columns: int = 80) -> None:
        env = {**os.environ, "DSPY_CACHEDIR": f"cache-{time.monotonic_ns()}", "COLUMNS": str(columns)}
        # Started in the background, a shell's children ignore interrupts.
        heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        command = [sys.executable, "-c", f"{heed}; from moa_dspy.cli import main; main()", *arguments]
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def signal(self, number: int, server: OpenAIServer, after: int) -> None:
        """Send a signal when the server has seen so many requests."""
        deadline = time.monotonic() + 60
        while len(server.requests) < after:
            assert self.popen.poll() is None, self.end()
            assert time.monotonic() < deadline
            time.sleep(0.001)
        self.popen.send_signal(number)

    def end(self) -> tuple[int, str, str]:
        """Exit status, stdout and stderr."""
        out, err = self.popen.communicate(timeout=60)
        return self.popen.returncode, out, err
