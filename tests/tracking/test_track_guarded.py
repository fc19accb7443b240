"""A tracking server that is bad, and calls that are: neither harms the program."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow.exceptions import MlflowException
from support.compiling import TRAIN, Setting, coach, right, role
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, cast, mixture
from support.mlflow_server import broken_server, free_port, hanging_server
from support.openai_server import OpenAIServer, Reply
from support.rendering import render

from moa_dspy import MoA, track
from moa_dspy.tracking import guard
from moa_dspy.tracking.tracked import Tracked


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("moa_dspy")]


def worked_with() -> tuple[Tracked, float]:
    """A whole block of work, which must go on as if there were no tracking; and its seconds."""
    moa = mixture(cast("a", "judge"))
    started = time.monotonic()
    with track(moa, dataset=EXAMPLES) as found:
        assert moa(question="?").answer == "judge"
        found.log_metrics({"score": 1})
        found.log_prompts(moa)
    return found, time.monotonic() - started


@pytest.mark.parametrize("server", [hanging_server, broken_server], ids=["hanging", "broken"])
def test_a_bad_server_costs_one_warning(
    untracked: None,
    server: Callable[[], AbstractContextManager[str]],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "LIMIT", 3.0)
    with server() as url:
        mlflow.set_tracking_uri(url)
        found, seconds = worked_with()
    assert (found.run_id, found.usage.calls, found.usage.prompt_tokens) == (None, 2, 20)
    assert [call.agent for call in found.calls] == ["a", "aggregator"]
    assert len(warnings_of(caplog)) == 1 and "could not start a run" in warnings_of(caplog)[0]
    assert seconds < 5 and mlflow.active_run() is None


@pytest.mark.parametrize("uri", ["http://127.0.0.1:{port}", "nonsense://here"], ids=["down", "wrong"])
def test_so_does_none(untracked: None, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.set_tracking_uri(uri.format(port=free_port()))
    found, seconds = worked_with()
    assert (found.run_id, found.usage.calls, len(warnings_of(caplog))) == (None, 2, 1)
    assert seconds < 1.5 * guard.LIMIT


def test_a_server_that_dies_meanwhile_leaves_no_active_run(
    untracked: None, store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    moa = mixture(cast("a", "judge"))
    with track(moa) as found:
        mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
        moa(question="?")
    assert (found.usage.calls, mlflow.active_run(), len(warnings_of(caplog))) == (2, None, 1)
    assert "could not log the results" in warnings_of(caplog)[0]


def test_a_deleted_experiment_costs_one_warning(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment: Any = mlflow.get_experiment_by_name("mixtures")
    mlflow.delete_experiment(experiment.experiment_id)
    found, _ = worked_with()
    assert (found.run_id, found.usage.calls, len(warnings_of(caplog))) == (None, 2, 1)
    assert "must be in the 'active' state" in warnings_of(caplog)[0]


def test_a_full_store_costs_one_warning(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mlflow.MlflowClient, "log_text", full)
    found, _ = worked_with()
    assert (found.usage.calls, len(warnings_of(caplog))) == (2, 1)
    assert "No space left on device" in warnings_of(caplog)[0] and mlflow.active_run() is None


def test_a_bad_registry_leaves_the_run_as_it_is(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any, **__: Any) -> None:
        raise MlflowException("no registry here")

    monkeypatch.setattr(mlflow.MlflowClient, "register_prompt", closed)
    found, _ = worked_with()
    assert found.run_id is not None
    run = mlflow.get_run(found.run_id)
    assert (run.info.status, run.data.metrics["total/calls"], run.data.metrics["score"]) == ("FINISHED", 2, 1)
    assert len(warnings_of(caplog)) == 1 and "could not register the prompts" in warnings_of(caplog)[0]


def test_compiling_goes_on_and_is_counted(untracked: None, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    lms = {**{name: role(name) for name in ("ada", "bo", "judge")}, "coach": FakeLM("coach", coach)}
    moa = Setting().program(lms)
    with track(moa) as found:
        optimizer = dspy.COPRO(prompt_model=lms["coach"], metric=right, breadth=2, depth=1)
        optimizer.compile(moa, trainset=TRAIN, eval_kwargs={"num_threads": 3})
    assert found.usage.calls == len(found.compile_calls) == sum(lm.calls for lm in lms.values())
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("given", [dspy.Predict(QA), "moa", None], ids=["module", "str", "None"])
def test_only_a_mixture_is_tracked(given: Any) -> None:
    with pytest.raises(TypeError, match=f"A moa_dspy.MoA is tracked, not a {type(given).__name__}"):
        track(given)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (3, "not a int"),
        ("data.csv", "not a str"),
        ([1, 2], "not a list with a int"),
        (dspy.Example(question="?"), "not a Example"),
    ],
    ids=["int", "path", "list", "example"],
)
def test_a_data_set_of_another_type_is_refused(data: Any, complaint: str) -> None:
    with pytest.raises(TypeError, match=complaint):
        track(mixture(cast("a", "judge")), dataset=data)


def test_an_empty_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="The data set is empty"):
        track(mixture(cast("a", "judge")), dataset=[])


def test_nothing_secret_reaches_the_store(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    secret, hidden = "hunter2-hunter2", "swordfish-123"
    monkeypatch.setenv("SOME_API_KEY", hidden)
    said = render("chat", {"reasoning": "so", "answer": f"My key is {secret}, yours {hidden}."})
    with OpenAIServer(lambda request: said if request.model != "bad" else Reply(f"no: {secret}", status=400)) as server:
        given: dict[str, Any] = {
            "api_base": server.url,
            "api_key": secret,
            "headers": {"x-one": secret},
            "extra_headers": {"Authorization": f"Bearer {secret}"},
            "cache": False,
        }
        lms = [dspy.LM(f"openai/{name}", **given) for name in ("a", "b", "bad")]
        moa = MoA(QA, lms, dspy.LM("openai/judge", **given))
        with pytest.raises(RuntimeError), track(moa, dataset=EXAMPLES) as found:
            moa(question="?")
            dspy.LabeledFewShot(k=1).compile(moa, trainset=EXAMPLES)
            raise RuntimeError(f"refused: {secret}")
    assert found.run_id is not None and mlflow.get_run(found.run_id).data.tags["error"] == "RuntimeError: refused: ***"
    held = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"proposers.shared.predict" in held and b"My key is ***, yours ***." in held
    assert secret.encode() not in held and hidden.encode() not in held
    assert secret not in caplog.text
