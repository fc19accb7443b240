"""A block of work as a run: every call once, whoever makes it, and what a person looks for on the run's page."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.artifacts
import pandas
import pytest
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, calls, cast, in_task, mixture, says
from support.openai_server import OpenAIServer, Reply, Tokens
from support.rendering import render

import moa_dspy
from moa_dspy import track


def run_of(tracked: Any) -> Any:
    return mlflow.get_run(tracked.run_id)


def metrics(tracked: Any, *names: str) -> dict[str, float]:
    found = run_of(tracked).data.metrics
    return {name: found.get(name) for name in names}


def files(tracked: Any) -> list[str]:
    return [file.path for file in mlflow.MlflowClient().list_artifacts(tracked.run_id)]


def table(tracked: Any, name: str) -> list[dict[str, Any]]:
    held = json.loads(mlflow.artifacts.load_text(f"{run_of(tracked).info.artifact_uri}/{name}"))
    return [dict(zip(held["columns"], row, strict=True)) for row in held["data"]]


def children(tracked: Any) -> dict[str, Any]:
    found = mlflow.search_runs(output_format="list")
    return {str(r.info.run_name): r for r in found if r.data.tags.get("mlflow.parentRunId") == tracked.run_id}


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def knowing(*known: int) -> Any:
    """Answers these of the examples rightly."""
    return lambda prompt: says(next((f"a{n}" for n in known if f"q{n}" in prompt), "no idea"))(prompt)


class TestRun:
    def test_holds_a_dozen_metrics(self, store: Path) -> None:
        lms = {"a": FakeLM("x/a", says("a"), usage=(1, 2)), "judge": FakeLM("judge", says("a"), usage=(3, 4))}
        with track(mixture(lms), "qa") as tracked:
            mixture(lms)(question="?")
            in_task(mixture(lms), question="?")
        found = run_of(tracked).data.metrics
        assert {name: value for name, value in found.items() if not name.startswith("seconds")} == {
            "questions": 2,
            "calls": 4,
            "prompt_tokens": 8,
            "completion_tokens": 12,
            "unpriced_calls": 4,
            "failed_calls": 0,
            "agreement": 1,
            "degraded_share": 0,
        }
        assert 0 < found["seconds_p50"] <= found["seconds_p95"] < 5
        assert len(run_of(tracked).data.params) == 7

    def test_a_known_price_is_the_cost_and_an_unknown_one_is_counted(self, store: Path) -> None:
        reply = Reply(render("chat", {"reasoning": "r", "answer": "x"}), usage=Tokens(prompt=1000, completion=100))
        with OpenAIServer(lambda request: reply) as provider:
            lm = dspy.LM("openai/gpt-4o-mini", api_base=provider.url, api_key="key", cache=False)
            moa = moa_dspy.MoA(QA, [lm, *cast("free").values()], strategy="voting")
            with track(moa) as tracked:
                moa(question="?")
        cost = 1000 * 0.15e-6 + 100 * 0.6e-6
        assert metrics(tracked, "cost_usd", "unpriced_calls") == {"cost_usd": pytest.approx(cost), "unpriced_calls": 1}

    def test_a_call_that_raises_keeps_its_proposals(self, store: Path) -> None:
        lms = {**cast("a"), "judge": FakeLM("judge", lambda _: dspy.lm15.RateLimitError("no"))}
        moa = mixture(lms, limits=moa_dspy.Limits(on_degraded="raise"))
        with track(moa) as tracked, pytest.raises(moa_dspy.AggregationFailed):
            moa(question="?")
        rows = table(tracked, "proposals.json")
        assert [(row["agent"], row["output_answer"]) for row in rows] == [("a", "a"), ("aggregator", None)]

    def test_the_proposals_have_columns_without_dots(self, store: Path) -> None:
        moa = mixture(cast("a", "b", "judge"), strategy="selection")
        with track(moa) as tracked:
            chosen = moa(question="?").answer
        rows = table(tracked, "proposals.json")
        assert [(row["agent"], row["chosen"]) for row in rows] == [("a", chosen == "a"), ("b", chosen == "b")]
        assert (rows[0]["call"], rows[0]["input_question"], rows[0]["answer_answer"]) == (1, "?", chosen)
        assert not [name for name in rows[0] if "." in name]

    @pytest.mark.parametrize("form", [list, lambda rows: [dict(row.items()) for row in rows], pandas.DataFrame])
    def test_the_data_set_is_an_input(self, store: Path, form: Any) -> None:
        data = form([dict(row.items()) for row in EXAMPLES] if form is pandas.DataFrame else EXAMPLES)
        with track(mixture(cast("a", "judge")), dataset=data) as tracked:
            pass
        [held] = run_of(tracked).inputs.dataset_inputs
        assert json.loads(held.dataset.profile) == {"num_rows": 3, "num_elements": 6}

    def test_goes_on_with_a_run(self, store: Path) -> None:
        moa = mixture(cast("a", "judge"))
        with track(moa, "qa", tags={"team": "blue"}) as first:
            moa(question="?")
        with track(moa, "qa", run_id=first.run_id) as second:
            tracked_inside = mlflow.active_run()
        assert second.run_id == first.run_id == tracked_inside.info.run_id  # type: ignore[union-attr]
        assert (run_of(first).data.tags["team"], run_of(first).info.status) == ("blue", "FINISHED")

    def test_your_own_numbers_stand(self, store: Path) -> None:
        moa = mixture(cast("a", "judge"))
        with track(moa) as tracked:
            tracked.log_metrics({"agreement": 0.5})
            mlflow.log_metric("mine", 2)
            moa(question="?")
        assert metrics(tracked, "agreement", "mine") == {"agreement": 0.5, "mine": 2}

    @pytest.mark.parametrize(
        ("error", "status"),
        [(ValueError("no"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (asyncio.CancelledError(), "KILLED")],
    )
    def test_an_error_passes_and_ends_the_run(self, store: Path, error: BaseException, status: str) -> None:
        with pytest.raises(type(error)), track(mixture(cast("a", "judge"))) as tracked:
            mlflow.start_run(nested=True)  # left open
            raise error
        assert (run_of(tracked).info.status, mlflow.active_run()) == (status, None)
        assert run_of(tracked).data.tags["error"].startswith(type(error).__name__)

    def test_a_real_server_holds_it_all(self, server: str) -> None:
        moa = mixture(cast("a", "judge"))
        with track(moa, dataset=EXAMPLES) as tracked:
            dspy.Evaluate(devset=EXAMPLES, metric=exact)(moa)
            simulated = moa_dspy.MoA(QA, ["simulated/alice"], strategy="voting")
            moa_dspy.log_model(simulated, "voters", registered_model_name="voters")
        assert metrics(tracked, "calls", "score") == {"calls": 6, "score": 0}
        assert set(files(tracked)) == {"calls.json", "evaluation.json", "mixture.json", "prompts.md", "proposals.json"}
        assert moa_dspy.load_model("models:/voters/1").dump_state() == simulated.dump_state()


class TestCounting:
    @pytest.mark.parametrize("autolog", [False, True])
    def test_a_users_threads(self, store: Path, autolog: bool) -> None:
        if autolog:
            moa_dspy.autolog()
        lms = cast("a", "b", "judge")
        moa = mixture(lms)
        with track(moa) as tracked:
            moa(question="here")
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(lambda number: moa(question=str(number)), range(4)))
        assert calls(lms) == {"a": 5, "b": 5, "judge": 5}
        assert (metrics(tracked, "calls", "questions"), moa.callbacks) == ({"calls": 15, "questions": 5}, [])
        if autolog:
            moa_dspy.tracking.flush()
            traces = mlflow.search_traces(return_type="list")
            assert [trace.info.trace_metadata["mlflow.sourceRun"] for trace in traces] == [tracked.run_id] * 5

    @pytest.mark.filterwarnings("ignore::Warning")  # MLflow's own
    def test_mlflows_evaluation(self, store: Path) -> None:
        from mlflow.genai import evaluate as genai_evaluate
        from mlflow.genai import scorer

        moa = mixture(cast("a", "judge"))
        right = scorer(lambda outputs: outputs == "judge", name="right")
        with track(moa) as tracked:
            genai_evaluate(
                data=[{"inputs": {"question": f"q{number}"}} for number in range(3)],
                predict_fn=lambda question: moa(question=question).answer,
                scorers=[right],
            )
        asked = 4  # MLflow asks the first question once more, to see whether it is traced
        assert tracked.usage.calls in (2 * 3, 2 * asked)
        assert tracked.usage.calls == sum(lm.calls for lm in (agent.lm for agent in moa.agents))  # type: ignore

    def test_blocks_side_by_side_do_not_mix(self, store: Path) -> None:
        moa_dspy.autolog()
        together = threading.Barrier(2)

        def work(name: str) -> Any:
            moa = mixture(cast("a", "judge"))
            with track(moa, name) as tracked:
                together.wait()
                for number in range(len(name)):
                    moa(question=f"{name}{number}")
                together.wait()
            return tracked

        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(work, ["xx", "yyy"]))
        moa_dspy.tracking.flush()
        assert [tracked.usage.calls for tracked in found] == [4, 6]
        traces = mlflow.search_traces(return_type="list")
        runs = [(t.info.trace_metadata["mlflow.sourceRun"], t.data.spans[0].inputs["question"][0]) for t in traces]
        assert sorted(set(runs)) == sorted([(found[0].run_id, "x"), (found[1].run_id, "y")])

    def test_tasks_side_by_side_do_not_mix(self, store: Path) -> None:
        async def work(name: str) -> Any:
            moa = mixture(cast("a", "judge"))
            with track(moa, name) as tracked:
                await asyncio.gather(*(moa.acall(question=str(number)) for number in range(len(name))))
            return tracked

        async def both() -> tuple[Any, Any]:
            return await asyncio.gather(work("xx"), work("yyy"))

        found = asyncio.run(both())
        assert [metrics(tracked, "calls")["calls"] for tracked in found] == [4, 6]
        assert {run_of(tracked).info.status for tracked in found} == {"FINISHED"}
        assert children(found[0]) == children(found[1]) == {}

    def test_one_in_another_counts_too(self, store: Path) -> None:
        inner = mixture(cast("a", "judge"))
        outer = moa_dspy.MoA(QA, [inner, *cast("b").values()], cast("last")["last"])
        with track(outer, "outer") as whole:
            outer(question="?")
            with track(inner, "inner") as part:
                inner(question="?")
        assert (whole.usage.calls, part.usage.calls, list(children(whole))) == (6, 2, ["inner"])

    def test_what_no_agent_asks_is_the_programs(self, store: Path) -> None:
        critic = FakeLM("critic", lambda _: {"good": True})
        moa = mixture(cast("a", "judge"))

        def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
            with dspy.context(lm=critic):
                return bool(dspy.Predict("answer -> good: bool")(answer=prediction.answer).good)

        with track(moa) as tracked:
            dspy.Evaluate(devset=EXAMPLES, metric=judged)(moa)
        assert (critic.calls, metrics(tracked, "score", "oracle")) == (3, {"score": 1, "oracle": None})
        assert [row["calls"] for row in table(tracked, "calls.json") if row["agent"] == "program"] == [3]


class TestStages:
    def test_before_and_after_a_compile_stay_apart(self, store: Path) -> None:
        lms = {"a": FakeLM("a", knowing(0)), "b": FakeLM("b", knowing(1)), "judge": FakeLM("judge", knowing(0))}
        moa = mixture(lms)
        evaluate = dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=2)
        with track(moa, "qa") as tracked:
            evaluate(moa)
            tuned = dspy.BootstrapFewShot(metric=exact, max_bootstrapped_demos=1).compile(moa, trainset=EXAMPLES[:1])
            evaluate(tuned)
        scores = mlflow.MlflowClient().get_metric_history(str(tracked.run_id), "score")
        assert [(score.step, round(score.value, 2)) for score in scores] == [(3, 0.33), (6, 0.33)]
        assert metrics(tracked, "oracle", "calls") == {
            "oracle": pytest.approx(2 / 3),
            "calls": sum(lm.calls for lm in lms.values()),
        }
        stages = {row["stage"]: row["calls"] for row in table(tracked, "calls.json") if row["agent"] == "a"}
        assert stages == {"run": 3, "compile": 1, "run_2": 3}
        assert {"proposals.json", "proposals_run_2.json", "evaluation.json", "evaluation_2.json"} <= set(files(tracked))
        assert {"mixture_compiled.json", "optimizer.json", "prompts_compiled.md"} <= set(files(tracked))
        assert run_of(tracked).data.tags["optimizer"] == "BootstrapFewShot"

    @pytest.mark.filterwarnings("error:.*lacks the prompts and demos")
    def test_candidates_are_scored_and_the_report_is_kept(self, store: Path) -> None:
        moa = mixture(cast("a", "judge"))
        optimizer: Any = dspy.BootstrapFewShotWithRandomSearch(exact, num_candidate_programs=1, num_threads=1)
        optimizer.report = {"reason": "none was better"}
        with track(moa) as tracked:
            optimizer.compile(moa, trainset=EXAMPLES)
        trials = mlflow.MlflowClient().get_metric_history(str(tracked.run_id), "trial_score")
        assert [(trial.step, trial.value) for trial in trials] == [(0, 0), (1, 0), (2, 0), (3, 0)]
        described = json.loads(mlflow.artifacts.load_text(f"{run_of(tracked).info.artifact_uri}/optimizer.json"))
        assert described["report"] == {"reason": "none was better"}
        assert described["settings"]["num_candidate_sets"] == 1
        saved = mlflow.artifacts.load_text(f"{run_of(tracked).info.artifact_uri}/mixture_compiled.json")
        assert "candidate_programs" not in saved

    def test_metrics_are_written_as_the_block_goes(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.modules["moa_dspy.tracking.track"], "_EVERY", 0.0)
        moa = mixture(cast("a", "judge"))
        with track(moa) as tracked:
            for _ in range(3):
                moa(question="?")
        history = mlflow.MlflowClient().get_metric_history(str(tracked.run_id), "calls")
        assert {(metric.step, metric.value) for metric in history} == {(1, 2), (2, 4), (3, 6)}


class TestRefusal:
    def test_of_what_is_no_program(self) -> None:
        given: Any = "moa"
        with pytest.raises(TypeError, match=r"A moa_dspy\.MoA, or a dspy\.Module with one, is tracked, not a str"):
            track(given)

    @pytest.mark.parametrize("data", ["train.csv", [1, 2], 5])
    def test_of_a_data_set_of_another_type(self, data: Any) -> None:
        with pytest.raises(TypeError, match="A data set is a list of"):
            track(mixture(cast("a", "judge")), dataset=data)

    def test_of_an_empty_data_set(self) -> None:
        with pytest.raises(ValueError, match="data set is empty"):
            track(mixture(cast("a", "judge")), dataset=[])
