"""Tables through a logged mixture: each row its own answer, its own account, its own error."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import asked

import moa_dspy
from moa_dspy import Agent, Limits, MoA

SIGNATURE = "question, tags: list[str] -> answer: int, words: list[str]"


def reply(request: ChatRequest) -> str | Reply:
    """The number in the question; q-1 is one that nobody can answer."""
    prompt = asked(request.prompt)
    assert prompt is not None
    number = prompt.inputs["question"].removeprefix("q")
    if number == "-1":
        return Reply("no", status=400)
    return prompt.render({"reasoning": "so", "answer": number, "words": prompt.inputs["tags"]})


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with OpenAIServer(reply) as server:
        yield server


def agent(name: str, provider: OpenAIServer) -> Agent:
    return Agent(f"openai/{name}", api_base=provider.url, cache=False, num_retries=0)


@pytest.fixture
def model(store: Path, provider: OpenAIServer) -> Any:
    """A vote of three on the loopback provider, logged and loaded."""
    moa = MoA(SIGNATURE, [agent(n, provider) for n in "abc"], strategy="voting", limits=Limits(min_proposals=2))
    return mlflow.pyfunc.load_model(moa_dspy.log_model(moa, "votes").model_uri)


def rows(*questions: Any) -> pd.DataFrame:
    return pd.DataFrame({"question": questions, "tags": [["x", "y"] for _ in questions]})


def answers(table: pd.DataFrame) -> list[Any]:
    return [row["answer"] for row in table["outputs"]]


class TestRows:
    def test_keep_their_order_and_their_index(self, model: Any) -> None:
        table = rows(*(f"q{n}" for n in range(20))).set_axis(range(100, 120))
        answered = model.predict(table)
        assert answers(answered) == list(range(20))
        assert list(answered.index) == list(range(100, 120))
        assert answered["outputs"][100] == {"answer": 0, "words": ["x", "y"]}

    @pytest.mark.parametrize(
        "given",
        [
            pytest.param(lambda table: table, id="DataFrame"),
            pytest.param(lambda table: table.to_dict("records"), id="dicts"),
            pytest.param(lambda table: table.to_dict("records")[0], id="dict"),
        ],
    )
    def test_come_in_every_form(self, model: Any, given: Callable[[Any], Any]) -> None:
        assert answers(model.predict(given(rows("q7")))) == [7]

    def test_are_asked_side_by_side(self, model: Any, provider: OpenAIServer) -> None:
        provider.latency = 0.3
        model.predict(rows(*(f"q{n}" for n in range(4))), params={"concurrency": 4})
        assert provider.peak == 12

    def test_no_concurrency_is_refused(self, model: Any) -> None:
        with pytest.raises(ValueError, match="concurrency=0 leaves nobody to ask"):
            model.predict(rows("q1"), params={"concurrency": 0})


class TestAccount:
    def test_says_how_the_row_was_answered(self, model: Any) -> None:
        account = model.predict(rows("q7"))["account"][0]
        said = {"answer": 7, "words": ["x", "y"]}
        assert json.loads(account.pop("proposals")) == {"a": said, "b": said, "c": said}
        assert 0 < account.pop("seconds") < 5
        assert account == {
            "error": None,
            "agreement": 1.0,
            "degraded": False,
            "cost_usd": None,
            "unpriced_calls": 3,
        }


class TestFailure:
    def test_does_not_touch_the_other_rows(self, model: Any) -> None:
        answered = model.predict(rows("q1", "q-1", None, "q2"))
        assert answers(answered) == [1, None, None, 2]
        failed, malformed = answered["account"][1], answered["account"][2]
        assert answered["outputs"][1] == {"answer": None, "words": None}
        assert failed["error"].startswith("TooFewProposals: ")
        assert malformed["error"].startswith("ValueError: The input question is missing")
        assert {value for name, value in malformed.items() if name != "error"} == {None}
        assert [row["error"] for row in answered["account"][[0, 3]]] == [None, None]

    def test_a_missing_key_is_told_before_anything_is_asked(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        uri = moa_dspy.log_model(MoA("question -> answer", ["openai/gpt-5-mini"], strategy="voting"), "real").model_uri
        with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
            mlflow.pyfunc.load_model(uri).predict([{"question": "?"}])
