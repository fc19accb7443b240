import json
import urllib.request
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.genai import load_prompt
from support.mlflow_server import free_port
from typer.testing import CliRunner

from moa_dspy.cli import app
from moa_dspy.cli.mlflow_pages import serving
from moa_dspy.simulated.questions import bundled_questions


def rows(folder: Path, count: int) -> Path:
    data = folder / "data.jsonl"
    lines = [json.dumps({"question": q.question, "answer": q.answer}) for q in bundled_questions()[:count]]
    data.write_text("\n".join(lines))
    return data


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "200"})


@pytest.fixture(autouse=True)
def no_experiment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID")  # which set_experiment() leaves


def runs() -> dict[str, Any]:
    experiment: Any = mlflow.get_experiment_by_name("moa-dspy")
    found = mlflow.MlflowClient().search_runs([experiment.experiment_id])
    return {str(run.info.run_name): run for run in found}


def test_eval_makes_a_run_of_each_system_under_one(store: Path) -> None:
    done = invoke("eval", str(rows(store, 4)), "-s", "voting", "--mlflow", "--json")
    assert done.exit_code == 0 and "To look at it: moa-dspy ui" in done.stderr
    scores = {row["name"]: row["score"] for row in json.loads(done.stdout)["rows"]}
    tracked = runs()
    parent = tracked["eval"]
    assert parent.info.status == "FINISHED" and parent.data.params["strategy"] == "voting"
    children = {name: run for name, run in tracked.items() if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in children.values()} == {parent.info.run_id}
    assert {name: run.data.metrics["score"] for name, run in children.items()} == scores
    assert parent.data.metrics["oracle"] == scores["oracle"]


def test_run_tracks_what_the_answers_took(store: Path) -> None:
    answers = store / "answers.jsonl"
    done = invoke("run", str(rows(store, 3)), "-o", str(answers), "-s", "voting", "--mlflow", "--json")
    assert done.exit_code == 0
    [run] = runs().values()
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.metrics["total/calls"] == json.loads(done.stdout)["usage"]["calls"]
    assert run.data.metrics["alice/calls"] == 3
    traces = mlflow.search_traces(return_type="list", locations=[run.info.experiment_id])
    assert len(traces) == 3


def test_compile_tracks_its_calls_its_prompts_and_its_gain(store: Path) -> None:
    out = store / "moa.json"
    done = invoke(
        "compile", "-d", str(rows(store, 120)), "-o", str(out), "--optimizer", "bootstrap", "--mlflow", "--json"
    )
    assert done.exit_code == 0
    plain = json.loads(done.stdout)
    tracked = runs()["moa"]
    metrics, spent = tracked.data.metrics, plain["report"]["stages"]
    assert (metrics["heldout/before"], metrics["heldout/after"]) == (plain["before"], plain["after"])
    assert metrics["compile/calls"] == sum(stage["usage"]["calls"] for stage in spent)
    assert metrics["total/calls"] == metrics["compile/calls"] + plain["measuring"]["calls"]
    assert load_prompt("prompts:/moa.proposers.shared.predict@latest").version == 2
    assert tracked.data.params["optimizer"] == "BootstrapFewShotWithRandomSearch"


def test_without_it_nothing_is_tracked(store: Path) -> None:
    assert invoke("run", str(rows(store, 1)), "-o", str(store / "a.jsonl"), "-s", "voting").exit_code == 0
    assert mlflow.get_experiment_by_name("moa-dspy") is None


def test_a_server_that_is_down_costs_a_warning(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.set_tracking_uri(f"http://127.0.0.1:{free_port()}")
    answers = store / "answers.jsonl"
    done = invoke("run", str(rows(store, 1)), "-o", str(answers), "-s", "voting", "--mlflow")
    assert done.exit_code == 0 and len(answers.read_text().splitlines()) == 1
    assert "To look at it" not in done.stderr
    assert len([record for record in caplog.records if "is of no use" in record.getMessage()]) == 1


def test_a_deleted_experiment_of_the_environment_costs_one_warning(
    store: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment: Any = mlflow.get_experiment_by_name("mixtures")
    mlflow.delete_experiment(experiment.experiment_id)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mixtures")
    done = invoke("run", str(rows(store, 1)), "-o", str(store / "a.jsonl"), "-s", "voting", "--mlflow", "--json")
    assert done.exit_code == 0 and json.loads(done.stdout)["answered"] == 1
    [warning] = [record.getMessage() for record in caplog.records if record.name.startswith("moa_dspy")]
    assert "could not open the experiment" in warning and "deleted experiment 'mixtures'" in warning
    assert "MLFLOW_TRACKING_URI" in warning


def test_ui_serves_a_store_until_it_is_closed(store: Path) -> None:
    port = free_port()
    with serving(f"sqlite:///{store / 'mlflow.db'}", port) as (address, wait):
        with urllib.request.urlopen(f"{address}/health") as answer:
            assert (answer.status, wait is None) == (200, False)
        with pytest.raises(OSError, match=f"Port {port} is taken: .* --port"), serving("sqlite:///x.db", port):
            pass
    with pytest.raises(OSError):
        urllib.request.urlopen(f"{address}/health")


def test_ui_of_no_store_is_refused(store: Path) -> None:
    done = invoke("ui", f"sqlite:///{store / 'none.db'}", "--no-browser")
    assert done.exit_code == 2 and "nothing was tracked here" in done.stderr


def test_ui_of_something_else_is_refused_with_what_it_can_be(store: Path) -> None:
    done = invoke("ui", "nonsense://x", "--no-browser")
    assert done.exit_code == 2 and "sqlite, postgresql, mysql, mssql, http or https" in done.stderr


def test_ui_of_a_server_is_its_address(store: Path) -> None:
    done = invoke("ui", "http://127.0.0.1:5001", "--no-browser")
    assert done.exit_code == 0 and "MLflow: http://127.0.0.1:5001" in done.stderr
