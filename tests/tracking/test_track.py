from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.artifacts
import mlflow.genai
import pandas
import pytest
from support.comparisons import comparison
from support.compiling import TRAIN, Setting, coach, right, role
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, cast, in_task, mixture, says
from support.openai_server import OpenAIServer, Reply, Tokens
from support.rendering import render

import moa_dspy
from moa_dspy.batch import answer_all
from moa_dspy.evaluation import evaluate
from moa_dspy.tracking.active import active_id
from moa_dspy.tracking.tables import ProposalTable
from moa_dspy.tracking.track import Tracked, track


def run_of(tracked: Tracked) -> Any:
    assert tracked.run_id is not None
    return mlflow.get_run(tracked.run_id)


def metrics(tracked: Tracked, *names: str) -> dict[str, float]:
    """These metrics, or all but the times."""
    found = run_of(tracked).data.metrics
    return {name: found[name] for name in names} if names else {n: v for n, v in found.items() if "_p" not in n}


def table(tracked: Tracked, name: str = "proposals.json") -> list[dict[str, Any]]:
    text = mlflow.artifacts.load_text(f"{run_of(tracked).info.artifact_uri}/{name}")
    held = json.loads(text)
    return [dict(zip(held["columns"], row, strict=True)) for row in held["data"]]


def parent_of(run: Any) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def knowing(*known: int) -> Any:
    """Answers these of the examples rightly."""
    return lambda prompt: says(next((f"a{n}" for n in known if f"q{n}" in prompt), "no idea"))(prompt)


def counts(calls: int, each: tuple[int, int] = (10, 5), **others: float) -> dict[str, float]:
    tokens = {"prompt_tokens": calls * each[0], "completion_tokens": calls * each[1]}
    return {"calls": calls, **tokens, "unpriced_calls": calls, "failures": 0, "cache_hits": 0, **others}


def test_a_run_holds_the_metrics_of_every_agent_and_model(store: Path) -> None:
    lms = {"a": FakeLM("x/a", says("a"), usage=(1, 2)), "judge": FakeLM("judge", says("a"), usage=(3, 4))}
    with track(mixture(lms), "qa") as tracked:
        mixture(lms)(question="?")
        in_task(mixture(lms), question="?")
    groups: Mapping[str, dict[str, float]] = {
        "a": counts(2, (1, 2)),
        "aggregator": counts(2, (3, 4)),
        "models/x/a": counts(2, (1, 2)),
        "models/judge": counts(2, (3, 4)),
        "total": counts(4, (2, 3)),
    }
    quality = {"questions": 2, "unanswered": 0, "agreement": 1, "degraded_share": 0, "fallback_share": 0}
    assert metrics(tracked) == quality | {
        f"{group}/{name}": value for group, part in groups.items() for name, value in part.items()
    }
    run = run_of(tracked)
    assert (run.info.run_name, run.info.status, mlflow.active_run()) == ("qa", "FINISHED", None)
    assert 0 < run.data.metrics["a/latency_p50_s"] <= run.data.metrics["a/latency_p95_s"] < 5


def test_known_prices_are_summed_and_unknown_ones_counted(store: Path, cached: None) -> None:
    lms = cast("a", "judge", cache=True)
    with track(mixture(lms)) as tracked:
        mixture(lms)(question="?")
        mixture(lms)(question="?")
    names = ("a/cost_usd", "a/unpriced_calls", "a/cache_hits")
    assert metrics(tracked, *names) == {"a/cost_usd": 0, "a/unpriced_calls": 1, "a/cache_hits": 1}


def test_a_known_price_is_the_cost(store: Path) -> None:
    reply = Reply(render("chat", {"reasoning": "r", "answer": "x"}), usage=Tokens(prompt=1000, completion=100))
    with OpenAIServer(lambda request: reply) as provider:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=provider.url, api_key="key", cache=False)
        moa = moa_dspy.MoA(QA, [lm, *cast("free").values()], strategy="voting")
        with track(moa) as tracked:
            moa(question="?")
    cost = 1000 * 0.15e-6 + 100 * 0.6e-6
    names = ("gpt_4o_mini/cost_usd", "models/openai/gpt-4o-mini/cost_usd", "total/cost_usd", "total/unpriced_calls")
    assert list(metrics(tracked, *names).values()) == [pytest.approx(cost)] * 3 + [1]
    assert "free/cost_usd" not in run_of(tracked).data.metrics


def test_failures_are_counted_and_shown(store: Path) -> None:
    lms = {"bad": FakeLM("bad", [dspy.lm15.RateLimitError("no")]), **cast("a", "judge")}
    with track(mixture(lms)) as tracked:
        mixture(lms)(question="?")
    assert metrics(tracked, "bad/failures", "total/failures", "degraded_share") == {
        "bad/failures": 1,
        "total/failures": 1,
        "degraded_share": 1,
    }
    errors = [(row["agent"], (row["error"] or "").partition("\n")[0]) for row in table(tracked)]
    assert errors == [("a", ""), ("bad", "LMRateLimitError: [bad] no")]


def test_a_call_without_an_answer_keeps_its_proposals(store: Path) -> None:
    lms = {**cast("a"), "judge": FakeLM("judge", lambda _: dspy.lm15.RateLimitError("no"))}
    moa = mixture(lms, limits=moa_dspy.Limits(strict=True))
    with track(moa) as tracked, pytest.raises(moa_dspy.AggregationFailed):
        moa(question="?")
    assert metrics(tracked, "questions", "unanswered") == {"questions": 1, "unanswered": 1}
    assert [(row["agent"], row["outputs.answer"], row["final.answer"]) for row in table(tracked)] == [
        ("a", "a", None),
        ("aggregator", None, None),
    ]


def test_evaluate_gives_the_score_and_the_oracle(store: Path) -> None:
    lms = {"a": FakeLM("a", knowing(0)), "b": FakeLM("b", knowing(1)), "judge": FakeLM("judge", knowing(0))}
    moa = mixture(lms)
    with track(moa) as tracked:
        dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=3)(moa)
    assert metrics(tracked, "score", "oracle", "questions") == {
        "score": pytest.approx(1 / 3, abs=1e-4),
        "oracle": pytest.approx(2 / 3),
        "questions": 3,
    }


def test_a_metric_that_asks_a_model_is_not_asked_again(store: Path) -> None:
    moa, critic = mixture(cast("a", "judge")), FakeLM("critic", lambda _: {"good": True})

    def judged(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
        with dspy.context(lm=critic):
            return bool(dspy.Predict("answer -> good: bool")(answer=prediction.answer).good)

    with track(moa) as tracked:
        dspy.Evaluate(devset=EXAMPLES, metric=judged)(moa)
    assert (critic.calls, metrics(tracked, "score", "program/calls")) == (3, {"score": 1, "program/calls": 3})
    assert "oracle" not in run_of(tracked).data.metrics


def test_your_own_numbers_stand(store: Path) -> None:
    with track(mixture(cast("a", "judge"))) as tracked:
        tracked.log_metrics({"score": 0.5, "50%": 2})
    assert metrics(tracked, "score", "50_") == {"score": 0.5, "50_": 2}


def test_what_was_chosen_stands_in_the_table(store: Path) -> None:
    moa = mixture(cast("a", "b", "judge"), strategy="selection")
    with track(moa) as tracked:
        chosen = moa(question="?").answer
    rows = table(tracked)
    assert [(row["agent"], row["chosen"]) for row in rows] == [("a", chosen == "a"), ("b", chosen == "b")]
    assert [row["final.answer"] for row in rows] == [chosen, chosen]
    assert [rows[0][name] for name in ("call", "inputs.question", "model", "layer", "sample")] == [1, "?", "a", 1, 1]


def test_a_long_table_is_cut_and_says_so(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProposalTable.__init__, "__defaults__", (3,))
    moa = mixture({"a": FakeLM("a", says("x" * 3000)), **cast("b", "judge")})
    with track(moa) as tracked:
        for _ in range(2):
            moa(question="?")
    assert len(table(tracked)) == 3 and run_of(tracked).data.tags["proposals"] == "the first 3 of 4 rows"
    assert table(tracked)[0]["outputs.answer"] == f"{'x' * 2000} [... 1000 characters more]"


@pytest.mark.parametrize(
    "data",
    [EXAMPLES, [dict(example.items()) for example in EXAMPLES], pandas.DataFrame([dict(e.items()) for e in EXAMPLES])],
    ids=["examples", "dicts", "pandas"],
)
def test_the_data_set_is_an_input(store: Path, data: Any) -> None:
    with track(mixture(cast("a", "judge")), dataset=data) as tracked:
        pass
    [held] = run_of(tracked).inputs.dataset_inputs
    assert json.loads(held.dataset.profile) == {"num_rows": 3, "num_elements": 6}
    assert [column["name"] for column in json.loads(held.dataset.schema)["mlflow_colspec"]] == ["question", "answer"]


def test_a_batch_is_counted(store: Path, tmp_path: Path) -> None:
    moa = mixture(cast("a", "b", "judge"))
    with track(moa) as tracked:
        summary = answer_all(moa, [{"question": f"q{n}"} for n in range(7)], tmp_path / "out.jsonl")
    names = ("total/calls", "total/prompt_tokens", "questions", "agreement")
    assert list(metrics(tracked, *names).values()) == [summary.usage.calls, 210, 7, 0.5]
    assert tracked.usage.prompt_tokens == summary.usage.prompt_tokens


class TestCompile:
    def compiled(self) -> tuple[Tracked, dict[str, FakeLM], Any]:
        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        lms["coach"] = FakeLM("coach", coach)
        moa = Setting().program(lms)
        optimizer = dspy.COPRO(prompt_model=lms["coach"], metric=right, breadth=2, depth=1)
        with track(moa, "qa") as tracked:
            tuned = optimizer.compile(moa, trainset=TRAIN, eval_kwargs={"num_threads": 3})
        return tracked, lms, tuned

    def test_tokens_are_those_of_the_engines(self, store: Path) -> None:
        tracked, lms, _ = self.compiled()
        agents = {"ada": "ada", "bo": "bo", "judge": "aggregator", "coach": "optimizer"}
        counted = {name: metrics(tracked, f"{agent}/prompt_tokens") for name, agent in agents.items()}
        assert counted == {name: {f"{agents[name]}/prompt_tokens": 10 * lm.calls} for name, lm in lms.items()}
        total = sum(lm.calls for lm in lms.values())
        assert metrics(tracked, "compile/calls", "total/calls") == {"compile/calls": total, "total/calls": total}
        assert lms["coach"].calls and "questions" not in run_of(tracked).data.metrics

    def test_the_optimizer_is_among_the_parameters(self, store: Path) -> None:
        tracked, _, _ = self.compiled()
        params = {name: value for name, value in run_of(tracked).data.params.items() if name.startswith("optimizer")}
        assert params == {
            "optimizer": "COPRO",
            "optimizer/metric": "right",
            "optimizer/breadth": "2",
            "optimizer/depth": "1",
            "optimizer/init_temperature": "1.4",
            "optimizer/prompt_model": "coach",
            "optimizer/track_stats": "false",
            "optimizer/trainset": "6 items",
            "optimizer/eval_kwargs/num_threads": "3",
        }

    def test_what_it_changed_is_the_next_version(self, store: Path) -> None:
        tracked, _, tuned = self.compiled()
        linked = json.loads(run_of(tracked).data.tags["mlflow.linkedPrompts"])
        changed = [prompt["name"].removeprefix("qa.") for prompt in linked if prompt["version"] == "2"]
        assert changed
        for name, predictor in tuned.named_predictors():
            version: Any = mlflow.genai.load_prompt(f"qa.{name}", version=2 if name in changed else 1)
            assert version.template.startswith(predictor.signature.instructions)
            assert version.commit_message == ("compiled by COPRO" if name in changed else None)
        folder = run_of(tracked).info.artifact_uri
        for name in changed:
            before, after = (
                mlflow.artifacts.load_text(f"{folder}/{part}/{name}.md") for part in ("prompts", "prompts_compiled")
            )
            assert before != after == mlflow.genai.load_prompt(f"qa.{name}", version=2).template

    def test_of_a_program_with_the_mixture_and_by_hand(self, store: Path) -> None:
        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        program: Any = Setting(nested=True).program(lms)
        no_program: Any = "qa"
        with track(program.moa, "qa") as tracked:
            tuned = dspy.LabeledFewShot(k=1).compile(program, trainset=TRAIN)
            tuned.moa.aggregator.program.synthesize.demos = []
            tracked.log_prompts(tuned, "by hand")
            with pytest.raises(ValueError, match="holds no copy of the mixture"):
                tracked.log_prompts(mixture(cast("a", "judge")))
            with pytest.raises(TypeError, match="not of a str"):
                tracked.log_prompts(no_program)
        judge: Any = [mlflow.genai.load_prompt("qa.aggregator.program.synthesize", version=n) for n in (1, 2, 3)]
        assert [prompt.commit_message for prompt in judge] == [None, "compiled by LabeledFewShot", "by hand"]
        assert judge[0].template == judge[2].template and "--- demo 1 ---" in judge[1].template
        assert mlflow.genai.load_prompt("qa.aggregator.program.synthesize", version=4, allow_missing=True) is None

    def test_gepas_own_mode_logs_into_the_run(self, store: Path) -> None:
        lms, writer = {name: role(name) for name in ("ada", "bo", "judge")}, FakeLM("coach", coach)
        moa = Setting().program(lms)
        optimizer = dspy.GEPA(
            metric=lambda *given: dspy.Prediction(score=right(*given[:2]), feedback="no"),
            reflection_lm=writer,
            max_metric_calls=20,
            use_mlflow=True,
            gepa_kwargs={"mlflow_attach_existing": True, "tracking_key_prefix": "gepa/"},
        )
        with track(moa) as tracked:
            optimizer.compile(moa, trainset=TRAIN, valset=TRAIN)
        found = run_of(tracked).data
        assert found.metrics["gepa/total_metric_calls"] >= 20
        assert found.metrics["optimizer/calls"] == writer.calls > 0
        assert len(mlflow.search_runs(output_format="list")) == 1


class TestComparison:
    def test_each_system_is_a_child(self, store: Path) -> None:
        lms = {"a": FakeLM("a", knowing(0, 1)), "b": FakeLM("b", knowing(1)), "judge": FakeLM("judge", knowing(0, 1))}
        moa = mixture(lms)
        with track(moa, "demo") as tracked:
            found = evaluate(moa, EXAMPLES, strategies=["synthesis", "selection"])
            tracked.log_comparison(found)
        runs = {run.info.run_name: run for run in mlflow.search_runs(output_format="list")}
        assert set(runs) == {"demo", *(system.name for system in found.systems)}
        assert {parent_of(run) for name, run in runs.items() if name != "demo"} == {tracked.run_id}
        child, row = runs["selection"].data, found.row("selection")
        assert child.params == {"system": "selection", "kind": "strategy", "models": "a, b, judge", "metric": "exact"}
        assert {name: child.metrics[name] for name in ("score", "score_low", "score_high", "questions")} == {
            "score": row.score,
            "score_low": row.interval.low,
            "score_high": row.interval.high,
            "questions": 3,
        }
        assert (child.metrics["calls_per_question"], child.metrics["prompt_tokens_per_question"]) == (
            row.calls,
            row.prompt_tokens,
        )
        assert "cost_usd_per_question" not in child.metrics
        assert metrics(tracked, "score", "oracle", "total/calls") == {
            "score": found.row("synthesis").score,
            "oracle": found.row("oracle").score,
            "total/calls": found.usage.calls,
        }
        assert metrics(tracked, "questions") == {"questions": 3}  # the mixture's own, without the other strategies'

    def test_of_nothing_is_nothing(self, store: Path) -> None:
        with track(mixture(cast("a", "judge"))) as tracked:
            tracked.log_comparison(comparison({"a": []}))
        assert len(mlflow.search_runs(output_format="list")) == 1 and tracked.run_id


class TestNesting:
    def test_under_an_active_run_it_is_a_child(self, store: Path) -> None:
        with mlflow.start_run() as outer, track(mixture(cast("a", "judge"))) as tracked:
            pass
        assert parent_of(run_of(tracked)) == outer.info.run_id
        assert mlflow.get_run(outer.info.run_id).info.status == "FINISHED"

    def test_so_is_one_in_another_and_both_count(self, store: Path) -> None:
        moa = mixture(cast("a", "judge"))
        with track(moa) as outer:
            moa(question="?")
            with track(moa) as inner:
                moa(question="?")
                assert active_id() == inner.run_id
            assert active_id() == outer.run_id
            mlflow.log_metric("mine", 1)
        assert parent_of(run_of(inner)) == outer.run_id
        assert (metrics(outer, "total/calls", "mine"), metrics(inner, "total/calls")) == (
            {"total/calls": 4, "mine": 1},
            {"total/calls": 2},
        )

    def test_two_threads_keep_apart(self, store: Path) -> None:
        found: dict[str, Tracked] = {}
        both = threading.Barrier(2)

        def work(name: str) -> None:
            moa = mixture(cast(name, "judge"))
            with track(moa, name) as tracked:
                both.wait()
                moa(question="?")
                mlflow.log_metric(f"mine_{name}", 1)
                both.wait()
            found[name] = tracked

        threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, other in (("a", "b"), ("b", "a")):
            names = set(metrics(found[name]))
            assert {f"{name}/calls", f"mine_{name}"} < names and not {f"{other}/calls", f"mine_{other}"} & names
            assert (metrics(found[name], "total/calls"), parent_of(run_of(found[name]))) == ({"total/calls": 2}, None)

    def test_two_tasks_keep_apart(self, store: Path) -> None:
        async def work(name: str, delay: float, inside: list[str]) -> Tracked:
            lms = {name: FakeLM(name, says(name), delay=delay), **cast("judge")}
            moa = mixture(lms)
            with track(moa, name) as tracked:
                inside.append(name)
                while len(inside) < 2:
                    await asyncio.sleep(0.01)
                await moa.acall(question="?")
                assert name == "a" or active_id() == tracked.run_id  # also once the other one has ended
            return tracked

        async def main() -> list[Tracked]:
            inside: list[str] = []
            return list(await asyncio.gather(work("a", 0, inside), work("b", 0.5, inside)))

        first, second = asyncio.run(main())
        assert (set(metrics(first)) & {"a/calls", "b/calls"}, set(metrics(second)) & {"a/calls", "b/calls"}) == (
            {"a/calls"},
            {"b/calls"},
        )
        assert (parent_of(run_of(first)), parent_of(run_of(second)), mlflow.active_run()) == (None, None, None)
        assert [run_of(one).info.status for one in (first, second)] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("a bug"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(1), "FAILED")]
)
def test_an_error_passes_and_marks_the_run(store: Path, error: BaseException, status: str) -> None:
    moa = mixture(cast("a", "judge"))
    with pytest.raises(type(error)) as raised, track(moa) as tracked:
        moa(question="?")
        raise error
    run = run_of(tracked)
    assert (raised.value, run.info.status, run.data.metrics["total/calls"]) == (error, status, 2)
    assert run.data.tags["error"] == f"{type(error).__name__}: {error}"
    assert mlflow.active_run() is None


def test_a_real_server_holds_it_all(server: str) -> None:
    moa = mixture(cast("a", "b", "judge"))
    with track(moa, "served", EXAMPLES) as tracked:
        dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=3)(moa)
        tracked.log_comparison(evaluate(moa, EXAMPLES, strategies=["synthesis"]))
    run = run_of(tracked)
    assert (run.info.status, run.data.metrics["total/calls"], len(table(tracked))) == ("FINISHED", 21, 12)
    assert len(mlflow.search_runs(output_format="list")) == 7
    prompt: Any = mlflow.genai.load_prompt("served.proposers.shared.predict", version=1)
    assert prompt.tags["role"] == "a, b"
    assert len(run.inputs.dataset_inputs) == 1


def test_beside_autolog_everything_goes_into_the_run(store: Path) -> None:
    lms = cast("a", "b", "judge")
    moa = mixture(lms)
    moa_dspy.autolog()
    with track(moa, "both") as tracked:
        dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=3)(moa)
    moa_dspy.autolog(disable=True)
    assert [run.info.run_id for run in mlflow.search_runs(output_format="list")] == [tracked.run_id]
    calls = sum(lm.calls for lm in lms.values())
    assert metrics(tracked, "total/calls", "total/prompt_tokens") == {
        "total/calls": calls,
        "total/prompt_tokens": 10 * calls,
    }
    assert run_of(tracked).data.metrics["eval"] == 0
