"""`mlflow models serve` over a logged mixture: rows in, answers out, over HTTP."""

import enum
import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.models.model import ModelInfo
from pydantic import BaseModel
from support.mixtures import QA
from support.mlflow_store import served
from support.openai_server import ChatRequest, OpenAIServer
from support.rendering import asked

import moa_dspy
from moa_dspy import Agent, MoA
from moa_dspy.tracking import flush

QUESTIONS = ["What is the capital of Australia?", "What is 17 * 23?"]


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


class Item(BaseModel):
    name: str
    price: Decimal


class Order(dspy.Signature):
    items: list[Item] = dspy.InputField()
    mood: Mood = dspy.InputField()
    day: date = dspy.InputField()
    codes: tuple[int, str] = dspy.InputField()
    pages: int | None = dspy.InputField()
    mood_then: Mood = dspy.OutputField()
    rest: list[Item] = dspy.OutputField()


def reply(request: ChatRequest) -> str:
    prompt = asked(request.prompt)
    assert prompt is not None
    return prompt.render({"reasoning": "so", "mood_then": "sad", "rest": []})


def example_of(info: ModelInfo) -> str:
    """What MLflow says to post."""
    return (Path(download_artifacts(artifact_uri=info.model_uri)) / "serving_input_example.json").read_text()


class Talk(dspy.Signature):
    """Answer."""

    question: str = dspy.InputField()
    history: dspy.History = dspy.InputField(default=dspy.History(messages=[]))
    answer: str = dspy.OutputField()


def mixture() -> MoA:
    return MoA(QA, ["simulated/alice", "simulated/bob", "simulated/carol"], "simulated/judge")


def test_typed_inputs_arrive_as_in_a_call(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with OpenAIServer(reply) as provider:
        agent = Agent("openai/a", api_base=provider.url, cache=False, num_retries=0)
        moa = MoA(Order, [agent], strategy="voting")
        given = {"items": [Item(name="tea", price=Decimal("1.5"))], "mood": Mood.GLAD, "day": date(2024, 2, 29)}
        moa(**given, codes=(1, "a"))
        types = {"Item": Item, "Mood": Mood}
        info = moa_dspy.log_model(moa, "orders", input_example={**given, "codes": (1, "a")}, custom_types=types)
        [row] = served(mlflow.pyfunc.load_model(info.model_uri), json.loads(example_of(info)))
    assert row["outputs"] == {"mood_then": "sad", "rest": "[]"}
    called, answered = (request.text for request in provider.requests)
    assert answered == called and "2024-02-29" in answered


def test_a_chat_is_answered_and_streamed_as_it_is_written(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    text = "[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\nLima, on the Rimac, by the sea.\n\n[[ ## completed ## ]]"
    with OpenAIServer(lambda request: text) as provider:
        agents = [Agent(f"openai/{name}", api_base=provider.url, cache=False) for name in ("a", "judge")]
        moa_dspy.log_model(MoA(Talk, agents[:1], agents[1]), "chat", serve_as="chat", registered_model_name="chat")
        model: Any = mlflow.pyfunc.load_model("models:/chat/1")
        said = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello Ada."}]
        asked: dict[str, Any] = {"input": [*said, {"role": "user", "content": "The capital of Peru?"}]}
        answered = model.predict(asked)
        *deltas, done = model.predict_stream(asked)
    whole = "Lima, on the Rimac, by the sea."
    assert answered["output"][0]["content"][0]["text"] == done["item"]["content"][0]["text"] == whole
    assert "".join(delta["delta"] for delta in deltas) == whole and len(deltas) > 3
    assert done["custom_outputs"]["agreement"] == answered["custom_outputs"]["agreement"] == 1
    assert all("Hello Ada." in request.text for request in provider.requests)


def test_types_of_ones_own_must_be_given_and_importable(store: Path) -> None:
    class Hidden(BaseModel):
        name: str

    moa = MoA(Order, ["simulated/alice"], strategy="voting")
    with pytest.raises(ValueError, match=r"not Python's or DSPy's own \(Item, Mood\)"):
        moa_dspy.log_model(moa, "orders")
    with pytest.raises(ValueError, match="No server can import Item"):
        moa_dspy.log_model(moa, "orders", custom_types={"Item": Hidden, "Mood": Mood})


def test_a_chat_about_something_else_is_refused(store: Path) -> None:
    moa = MoA("question -> answer: int", ["simulated/alice"], "simulated/judge")
    with pytest.raises(ValueError, match="A chat wants one text back"):
        moa_dspy.log_model(moa, "number", serve_as="chat")


def test_a_served_mixture_traces_if_asked_and_its_traces_are_the_models(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = moa_dspy.log_model(mixture(), "capitals")
    monkeypatch.setenv("MOA_DSPY_AUTOLOG", "true")
    mlflow.pyfunc.load_model(info.model_uri).predict([{"question": QUESTIONS[0]}])
    flush()
    [trace] = mlflow.search_traces(return_type="list")
    named = trace.data.spans[0].name, trace.info.trace_metadata["mlflow.modelId"]
    assert named == ("MoA (synthesis)", info.model_id)
