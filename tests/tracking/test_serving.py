"""`mlflow models serve` over a logged mixture: rows in, answers out, over HTTP."""

import enum
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
import uvicorn
from mlflow.artifacts import download_artifacts
from mlflow.models.model import ModelInfo
from mlflow.pyfunc import scoring_server
from pydantic import BaseModel
from support.mixtures import QA
from support.mlflow_server import free_port
from support.openai_server import ChatRequest, OpenAIServer
from support.rendering import asked

import moa_dspy
from moa_dspy import Agent, MoA

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


@contextmanager
def served(uri: str, folder: Path) -> Iterator[str]:
    """The model in a server of its own, which has no key and knows nothing of this process."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--workers", "1"]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
    # MLflow starts uvicorn by its name.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    with open(folder / "serve.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--model-uri", uri, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/ping", process, folder / "serve.log")
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(timeout=10)


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"the model is not served: {log.read_text()[-2000:]}")


def post(url: str, body: Any) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["predictions"]


def answers(rows: list[Any]) -> list[Any]:
    return [row["outputs"]["answer"] for row in rows]


@contextmanager
def in_thread(app: Any) -> Iterator[str]:
    """An application on the loopback interface."""
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    yield f"http://127.0.0.1:{port}/invocations"
    server.should_exit = True
    thread.join(timeout=10)


def reply(request: ChatRequest) -> str:
    prompt = asked(request.prompt)
    assert prompt is not None
    return prompt.render({"reasoning": "so", "mood_then": "sad", "rest": []})


def example_of(info: ModelInfo) -> str:
    """What MLflow says to post."""
    return (Path(download_artifacts(artifact_uri=info.model_uri)) / "serving_input_example.json").read_text()


def mixture() -> MoA:
    return MoA(QA, ["simulated/alice", "simulated/bob", "simulated/carol"], "simulated/judge")


def test_rows_are_answered_by_mlflows_server(store: Path) -> None:
    model = mlflow.pyfunc.load_model(moa_dspy.log_model(mixture(), "capitals").model_uri)
    with in_thread(scoring_server.init(model)) as url:
        rows = post(url, {"inputs": [{"question": question} for question in [*QUESTIONS, "x"]]})
    assert answers(rows) == [mixture()(question=question).answer for question in [*QUESTIONS, "x"]]


def test_typed_inputs_arrive_as_in_a_call(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with OpenAIServer(reply) as provider:
        agent = Agent("openai/a", api_base=provider.url, cache=False, num_retries=0)
        moa = MoA(Order, [agent], strategy="voting")
        given = {"items": [Item(name="tea", price=Decimal("1.5"))], "mood": Mood.GLAD, "day": date(2024, 2, 29)}
        moa(**given, codes=(1, "a"))
        types = {"Item": Item, "Mood": Mood}
        info = moa_dspy.log_model(moa, "orders", input_example={**given, "codes": (1, "a")}, custom_types=types)
        with in_thread(scoring_server.init(mlflow.pyfunc.load_model(info.model_uri))) as url:
            [row] = post(url, json.loads(example_of(info)))
    assert row["outputs"] == {"mood_then": "sad", "rest": "[]"}
    called, served = (request.text for request in provider.requests)
    assert served == called and "2024-02-29" in served


@pytest.mark.slow
def test_rows_are_answered_over_http(store: Path) -> None:
    moa = mixture()
    uri = moa_dspy.log_model(moa, "capitals", input_example={"question": QUESTIONS[0]}).model_uri
    expected = [moa(question=question).answer for question in QUESTIONS]
    with served(uri, store) as url:
        records = [{"question": question} for question in QUESTIONS]
        assert answers(post(url, {"dataframe_records": records, "params": {"concurrency": 2}})) == expected
        assert answers(post(url, {"inputs": records})) == expected
        assert answers(post(url, {"inputs": {"question": QUESTIONS[0]}})) == expected[:1]
        split = {"columns": ["question"], "data": [[QUESTIONS[1]], [None], [QUESTIONS[0]]]}
        rows = post(url, {"dataframe_split": split})
    assert answers(rows) == [expected[1], None, expected[0]]
    assert [str(row["account"]["error"])[:41] for row in rows] == [
        "None",
        "ValueError: The input question is missing",
        "None",
    ]
    assert rows[0]["account"]["unpriced_calls"] == 4


def test_a_chat_is_answered_and_streamed(store: Path) -> None:
    info = moa_dspy.log_model(mixture(), "chat", serve_as="chat", registered_model_name="chat")
    model: Any = mlflow.pyfunc.load_model("models:/chat/1")
    asked: dict[str, Any] = {"input": [{"role": "user", "content": QUESTIONS[0]}]}
    answer = mixture()(question=QUESTIONS[0]).answer
    assert model.predict(asked)["output"][0]["content"][0]["text"] == answer
    assert [event["type"] for event in model.predict_stream(asked)] == [
        "response.output_text.delta",
        "response.output_item.done",
    ]
    assert moa_dspy.load_model(info.model_uri).dump_state() == mixture().dump_state()


def test_a_chat_about_something_else_is_refused(store: Path) -> None:
    moa = MoA("question -> answer: int", ["simulated/alice"], "simulated/judge")
    with pytest.raises(ValueError, match="A chat gives one text and wants one back"):
        moa_dspy.log_model(moa, "number", serve_as="chat")
