"""Fifteen secrets, planted where programs hold them; a provider that echoes all it was sent; and all that leaves."""

import json
import logging
import os
import pickle
import re
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy
import mlflow
import pytest
from support.mixtures import QA
from support.mlflow_store import store as store
from support.mlflow_store import template as template
from support.mlflow_store import untracked as untracked
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import render
from typer.testing import CliRunner

import moa_dspy
from moa_dspy import Agent, MoA, MoAError, Recording, TooFewProposals, record
from moa_dspy.cli import app

ENVIRONMENT = {
    "SOME_API_KEY": "planted-01-environment",
    "HARMLESS": "planted-02-by-reference",
    "DATABASE_URL": "postgres://me:planted-03-database@host/db",
    "SPARE_KEY_2": "planted-04-spare",
}
HELD: dict[str, Any] = {
    "api_key": "planted-05-key",
    "extra_headers": {"X-Tenant": "planted-06-header", "X-Auth": "Bearer planted-07-bearer"},
    "extra_body": {"sessions": [{"cookie": "planted-08-cookie"}]},
    "aws_secret_access_key": "planted-09-aws",
    "vertex_credentials": json.dumps({"private_key": "planted-10-vertex\n"}),
}
ADDRESS = "http://me:planted-11-login@127.0.0.1:9/v1?code=planted-12-code"
SHORT, LOOKS, PER_CALL = "p1-13", "sk-planted-14-looks-like-one", "planted-15-per-call"
NEEDLES = rb"planted.\d\d|p1.13"


class Raises(dspy.Module):
    """A program that tells what it should not."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.answer = dspy.Predict(QA)

    def forward(self, question: str) -> Any:
        raise RuntimeError(self.text)


def echo(request: ChatRequest) -> Reply:
    """A provider that refuses and says all it knows, and one that answers."""
    if request.model == "good":
        return Reply(render("chat", {"reasoning": "so", "answer": "good"}))
    told = [*request.headers.values(), request.body, os.environ["DATABASE_URL"], os.environ["SPARE_KEY_2"], LOOKS]
    told += [*HELD.values(), *ENVIRONMENT.values(), ADDRESS, ADDRESS.partition("://")[2]]
    return Reply(f"Refused: {told}", status=401)


def tell(error: BaseException | None) -> Iterator[str]:
    """All that an error and those behind it say."""
    if error is not None:
        yield from ("".join(traceback.format_exception(error)), repr(error), str(vars(error)), str(error.args))
        yield from tell(error.__cause__)
        yield from tell(error.__context__)


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # litellm's own
def test_none_of_fifteen_leaves(
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in ("LiteLLM", "openai", "httpx"):
        caplog.set_level(logging.DEBUG, name)
    left: dict[str, str | bytes] = {}
    moa_dspy.autolog()
    with OpenAIServer(echo) as server:
        usual: dict[str, Any] = {"cache": False, "num_retries": 0, "api_base": server.url}
        native = {"api_key": HELD["api_key"]}  # more DSPy leaves to LiteLLM
        keyed = [Agent(dspy.LM("openai/a", engine="lm15", **usual, **native), name="lm15")]
        keyed += [Agent(dspy.LM("openai/a", engine="litellm", **usual, **HELD), name="litellm")]
        others = {"short": {"api_key": SHORT}, "reference": {"api_key": "os.environ/HARMLESS"}}
        keyed += [Agent(f"openai/{name}", name=name, **{**usual, **options}) for name, options in others.items()]
        keyed += [
            Agent(
                dspy.LM("openai/x", engine=engine, **{**usual, "api_base": ADDRESS}, api_key=SHORT), name=f"at_{engine}"
            )
            for engine in ("lm15", "litellm")
        ]
        program = dspy.Predict(QA, extra_headers={"X-Key": PER_CALL})
        keyed.append(Agent("openai/own", program, name="own", api_key="any-key", **usual))
        good = Agent("openai/good", name="good", api_key="any-key", **usual)
        moa: Any = MoA(QA, [*keyed, good], good.lm)
        prediction = moa(question="?")
        assert [len(prediction.proposals), len(prediction.metadata.failures)] == [1, len(keyed)]
        assert [f.agent for f in prediction.metadata.failures if "***" not in f.message] == ["at_litellm"]
        left |= {"metadata": prediction.metadata.model_dump_json(), "prediction": repr(prediction)}
        left |= {"repr": repr(moa) + repr(moa.agents), "state": json.dumps(moa.dump_state(), default=repr)}
        for number, agent in enumerate(keyed):
            with pytest.raises(MoAError) as raised:
                MoA(QA, [agent], strategy="voting")(question="?")
            left |= {f"error {number}.{part}": text for part, text in enumerate(tell(raised.value))}
            left[f"pickled {number}"] = pickle.dumps(raised.value)
        for index, failing in enumerate(([good, keyed[1]], [keyed[0]])):
            record(MoA(QA, failing, strategy="voting"), [{"question": "?"}], store / f"{index}.jsonl")
            assert len(Recording.load(store / f"{index}.jsonl")) == 1
        moa.save(store / "moa.json")
        moa.save(store / "moa.pkl")
        left["cloudpickle"] = cloudpickle.dumps(moa)
        for form in (moa, moa.deepcopy()):
            left[f"pickle {id(form)}"] = cloudpickle.dumps(form)
        entry = {"model": "openai/cli", "api_base": server.url, "num_retries": 0, "api_key": "os.environ/HARMLESS"}
        (store / "c.json").write_text(json.dumps({"proposers": [entry], "strategy": "voting"}))
        for flags in ((), ("--json",)):
            result = CliRunner().invoke(app, ["ask", "?", "--config", "c.json", *flags])
            assert result.exit_code == 1 and "***" in result.output
            left[f"printed {flags}"] = result.output
    mlflow.flush_trace_async_logging()
    moa_dspy.autolog(disable=True)
    out = capfd.readouterr()
    left |= {"log": caplog.text, "stdout": out.out, "stderr": out.err}
    assert "litellm.completion" in caplog.text and "***" in caplog.text
    left |= {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert {"0.jsonl", "1.jsonl", "moa.json", "moa.pkl", "mlflow.db"} <= left.keys()
    found = {where: re.findall(NEEDLES, t if isinstance(t, bytes) else t.encode()) for where, t in left.items()}
    assert {where: {*hits} for where, hits in found.items() if hits} == {}


@pytest.mark.parametrize("place", ["brought", "inside", "ambient"])
def test_a_failures_message_holds_none_of_those_that_a_program_asks_with(place: str) -> None:
    secret = str(HELD["api_key"])
    keyed = dspy.LM("openai/x", api_key=secret, extra_headers={"X": secret})
    program: Any = Raises(f"Incorrect key {secret}")
    if place == "brought":
        program.answer.set_lm(keyed)
    elif place == "inside":
        program.inner = MoA(QA, [keyed], strategy="voting")
    with dspy.context(lm=keyed if place == "ambient" else None), pytest.raises(TooFewProposals) as caught:
        MoA(QA, [Agent(program=program, name="gives")], strategy="voting")(question="?")
    assert "***" in caught.value.failures[0].message
    assert secret not in str(caught.value) + caught.value.metadata.model_dump_json()
