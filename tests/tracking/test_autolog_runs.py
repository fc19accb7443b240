"""Evaluations and optimizers give runs that say what was set, what came out, and which belongs to which."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import mlflow.artifacts
import pytest
from mlflow.entities import Run
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, cast, mixture

import moa_dspy
from moa_dspy.tracking.autolog import flush


@pytest.fixture(autouse=True)
def on(store: Path) -> Iterator[None]:
    moa_dspy.autolog()
    yield
    moa_dspy.autolog(disable=True)


def metric(example: Any, prediction: Any, *args: Any) -> float:
    return 1.0


def feedback(example: Any, prediction: Any, *args: Any, **more: Any) -> dspy.Prediction:
    return dspy.Prediction(score=0.5, feedback="say more")


def runs() -> dict[str, Run]:
    return {run.info.run_name or "": run for run in mlflow.search_runs(output_format="list")}


def traces() -> list[Any]:
    flush()
    found: Any = mlflow.search_traces(return_type="list")
    return list(found)


def files(run: Run) -> set[str]:
    return {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}


def random_search(**options: Any) -> dspy.BootstrapFewShotWithRandomSearch:
    return dspy.BootstrapFewShotWithRandomSearch(metric, num_candidate_programs=1, num_threads=1, **options)


def test_an_evaluation_is_a_run() -> None:
    dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=2)(mixture(cast("a", "b", "judge")))
    [run] = runs().values()
    assert (run.info.run_name, run.info.status, run.data.metrics) == ("eval", "FINISHED", {"eval": 100.0})
    assert files(run) == {"model.json", "result_table.json"}
    assert mlflow.active_run() is None


def test_an_optimizer_is_a_run_with_its_settings_and_its_candidates_under_it() -> None:
    random_search(max_labeled_demos=1).compile(mixture(cast("a", "b", "judge")), trainset=EXAMPLES)
    found = runs()
    parent = found.pop("BootstrapFewShotWithRandomSearch")
    assert parent.data.params["BootstrapFewShotWithRandomSearch.max_labeled_demos"] == "1"
    assert parent.data.tags["moa.optimizer"] == "BootstrapFewShotWithRandomSearch"
    assert {"best_model.json", "trainset.json", "optimizers"} <= files(parent)
    assert sorted(found) == ["eval_0", "eval_1", "eval_2", "eval_3"]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {parent.info.run_id}
    assert {run.info.status for run in [parent, *found.values()]} == {"FINISHED"}
    assert mlflow.active_run() is None


def test_the_best_program_is_logged_without_a_word_about_the_candidates(caplog: pytest.LogCaptureFixture) -> None:
    tuned = random_search().compile(mixture(cast("a", "b", "judge")), trainset=EXAMPLES)
    assert len(tuned.candidate_programs) == 4
    assert [record.getMessage() for record in caplog.records if "candidate_programs" in record.getMessage()] == []


def test_candidates_evaluated_in_threads_are_under_their_optimizer_too() -> None:
    def judge(prompt: str) -> dict[str, str]:
        return {"reasoning": "so", "answer": "better" if "Tip" in prompt else "worse"}

    def better(example: Any, prediction: Any, *args: Any, **more: Any) -> dspy.Prediction:
        return dspy.Prediction(score=float(prediction.answer == "better"), feedback="be better")

    reflection = FakeLM("reflection", lambda prompt: {"new_instruction": "Tip: be better."})
    budget: dict[str, Any] = {"max_metric_calls": 40, "reflection_minibatch_size": 2}
    optimizer = dspy.GEPA(better, reflection_lm=reflection, num_threads=2, **budget)
    moa = mixture({**cast("a"), "judge": FakeLM("judge", judge)})
    optimizer.compile(moa, trainset=EXAMPLES, valset=EXAMPLES)
    found = runs()
    parent = found.pop("GEPA")
    assert {run.data.tags.get("mlflow.parentRunId") for run in found.values()} == {parent.info.run_id}
    assert parent.data.params["GEPA.max_metric_calls"] == "40"
    scores = mlflow.MlflowClient().get_metric_history(parent.info.run_id, "eval_full")
    assert [(score.step, score.value) for score in scores] == [(0, 100.0)]


def test_optimizers_share_a_run_of_the_users() -> None:
    with mlflow.start_run(run_name="mine") as mine:
        for demos in (1, 2):
            random_search(max_labeled_demos=demos).compile(mixture(cast("a", "b", "judge")), trainset=EXAMPLES)
        active = mlflow.active_run()
        assert active is not None and active.info.run_id == mine.info.run_id
    run = mlflow.get_run(mine.info.run_id)
    assert run.data.params["BootstrapFewShotWithRandomSearch.max_labeled_demos"] == "1"
    settings = mlflow.MlflowClient().list_artifacts(mine.info.run_id, "optimizers")
    found = [mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/{file.path}")["settings"] for file in settings]
    assert sorted(each["max_labeled_demos"] for each in found) == [1, 2]


def test_an_optimizer_that_fails_ends_its_run() -> None:
    class Failing(dspy.teleprompt.Teleprompter):
        def __init__(self) -> None:
            super().__init__()
            self.api_key = "planted-key"
            self.note = "x" * 7000

        def compile(self, student: dspy.Module, **options: Any) -> dspy.Module:
            dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=1)(student)
            raise LookupError("no luck")

    with pytest.raises(LookupError):
        Failing().compile(mixture(cast("a", "b", "judge")), rounds=3)
    found = runs()
    assert {name: run.info.status for name, run in found.items()} == {"Failing": "FAILED", "eval_0": "FINISHED"}
    params = found["Failing"].data.params
    assert (params["Failing.rounds"], params["Failing.api_key"]) == ("3", "***")
    assert params["Failing.note"] == "x" * 6000 and mlflow.active_run() is None


def test_a_metric_that_fails_is_an_example_that_fails_as_without_us() -> None:
    def broken(example: Any, *args: Any) -> float:
        if example.question == "q1":
            raise LookupError("no metric")
        return 1.0

    evaluate = dspy.Evaluate(devset=EXAMPLES, metric=broken, num_threads=1, failure_score=0.0)
    assert evaluate(mixture(cast("a", "judge"))).score == 66.67
    assert [run.info.status for run in runs().values()] == ["FINISHED"]


def test_an_evaluation_that_fails_leaves_no_run_behind() -> None:
    def broken(*args: Any) -> float:
        raise LookupError("no metric")

    with pytest.raises(Exception, match="cancelled"):
        dspy.Evaluate(devset=EXAMPLES, metric=broken, num_threads=1, max_errors=1)(mixture(cast("a", "judge")))
    assert mlflow.active_run() is None
    assert [run.info.status for run in runs().values()] == ["FAILED"]


def test_scores_are_on_the_traces() -> None:
    dspy.Evaluate(devset=EXAMPLES, metric=feedback, num_threads=2)(mixture(cast("a", "judge")))
    found = [trace.info.assessments for trace in traces()]
    assert [[(each.name, each.value, each.rationale) for each in scores] for scores in found] == [
        [("feedback", 0.5, "say more")]
    ] * 3


def test_what_an_optimizer_tries_is_traced_if_asked() -> None:
    random_search().compile(mixture(cast("a", "judge")), trainset=EXAMPLES)
    assert traces() == []
    moa_dspy.autolog(log_traces_from_compile=True)
    random_search().compile(mixture(cast("a", "judge")), trainset=EXAMPLES)
    assert len(traces()) > 12
