"""The tool `consult`, called by MCP's own client."""

import asyncio
import socket
import sys
import time
from pathlib import Path
from typing import Any

import dspy
import pytest
from mcp import Client, StdioServerParameters, stdio_client
from support.command import Process
from support.fake_lm import FakeLM
from support.mixtures import cast, mixture

from moa_dspy import MoA
from moa_dspy.serving.mcp import as_server

CAPITAL = "What is the capital of Scotland?"


def consult(server: Any, question: str = CAPITAL) -> tuple[Any, list[tuple[float, float | None, str | None]]]:
    """What the tool gives, and the progress that it reports."""
    told = []

    async def listen(progress: float, total: float | None, message: str | None) -> None:
        told.append((progress, total, message))

    async def call() -> Any:
        async with Client(server) as client:
            [tool] = (await client.list_tools()).tools
            assert tool.name == "consult" and tool.output_schema is not None
            return await client.call_tool("consult", {"question": question}, progress_callback=listen)

    return asyncio.run(asyncio.wait_for(call(), 60)), told


def test_the_answer_is_structured_and_each_proposer_is_told_of() -> None:
    lms = cast("a", "b", "judge") | {"b": FakeLM("b", [dspy.lm15.AuthError("?")])}
    result, told = consult(as_server(mixture(lms)))
    got = result.structured_content
    assert got["outputs"] == {"answer": "judge"} and got["degraded"] is True and got["calls"] == 3
    assert [(one["agent"], one["outputs"], (one["error"] or "")[:2]) for one in got["opinions"]] == [
        ("a", {"answer": "a"}, ""),
        ("b", None, "LM"),
    ]
    assert [(done, total) for done, total, _ in told] == [(1, 2), (2, 2)]
    assert sorted(str(message) for *_, message in told) == ["a answered", "b failed"]


def test_no_answer_is_an_error_of_the_tool() -> None:
    lms = {"a": FakeLM("a", [dspy.lm15.AuthError("?")]), **cast("judge")}
    result, _ = consult(as_server(mixture(lms)))
    assert result.is_error and "0 proposals came back" in result.content[0].text


def test_a_mixture_of_several_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="needs context, question"):
        as_server(MoA("context, question -> answer", ["simulated/alice"], "simulated/judge"))


def test_the_command_serves_on_stdio_and_over_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("moa.yaml").write_text("proposers: [simulated/alice, simulated/bob]\naggregator: simulated/judge\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = Process("mcp", "moa.yaml", "--port", str(port))
    command = StdioServerParameters(command=sys.executable, args=["-m", "moa_dspy", "mcp", str(tmp_path / "moa.yaml")])
    try:
        assert consult(stdio_client(command))[0].structured_content["outputs"] == {"answer": "Edinburgh"}
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline and process.popen.poll() is None
            time.sleep(0.1)
        result, told = consult(f"http://127.0.0.1:{port}/mcp")
        assert result.structured_content["agreement"] == 1.0 and len(told) == 2
    finally:
        process.popen.terminate()
        process.popen.wait()
