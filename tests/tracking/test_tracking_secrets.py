"""Keys planted wherever a program may hold them are nowhere in the store, the artifacts and the logs."""

import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from dspy.lm15 import AuthError
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, says
from support.openai_server import ChatRequest, OpenAIServer, Reply

import moa_dspy
from moa_dspy import Agent, MoA
from moa_dspy.router import router_lm
from moa_dspy.tracking import flush

CONNECTION: dict[str, Any] = {
    "api_key": "planted-1-api-key",
    "headers": {"Authorization": "Bearer planted-2-header", "X-Tenant": "planted-3-tenant"},
    "extra_headers": {"X-Api-Key": "planted-4-extra-header"},
}
CLOUD: dict[str, Any] = {
    "aws_secret_access_key": "planted-5-aws-secret",
    "aws_session_token": "planted-6-aws-session",
    "vertex_credentials": '{"private_key": "planted-7-vertex"}',
    "extra_body": {"nested": {"client_secret": "planted-9-nested"}},
}


class Program(dspy.Module):
    """A mixture in a program of the user's own, with predictors that hold LMs of their own."""

    def __init__(self, moa: MoA, lm: dspy.LM) -> None:
        super().__init__()
        self.moa = moa
        self.check = dspy.Predict(QA)
        self.check.set_lm(lm)

    def forward(self, question: str) -> dspy.Prediction:
        prediction: dspy.Prediction = self.moa(question=question)
        try:
            self.check(question=question, config={"extra_headers": {"X-Key": "planted-10-per-call"}})
        except Exception as error:
            logging.getLogger("mine").debug("refused: %s", type(error).__name__)
        return prediction


@pytest.fixture
def remote() -> Iterator[Callable[[str], dspy.LM]]:
    """LMs that are asked over HTTP; the one called "refused" says the key that it was given."""

    def answer(request: ChatRequest) -> str | Reply:
        if request.model == "refused":
            return Reply("Incorrect key planted-1-api-key, not sk-planted-12-looks-like-one", status=401)
        return f"[[ ## reasoning ## ]]\nso\n\n[[ ## answer ## ]]\n{request.model}\n\n[[ ## completed ## ]]"

    with OpenAIServer(answer) as server:
        yield lambda name: dspy.LM(f"openai/{name}", api_base=server.url, cache=False, num_retries=0, **CONNECTION)


def cloud(name: str) -> FakeLM:
    return FakeLM(name, says(name), **CLOUD)


def refuses(prompt: str) -> Any:
    return AuthError("Incorrect key planted-11-environment")


def metric(example: Any, prediction: Any, *args: Any) -> float:
    return 1.0


def leaks(folder: Path, text: str) -> dict[str, set[str]]:
    """What is found where, in the raw files and in the log."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = {name: re.findall(rb"planted-\d+", data) for name, data in {**files, "log": text.encode()}.items()}
    return {name: {hit.decode() for hit in hits} for name, hits in found.items() if hits}


def test_no_key_is_written_anywhere(
    store: Path,
    remote: Callable[[str], dspy.LM],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "planted-11-environment")
    caplog.set_level(logging.INFO)
    dspy.configure(lm=remote("ambient"))
    moa_dspy.autolog()
    proposers = [Agent(remote("a"), name="alice"), cloud("b"), remote("refused"), FakeLM("locked", refuses)]
    program = Program(MoA(QA, proposers, cloud("judge")), remote("refused"))
    program(question="?")
    remote("direct")("hello", extra_headers={"X-Key": "planted-13-direct"})
    dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=2)(program)
    optimizer = dspy.BootstrapFewShotWithRandomSearch(metric, num_candidate_programs=1, num_threads=1)
    optimizer.teacher_settings = {"lm": remote("teacher")}
    optimizer.compile(program, trainset=EXAMPLES)
    flush()
    moa_dspy.autolog(disable=True)
    out = capfd.readouterr()

    assert leaks(store, caplog.text + out.out + out.err) == {}
    runs = mlflow.search_runs(output_format="list")
    assert {run.info.run_name for run in runs} >= {"eval", "BootstrapFewShotWithRandomSearch"}
    saved = [path.name for path in store.rglob("*.json")]
    assert {"mixture.json", "optimizer.json", "evaluation.json"} <= set(saved)
    names = [span.name for trace in mlflow.search_traces(return_type="list") for span in trace.data.spans]
    shown = ["alice (openai/a)", "b (b)", "refused (openai/refused)", "locked (locked)"]
    assert {*(f"proposer {agent}" for agent in shown), "aggregator (judge)", "openai/direct"} <= set(names)


def test_a_routers_key_is_known_whatever_its_variable_is_called(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HARMLESS", "planted-14-router")
    refusal = Reply("Incorrect key planted-14-router", status=401)
    moa_dspy.autolog()
    with OpenAIServer(lambda request: refusal) as server:
        params = {"model": "openai/a", "api_base": server.url, "api_key": "os.environ/HARMLESS"}
        router = {"model_list": [{"model_name": "a", "litellm_params": params}]}
        moa = MoA(QA, [router_lm("a", router)], cloud("judge"))
        with pytest.raises(RuntimeError, match="planted-14"), moa_dspy.track(moa):
            with pytest.raises(moa_dspy.TooFewProposals):
                moa(question="Is it planted-14-router?")
            raise RuntimeError("It was planted-14-router.")
    flush()
    assert leaks(store, caplog.text) == {}
    [run] = mlflow.search_runs(output_format="list")
    assert run.data.tags["error"] == "RuntimeError: It was ***."
