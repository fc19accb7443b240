"""`moa-dspy serve`: the proxy, asked by the clients that people use. One server for all of these tests."""

import json
import os
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from support.command import Process, moa_dspy, words
from support.openai_server import OpenAIServer
from support.rendering import render
from support.served import answers, write_served

KEY = "sk-of-these-tests-0123456789abcdef"
HI: Any = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def models() -> Iterator[OpenAIServer]:
    with OpenAIServer(answers) as server:
        yield server


@pytest.fixture(scope="module")
def proxy(models: OpenAIServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The proxy's address."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("proxy"))
    files = [
        write_served("team", models, "a", "b", "judge"),
        write_served("broke", models, "dead", "judge"),
        f"yes={write_served('typed', models, 'a', 'judge', signature='question -> sure: bool')}",
    ]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LITELLM_MASTER_KEY", KEY)
        environment.setenv("OPENAI_API_KEY", "any-key")
        process = Process("serve", *files, "--port", str(port))
    os.chdir(before)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process)
        yield address
    finally:
        process.popen.send_signal(signal.SIGINT)
        status, _, err = process.end()
    assert status == 0 and "moa/team, moa/broke, moa/yes at http://127.0.0.1" in err


def _wait_for(address: str, process: Process) -> None:
    deadline = time.monotonic() + 240
    while True:
        assert process.popen.poll() is None and time.monotonic() < deadline, process.end()
        try:
            urllib.request.urlopen(f"{address}/health/liveliness", timeout=5).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.3)
        else:
            return


@pytest.fixture
def client(proxy: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy}/v1", api_key=KEY, max_retries=0)


def test_openais_client_gets_the_answer_its_cost_and_who_proposed(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="moa/team", messages=HI, temperature=0.2)
    response = raw.parse()
    account: Any = (response.choices[0].message.model_extra or {})["provider_specific_fields"]["moa"]
    assert response.choices[0].message.content == "judge says quite a lot"
    assert [(one["agent"], one["status"]) for one in account["panel"]] == [("a", "proposed"), ("b", "proposed")]
    usage: Any = response.usage
    assert usage.prompt_tokens == account["usage"]["prompt_tokens"]
    assert float(raw.headers["x-litellm-response-cost"]) == pytest.approx(account["usage"]["cost_usd"])
    assert {model.id for model in client.models.list()} == {"moa/team", "moa/broke", "moa/yes"}


def test_openais_client_streams(client: openai.OpenAI) -> None:
    options: Any = {"stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="moa/team", messages=HI, stream=True, **options))
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == "judge says quite a lot" and len([text for text in texts if text]) > 3
    usage: Any = chunks[-1].usage
    assert usage.prompt_tokens > 500 and usage.cost > 0


def test_anthropics_client_does_both(proxy: str) -> None:
    import anthropic  # takes a second, which one worker has to take

    client = anthropic.Anthropic(base_url=proxy, api_key=KEY, max_retries=0)
    asked: Any = {"model": "moa/team", "max_tokens": 500, "system": "Be kind.", "messages": HI[1:]}
    message: Any = client.messages.create(**asked)
    assert (message.content[0].text, message.stop_reason) == ("judge says quite a lot", "end_turn")
    assert message.usage.input_tokens > 500
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "judge says quite a lot"


@pytest.mark.parametrize("streamed", [False, True])
def test_a_stop_an_image_and_a_call_that_must_be_made(
    client: openai.OpenAI, models: OpenAIServer, streamed: bool
) -> None:
    picture: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}]
    options: Any = {"model": "moa/team", "stream": streamed}
    made: Any = client.chat.completions.create(messages=messages, stop=[" quite"], **options)
    said = [one.choices[0].delta.content or "" for one in made] if streamed else [made.choices[0].message.content]
    assert "".join(said) == "judge says"
    assert all(picture in request.messages[-1]["content"] for request in models.requests[-3:])
    tool: Any = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}
    call = {"tool_calls": [{"name": "clock", "args": {}}]}
    models.answer = lambda request: render("chat", {"reasoning": "so", "answer": "", "tool_calls": json.dumps(call)})
    try:
        made = client.chat.completions.create(messages=HI, tools=[tool], tool_choice="required", **options)
        choices = [one.choices[0] for one in made] if streamed else made.choices
    finally:
        models.answer = answers
    calls = [call for one in choices for call in (one.delta if streamed else one.message).tool_calls or ()]
    assert [call.function.name for call in calls] == ["clock"] and choices[-1].finish_reason == "tool_calls"


def test_ten_at_once_and_a_signatures_form(client: openai.OpenAI, models: OpenAIServer) -> None:
    models.latency, models.peak = 0.3, 0
    try:
        with ThreadPoolExecutor(10) as pool:
            made = pool.map(lambda _: client.chat.completions.create(model="moa/team", messages=HI), range(10))
        assert {one.choices[0].message.content for one in made} == {"judge says quite a lot"} and models.peak >= 10
    finally:
        models.latency = 0.0


def test_errors_keep_their_status(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError, match="LMAuthError"):
        client.chat.completions.create(model="moa/broke", messages=HI)
    with pytest.raises(openai.AuthenticationError, match="LMAuthError"):
        list(client.chat.completions.create(model="moa/broke", messages=HI, stream=True))
    with pytest.raises(openai.BadRequestError, match="does not know what to do with n"):
        client.chat.completions.create(model="moa/team", messages=HI, n=2)
    with pytest.raises(openai.BadRequestError, match="moa/none"):
        client.chat.completions.create(model="moa/none", messages=HI)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_client_that_goes_away_stops_what_is_under_way(
    client: openai.OpenAI, models: OpenAIServer, streamed: bool
) -> None:
    models.latency = {"judge": 30.0}
    before = len(models.requests)
    try:
        with pytest.raises(openai.APITimeoutError):
            made: Any = client.with_options(timeout=2).chat.completions.create(
                model="moa/team", messages=HI, stream=streamed
            )
            list(made)
        deadline = time.monotonic() + 10
        while not any(request.cancelled for request in models.requests[before:]):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        models.latency = 0.0


def test_what_cannot_be_served_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("gpt-4o.yaml").write_text("proposers: [simulated/alice]\naggregator: simulated/judge\n")
    for arguments, problem in [
        (["gpt-4o.yaml"], "LiteLLM knows a model 'gpt-4o' and would ask that one instead"),
        (["a=gpt-4o.yaml", "a=gpt-4o.yaml"], "Two mixtures would be called 'a'"),
        (["none.yaml"], "There is no file"),
    ]:
        result = moa_dspy("serve", *arguments)
        assert result.exit_code == 2 and problem in words(result.stderr)
    Path("own.yaml").write_text("name: team\n" + Path("gpt-4o.yaml").read_text())
    result = moa_dspy("serve", "own.yaml", "other=own.yaml", "--write", "here", "--timeout", 9)
    assert result.exit_code == 0 and json.loads(Path("here/litellm.yaml").read_text())["model_list"] == [
        {"model_name": f"moa/{name}", "litellm_params": {"model": f"moa/{name}"}} for name in ("team", "other")
    ]
    assert f"'team': '{tmp_path}/own.yaml', " in (made := Path("here/moa_mixtures.py").read_text())
    assert made.endswith(", {'timeout': 9.0})\n")
