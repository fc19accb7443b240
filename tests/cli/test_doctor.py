"""doctor: what it finds on loopback servers, and what it says to do."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import moa_dspy, printed, words
from support.openai_server import ChatRequest, OpenAIServer, Reply, Tokens
from support.rendering import asked


def answer(request: ChatRequest) -> Reply:
    replies = {
        "thinks": Reply("", finish_reason="length", usage=Tokens(5, 64, reasoning=64)),
        "locked": Reply("the key planted-key-1 is no good", status=401),
        "busy": Reply("slow down", status=429),
        "chatty": Reply("Sure!"),
        "hang": Reply(hang=True),
    }
    if request.model in replies:
        return replies[request.model]
    if request.model != "good":
        return Reply("no such model", status=404)
    wanted = asked(request.prompt)
    return Reply(wanted.render({"answer": "ready", "letters": 5}) if wanted else "ready")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("MINE", "planted-key-1")
    with OpenAIServer(answer, models=("good", "fine-tuned")) as started:
        yield started


def examined(*entries: Any, aggregator: Any = None, status: int = 1, timeout: float = 30) -> dict[str, dict[str, str]]:
    """By agent, what is to be done or worth knowing."""
    data = {"proposers": [*entries], **({"aggregator": aggregator} if aggregator else {"strategy": "voting"})}
    Path("moa.json").write_text(json.dumps(data))
    found = printed("doctor", "--config", "moa.json", "--timeout", timeout, status=status)
    assert found["ok"] is (status == 0)
    return {
        agent: {check["name"]: check["text"] for check in model["checks"] if check["state"] != "ok"}
        for model in found["models"]
        for agent in model["agents"]
    }


def test_a_model_that_works_needs_nothing_done(server: OpenAIServer) -> None:
    good = {"model": "openai/good", "api_base": server.url, "api_key": "os.environ/MINE"}
    found = examined({**good, "prices": {"input": 1, "output": 2}}, aggregator={**good, "temperature": 0.5}, status=0)
    assert [*found["good"]] == ["window"] and [*found["aggregator"]] == ["price", "window"]
    assert len(server.requests) == 6 and sum(bool(one.body.get("stream")) for one in server.requests) == 2


@pytest.mark.parametrize(
    ("model", "base", "settings", "says"),
    [
        (
            "thinks",
            "",
            {"max_tokens": 64},
            "An empty answer after 64 tokens of reasoning: max_tokens=64 leaves no room",
        ),
        ("locked", "", {}, "The key is refused: [openai/locked] the key *** is no good"),
        ("busy", "", {}, "It answers, and wants no more calls now"),
        ("fine-tune", "", {}, "has no model fine-tune. Did you mean fine-tuned? It has: good, fine-tuned."),
        ("good", "root", {}, "The address is wrong: write api_base: {url} (with /v1)."),
        ("good", "dead", {}, "Nobody answers at http://127.0.0.1:9/v1: is the server running"),
    ],
)
def test_what_must_be_done_is_said(server: OpenAIServer, model: str, base: str, settings: Any, says: str) -> None:
    address = {"": server.url, "root": server.url.removesuffix("/v1"), "dead": "http://127.0.0.1:9/v1"}[base]
    entry = {"model": f"openai/{model}", "name": "it", "api_base": address, "api_key": "os.environ/MINE", **settings}
    [found] = examined(entry).values()
    assert says.format(url=server.url) in found["answers"]


def test_ollama_is_asked_under_v1_too(server: OpenAIServer) -> None:
    entry = {"model": "ollama_chat/good", "api_base": server.url.removesuffix("/v1")}
    assert "write api_base: http" in examined(entry)["good"]["answers"]
    assert examined({**entry, "api_base": server.url}, status=0)["good"].keys() == {"price", "window"}


def test_late_models_missing_keys_and_names_that_nobody_knows(server: OpenAIServer) -> None:
    late = {"model": "openai/hang", "api_base": server.url, "api_key": "os.environ/MINE"}
    found = examined(late, {"model": "openai/gpt-4o-minni", "api_key": "os.environ/NOPE"}, timeout=2)
    assert "2 s" in found["hang"]["answers"] or "No answer in time" in found["hang"]["answers"]
    assert found["gpt_4o_minni"]["key"].startswith("NOPE is not set: export it")
    assert "Did you mean openai/gpt-4o-mini?" in found["gpt_4o_minni"]["name"]


def test_a_key_that_only_litellm_knows_is_missed_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    assert examined("mistral/mistral-small-2603")["mistral_small_2603"]["key"].startswith("MISTRAL_API_KEY is not set")


def test_a_model_that_keeps_to_no_format_is_noted_and_the_table_says_all(server: OpenAIServer) -> None:
    entry = {"model": "openai/chatty", "api_base": server.url, "api_key": "os.environ/MINE"}
    assert examined(entry, status=0)["chatty"].keys() >= {"json", "stream"}
    result = moa_dspy("doctor", "-c", "moa.json")
    assert result.exit_code == 0 and "Worth knowing" in result.stdout
    assert "Does not keep to JSON" in words(result.stdout) and "planted" not in result.stdout
    assert moa_dspy("doctor").exit_code == 0  # the simulated panel
