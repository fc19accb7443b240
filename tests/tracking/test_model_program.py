"""Tables through a logged mixture: in their order, in every form."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from support.openai_server import ChatRequest, OpenAIServer
from support.rendering import asked

import moa_dspy
from moa_dspy import Agent, MoA

SIGNATURE = "question, tags: list[str] -> answer: int, words: list[str]"


def reply(request: ChatRequest) -> str:
    """The number in the question."""
    prompt = asked(request.prompt)
    assert prompt is not None
    number = prompt.inputs["question"].removeprefix("q")
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
    moa = MoA(SIGNATURE, [agent(n, provider) for n in "abc"], strategy="voting")
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

    def test_no_concurrency_is_refused(self, model: Any) -> None:
        with pytest.raises(ValueError, match="concurrency=0 leaves nobody to ask"):
            model.predict(rows("q1"), params={"concurrency": 0})


def test_a_missing_key_is_told_before_anything_is_asked(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = moa_dspy.log_model(MoA("question -> answer", ["openai/gpt-5-mini"], strategy="voting"), "real").model_uri
    with pytest.raises(ValueError, match="OPENAI_API_KEY is not set"):
        mlflow.pyfunc.load_model(uri).predict([{"question": "?"}])
