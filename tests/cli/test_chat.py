"""A conversation, and answers that are shown as they are written: on a terminal."""

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import CAPITAL, lines, moa_dspy
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.served import answers, write_served

pty = pytest.importorskip("pty")


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *arguments: str) -> None:
        self.end, end = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
        heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
        command = [sys.executable, "-c", f"{heed}; from moa_dspy.cli import main; main()", *arguments]
        self.process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
        os.close(end)
        self.shown = ""

    def say(self, text: str) -> None:
        os.write(self.end, f"{text}\n".encode())

    def wait_for(self, text: str) -> str:
        """What is shown until this text is there."""
        deadline = time.monotonic() + 60
        seen = ""
        while text not in seen:
            assert time.monotonic() < deadline, self.shown
            if select.select([self.end], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.end, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(self.shown) from None
            seen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", self.shown)
        self.shown = ""
        return seen


LONG = "and so on " * 10


def slowly(request: ChatRequest) -> Reply:
    """A long answer, of the judge in its time."""
    return Reply(answers(request).text.replace("a lot", LONG), pace=0.04 if request.model == "judge" else 0.0)


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer(answers) as server:
        yield server


def test_turns_know_those_before_them_and_ctrl_c_stops_one_answer(server: OpenAIServer) -> None:
    chat = Terminal("chat", "-c", write_served("team", server, "a", "b", "judge"), "--system", "Be kind.")
    chat.wait_for("> ")
    chat.say("I am Ada.")
    assert "judge says quite a lot\nsynthesis of 2 proposals" in chat.wait_for("s\n> ")
    chat.say("/proposals")
    assert "a         a says quite a lot" in chat.wait_for("\n> ")
    server.answer = slowly
    chat.say("Think long.")
    chat.wait_for("judge says")
    chat.process.send_signal(signal.SIGINT)
    chat.wait_for("Stopped. The chat goes on")
    server.answer = answers
    chat.say("Who am I?")
    chat.wait_for("s\n> ")
    assert server.requests[-2].cancelled is False and any(request.cancelled for request in server.requests)
    assert "I am Ada." in server.requests[-1].text and "Think long." not in server.requests[-1].text
    assert "Be kind." in server.requests[-1].text
    chat.say("/cost")
    assert re.search(r"The chat: 6 calls, [\d,]+ tokens in, [\d,]+ out, cost \$0\.00\d\d", chat.wait_for("\n> "))
    chat.say("/exit")
    assert chat.process.wait(20) == 0


def test_ask_shows_what_is_written_so_far(server: OpenAIServer) -> None:
    server.answer = slowly
    ask = Terminal("ask", "Why?", "-c", write_served("team", server, "a", "judge"))
    assert "│" not in ask.wait_for("judge says quite and so on")
    assert "│ judge says quite and so on" in ask.wait_for("seconds")
    assert ask.process.wait(20) == 0


def test_a_chat_that_outgrows_the_models_goes_on_with_its_younger_half(server: OpenAIServer) -> None:
    def forget(request: ChatRequest) -> Reply:
        is_long = len(server.requests) > 4 and "the first" in request.text
        return Reply("no", status=400, code="context_length_exceeded") if is_long else answers(request)

    server.answer = forget
    result = moa_dspy(
        "chat", "-c", write_served("team", server, "a", "judge"), stdin="the first\nthe second\nthe third\n"
    )
    assert result.exit_code == 0 and "its older half is left out" in result.stderr
    assert lines(result.stdout).count("judge says quite a lot") == 3
    assert "the first" not in server.requests[-1].text and "the second" in server.requests[-1].text


def test_a_turn_that_fails_is_told_and_is_no_turn(server: OpenAIServer) -> None:
    path = write_served("team", server, "a", "judge")
    server.answer = lambda request: answers(request) if "good" in request.text else Reply("busy", status=429)
    result = moa_dspy("chat", "-c", path, stdin="bad\ngood\n/cost\n/what\n")
    assert "Error: 0 proposals came back" in result.stderr and "/proposals, /cost, /exit" in result.stderr
    assert "judge says quite a lot" in lines(result.stdout) and "bad" not in server.requests[-1].text
    assert "The chat: 3 calls," in result.stdout


def test_simulated_models_chat_and_bad_input_is_status_2() -> None:
    assert "Edinburgh" in lines(moa_dspy("chat", stdin=f"{CAPITAL}\n").stdout)
    Path("two.yaml").write_text("signature: a, b -> c\nproposers: [simulated/alice]\naggregator: simulated/judge\n")
    result = moa_dspy("chat", "-c", "two.yaml", stdin="")
    assert result.exit_code == 2 and "A message is one input" in result.stderr
