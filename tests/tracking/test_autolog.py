"""Turning it on and off: once, in its own thread, with what was there before put back; and its runs."""

import logging
import threading
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.dspy.callback import MlflowCallback
from support.mixtures import EXAMPLES, cast, mixture

import moa_dspy
from moa_dspy.tracking import flush


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def traces() -> list[Any]:
    flush()
    return list(mlflow.search_traces(return_type="list"))


def runs() -> dict[str, Any]:
    return {str(run.info.run_name): run for run in mlflow.search_runs(output_format="list")}


@pytest.mark.parametrize("before", [False, True])
def test_mlflows_own_beside_it_makes_no_second_trace(store: Path, before: bool) -> None:
    if before:
        mlflow_autolog()
    moa_dspy.autolog()
    if not before:
        mlflow_autolog()
    mixture(cast("a", "judge"))(question="?")
    assert [trace.data.spans[0].name for trace in traces()] == ["MoA (synthesis)"]


def test_mlflows_own_comes_back(store: Path) -> None:
    mlflow_autolog()
    moa_dspy.autolog()
    moa_dspy.autolog(disable=True)
    assert [type(callback) for callback in dspy.settings.callbacks] == [MlflowCallback]


def test_another_thread_is_refused(store: Path) -> None:
    dspy.configure(lm=None)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            moa_dspy.autolog()
        except RuntimeError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "by the thread that initially configured it" in str(caught[0])


def test_an_evaluation_is_a_run(store: Path) -> None:
    moa_dspy.autolog()
    moa = mixture(cast("a", "judge"))
    assert dspy.Evaluate(devset=EXAMPLES, metric=exact)(moa).score == 0.0
    run = runs()["eval"]
    assert {name: run.data.metrics[name] for name in ("score", "calls")} == {"score": 0, "calls": 6}
    assert (run.info.status, len(run.inputs.dataset_inputs), moa.callbacks) == ("FINISHED", 1, [])
    assert {trace.info.trace_metadata["mlflow.sourceRun"] for trace in traces()} == {run.info.run_id}


def test_what_an_optimizer_tries_is_traced_if_asked(store: Path) -> None:
    moa_dspy.autolog(log_traces_from_compile=True)
    dspy.BootstrapFewShot(metric=exact).compile(mixture(cast("a", "judge")), trainset=EXAMPLES[:1])
    assert len(traces()) == 1


def test_an_optimizer_that_fails_ends_its_run(store: Path) -> None:
    moa_dspy.autolog()

    def bad(*arguments: Any) -> float:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        dspy.BootstrapFewShot(metric=bad, max_errors=0).compile(mixture(cast("a", "judge")), trainset=EXAMPLES)
    run = runs()["BootstrapFewShot"]
    assert (run.info.status, mlflow.active_run()) == ("FAILED", None)


def test_lost_traces_are_counted_and_said(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    moa_dspy.autolog()
    caplog.set_level(logging.WARNING, "moa_dspy")
    moa = mixture(cast("a", "judge"))
    moa(question="?")
    experiment: Any = mlflow.get_experiment_by_name("mixtures")
    flush()
    mlflow.MlflowClient().delete_experiment(experiment.experiment_id)
    moa(question="?")
    flush()
    [said] = [record.getMessage() for record in caplog.records if record.name == "moa_dspy.tracking"]
    assert said.startswith("1 of 1 traces are not in MLflow at sqlite:")
