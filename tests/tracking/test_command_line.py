import json
import signal
import socket
import time
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.genai import load_prompt
from support.command import CAPITAL, Process, moa_dspy, printed, words, write_questions
from support.mlflow_server import free_port


@pytest.fixture(autouse=True)
def no_experiment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")  # which set_experiment() leaves
    write_questions("data.jsonl", 6)


def runs() -> dict[str, Any]:
    experiment: Any = mlflow.get_experiment_by_name("moa-dspy")
    found = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    return {str(run.info.run_name): run for run in found}


def test_run_and_ask_track_what_the_answers_took() -> None:
    calls = printed("run", "data.jsonl", "-o", "a.jsonl", "-s", "voting", "--mlflow")["usage"]["calls"]
    assert printed("ask", CAPITAL, "--mlflow")["outputs"] == {"answer": "Edinburgh"}
    tracked = runs()
    assert {name: (run.info.status, run.data.metrics["calls"]) for name, run in tracked.items()} == {
        "run": ("FINISHED", calls),
        "ask": ("FINISHED", 5),
    }
    traces = mlflow.search_traces(return_type="list", locations=[tracked["run"].info.experiment_id])
    assert len(traces) == 7


def test_compile_tracks_its_calls_its_prompts_and_its_gain() -> None:
    write_questions("data.jsonl", 120)
    options = ("-d", "data.jsonl", "-o", "moa.json", "--optimizer", "bootstrap", "--mlflow")
    plain, tracked = printed("compile", *options), runs()["moa"]
    metrics = tracked.data.metrics
    assert (metrics["heldout/before"], metrics["heldout/after"]) == (plain["before"], plain["after"])
    assert metrics["calls"] == plain["report"]["calls"] + plain["measuring"]["calls"]
    assert load_prompt("prompts:/moa-dspy.moa.proposers.shared.predict@latest").version == 2


def test_diagnose_tracks_its_systems() -> None:
    options = ("-d", "data.jsonl", "-p", "simulated/alice", "-p", "simulated/bob", "-s", "voting", "--no-self-moa")
    printed("diagnose", *options, "--mlflow")
    assert {"diagnose", "alice", "bob", "voting", "oracle"} <= runs().keys()


def test_without_it_nothing_is_tracked() -> None:
    assert moa_dspy("run", "data.jsonl", "-o", "a.jsonl", "-s", "voting").exit_code == 0
    assert mlflow.get_experiment_by_name("moa-dspy") is None


def test_a_server_that_is_down_costs_a_sentence_and_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it would try again long after the test
    mlflow.set_tracking_uri(f"http://me:secret@127.0.0.1:{free_port()}")
    done = moa_dspy("run", "data.jsonl", "-o", "a.jsonl", "-s", "voting", "--mlflow")
    assert done.exit_code == 0 and len(Path("a.jsonl").read_text().splitlines()) == 6
    assert words(done.stderr).count("Nothing is tracked") == 1 and "To look at it" not in done.stderr
    assert "secret" not in done.output


def test_a_deleted_experiment_of_the_environment_costs_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment: Any = mlflow.get_experiment_by_name("mixtures")
    mlflow.delete_experiment(experiment.experiment_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mixtures")
    done = moa_dspy("run", "data.jsonl", "-o", "a.jsonl", "-s", "voting", "--mlflow", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["answered"] == 6
    assert "deleted experiment 'mixtures'" in words(done.stderr)


def test_ui_serves_a_store_until_it_is_closed(store: Path) -> None:
    port = str(free_port())
    process = Process("ui", f"sqlite:///{store / 'mlflow.db'}", "--port", port)
    told = process.popen.stderr.readline()  # type: ignore[union-attr]
    assert f"http://127.0.0.1:{port}  Ctrl-C ends it." in told
    deadline = time.monotonic() + 120
    while socket.socket().connect_ex(("127.0.0.1", int(port))):
        assert time.monotonic() < deadline and process.popen.poll() is None
        time.sleep(0.1)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/health") as answer:
        assert answer.status == 200
    taken = moa_dspy("ui", f"sqlite:///{store / 'mlflow.db'}", "--port", port)
    assert taken.exit_code == 1 and f"Port {port} is taken" in words(taken.stderr)
    process.popen.send_signal(signal.SIGINT)
    assert process.end()[0] == 0
    time.sleep(0.1)
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/health")


@pytest.mark.parametrize(
    ("store_address", "status", "message"),
    [
        ("sqlite:///none.db", 2, "nothing was tracked here"),
        ("nonsense://x", 2, "sqlite, postgresql, mysql, mssql"),
        ("http://127.0.0.1:5001", 0, "MLflow: http://127.0.0.1:5001"),
    ],
)
def test_ui_opens_what_it_can(store_address: str, status: int, message: str) -> None:
    done = moa_dspy("ui", store_address)
    assert done.exit_code == status and message in words(done.stderr)
