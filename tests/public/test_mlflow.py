"""Traces by role, runs exact to the token, prompts as versions, mixtures as models; a bad server costs one warning."""

import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.artifacts
import mlflow.genai
import pytest
from dspy.utils.callback import BaseCallback
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, both_ways, cast, mixture, says
from support.mlflow_server import broken_server, free_port, hanging_server
from support.mlflow_store import served
from support.mlflow_store import store as store
from support.mlflow_store import template as template
from support.mlflow_store import untracked as untracked
from support.openai_server import OpenAIServer, Reply
from support.rendering import render
from typer.testing import CliRunner

import moa_dspy
from moa_dspy import Agent, Limits, MoA, Strategy, Verdict, Voting
from moa_dspy.cli import app

CAPITAL = "What is the capital of Australia?"


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def knowing(name: str, *known: int) -> FakeLM:
    """Answers these of the examples rightly."""
    return FakeLM(name, lambda prompt: says(next((f"a{n}" for n in known if f"q{n}" in prompt), "no"))(prompt))


def traces() -> list[Any]:
    mlflow.flush_trace_async_logging()
    return list(mlflow.search_traces(return_type="list"))


def runs() -> dict[str, Any]:
    return {str(run.info.run_name): run for run in mlflow.search_runs(output_format="list")}


def run_of(tracked: Any) -> Any:
    return mlflow.get_run(tracked.run_id)


def table(tracked: Any, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = mlflow.load_table(name, run_ids=[str(tracked.run_id)]).to_dict("records")
    return rows


def parent(run: Any) -> Any:
    return run.data.tags.get("mlflow.parentRunId")


def simulated(**options: Any) -> MoA:
    return MoA(QA, ["simulated/alice", "simulated/bob", "simulated/carol"], "simulated/judge", **options)


# autolog.


@both_ways
def test_a_trace_names_the_roles_with_their_tokens(store: Path, ask: Any) -> None:
    moa_dspy.autolog()
    lms = {name: FakeLM(f"x/{name}", says(name), usage=(n, n)) for n, name in enumerate(("a", "b", "judge"), start=1)}
    ask(mixture(lms), question="?")
    [trace] = traces()
    names = [span.name for span in trace.data.spans]
    for role, model in (("a", "x/a"), ("b", "x/b"), ("aggregator", "x/judge")):
        assert any(role in name and model in name for name in names), names
    asked = [span for span in trace.data.spans if span.span_type == "CHAT_MODEL"]
    told = [span.attributes for span in asked]
    tokens = {each["mlflow.llm.model"]: each["mlflow.chat.tokenUsage"]["input_tokens"] for each in told}
    assert tokens == {"x/a": 1, "x/b": 2, "x/judge": 3} and trace.info.token_usage["input_tokens"] == 6
    assert trace.info.cost is None


def test_autolog_twice_is_once_and_off_leaves_everything_as_it_was(store: Path) -> None:
    mine = BaseCallback()
    dspy.configure(callbacks=[mine])
    settings = dict(dspy.settings.config)
    moa_dspy.autolog()
    moa_dspy.autolog()
    mixture(cast("a", "judge"))(question="?")
    moa_dspy.autolog(disable=True)
    assert dict(dspy.settings.config) == settings
    mixture(cast("a", "judge"))(question="?")
    assert len(traces()) == 1


def test_evaluations_and_optimizers_are_runs(store: Path) -> None:
    moa_dspy.autolog()
    lms = cast("a", "b", "judge")
    moa = mixture(lms)
    dspy.Evaluate(devset=EXAMPLES, metric=lambda *_: 1.0, num_threads=2)(moa)
    dspy.BootstrapFewShotWithRandomSearch(lambda *_: 1.0, num_candidate_programs=1, num_threads=1).compile(
        moa, trainset=EXAMPLES
    )
    found = runs()
    optimizer = found.pop("BootstrapFewShotWithRandomSearch")
    assert {run.info.status for run in [optimizer, *found.values()]} == {"FINISHED"} and mlflow.active_run() is None
    assert optimizer.data.metrics["calls"] == sum(lm.calls for lm in lms.values()) - 9
    [alone] = [run for run in found.values() if parent(run) is None]
    assert (alone.data.metrics["score"], alone.data.metrics["calls"]) == (1, 9)


# track.


def test_a_run_is_exact_to_the_token(store: Path) -> None:
    lms = {"a": FakeLM("x/a", says("a"), usage=(1, 2)), "judge": FakeLM("judge", says("a"), usage=(3, 4))}
    with moa_dspy.track(mixture(lms), name="qa", dataset=EXAMPLES) as tracked:
        for _ in range(2):
            mixture(lms)(question="?")
        tracked.log_metrics({"mine": 0.5})
    run = run_of(tracked)
    metrics, params = run.data.metrics, run.data.params
    assert (run.info.run_name, run.info.status, mlflow.active_run()) == ("qa", "FINISHED", None)
    totals = {"calls": 4, "prompt_tokens": 8, "completion_tokens": 12, "unpriced_calls": 4, "questions": 2}
    assert metrics.items() >= {**totals, "agreement": 1, "degraded_share": 0, "mine": 0.5}.items()
    assert "cost_usd" not in metrics and (params["strategy"], params["proposers"]) == ("synthesis", "x/a")
    rows = [(row["agent"], row["model"], row["calls"], row["prompt_tokens"]) for row in table(tracked, "calls.json")]
    assert rows == [("a", "x/a", 2, 2), ("aggregator", "judge", 2, 6)]
    assert (tracked.usage.calls, tracked.usage.prompt_tokens, len(run.inputs.dataset_inputs)) == (4, 8, 1)


def test_scores_failures_and_comparisons_are_in_it(store: Path) -> None:
    lms = {"a": knowing("a", 0), "b": knowing("b", 1), "judge": knowing("judge", 0)}
    moa = mixture(lms)
    with moa_dspy.track(moa) as tracked:
        dspy.Evaluate(devset=EXAMPLES, metric=exact, num_threads=3)(moa)
    metrics = run_of(tracked).data.metrics
    assert [metrics["score"], metrics["oracle"]] == pytest.approx([1 / 3, 2 / 3], abs=1e-3)
    with moa_dspy.track(moa, "compared") as tracked:
        found: Any = moa_dspy.evaluate(moa, EXAMPLES, strategies=["synthesis", "selection"])
        tracked.log_comparison(found)
    children = {name: run for name, run in runs().items() if parent(run) == tracked.run_id}
    assert {name: run.data.metrics["score"] for name, run in children.items()} == {
        row.name: row.score for row in found.rows
    }
    bad = FakeLM("bad", [dspy.lm15.RateLimitError("no")])
    with moa_dspy.track(mixture({"bad": bad, **cast("a", "judge")})) as tracked:
        mixture({"bad": bad, **cast("a", "judge")})(question="?")
    metrics = run_of(tracked).data.metrics
    assert (metrics["failed_calls"], metrics["degraded_share"]) == (1, 1)


def test_a_compile_is_counted_and_its_prompts_are_the_next_versions(store: Path) -> None:
    lms = {name: FakeLM(name, says("a0")) for name in ("a", "b", "judge")}
    tips = iter(range(99))
    coach = FakeLM("coach", lambda prompt: {"new_instruction": f"Tip {next(tips)}."})
    moa = mixture(lms, use_specialized_prompts=True)
    scores = iter(range(10_000))
    metric: Any = lambda *_: dspy.Prediction(score=next(scores) / 10_000, feedback="more")  # noqa: E731
    optimizer = dspy.GEPA(metric, reflection_lm=coach, max_metric_calls=20, num_threads=1)
    with moa_dspy.track(moa, "qa") as tracked:
        tuned: Any = optimizer.compile(moa, trainset=EXAMPLES, valset=EXAMPLES)
    spent = sum(lm.calls for lm in [*lms.values(), coach])
    assert tracked.usage.calls == spent == run_of(tracked).data.metrics["calls"]
    changed = [name for name, part in tuned.named_predictors() if "Tip" in part.signature.instructions]
    assert changed
    for name, part in tuned.named_predictors():
        version: Any = mlflow.genai.load_prompt(f"mixtures.qa.{name}", version=2 if name in changed else 1)
        assert version.template.startswith(part.signature.instructions)


def test_runs_nest_and_an_error_marks_them(store: Path) -> None:
    moa, inner = mixture(cast("a", "judge")), None
    with pytest.raises(ValueError), moa_dspy.track(moa) as outer:
        with moa_dspy.track(moa) as inner:
            moa(question="?")
        raise ValueError("a bug")
    assert inner is not None
    assert parent(run_of(inner)) == outer.run_id and mlflow.active_run() is None
    statuses = [run_of(run).info.status for run in (outer, inner)]
    assert statuses == ["FAILED", "FINISHED"] and (outer.usage.calls, inner.usage.calls) == (2, 2)


def test_prompts_get_a_version_where_they_changed(store: Path) -> None:
    moa: Any = mixture(cast("a", "b", "judge"))
    first = moa_dspy.register_prompts(moa, "qa")
    assert moa_dspy.register_prompts(moa.deepcopy(), "qa") == first == dict.fromkeys(first, 1)
    part = moa.predictors()[0]
    part.signature = part.signature.with_instructions("Say {{x}} and {y}, «ü» 日本.")
    second = moa_dspy.register_prompts(moa, "qa")
    [changed] = [name for name, version in second.items() if version == 2]
    prompt: Any = mlflow.genai.load_prompt(changed, version=2)
    assert prompt.template == "Say {{x}} and {y}, «ü» 日本." and len(first) == 2


# As a model.


class Own(Strategy):
    name = "own"

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


def test_a_model_is_the_mixture(store: Path) -> None:
    moa: Any = simulated(use_specialized_prompts=True, strategy=Voting(weights={"bob": 2.0}))
    part = moa.predictors()[0]
    part.signature = part.signature.with_instructions("Look it up.")
    with mlflow.start_run() as run:
        info = moa_dspy.log_model(
            moa, "capitals", input_example={"question": CAPITAL}, registered_model_name="capitals"
        )
    mlflow.MlflowClient().set_registered_model_alias("capitals", "best", "1")
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=info.model_uri))
    uris = [f"runs:/{run.info.run_id}/capitals", "models:/capitals/1", "models:/capitals@best", str(folder)]
    for uri in (info.model_uri, *uris):
        back: Any = moa_dspy.load_model(uri)
        assert back.predictors()[0].signature.instructions == "Look it up." and back.strategy.weights == {"bob": 2.0}
        assert back(question=CAPITAL) == moa(question=CAPITAL)
    assert [path.name for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle")] == []


@pytest.mark.parametrize(
    ("moa", "words"),
    [
        (lambda: MoA(QA, [Agent("simulated/alice", dspy.Predict(QA), name="doer")], strategy="voting"), "doer"),
        (lambda: simulated(strategy=Own()), "own"),
        (lambda: dspy.Predict(QA), "MoA.*Predict"),
    ],
    ids=["program", "strategy", "no mixture"],
)
def test_what_no_file_brings_back_is_refused_with_the_reason(store: Path, moa: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=f"(?s){words}"):
        moa_dspy.log_model(moa(), "refused")


def test_rows_are_answered_side_by_side_each_with_its_account(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key-4f1c9a")

    def reply(request: Any) -> Reply:
        if "q-1" in request.prompt:
            return Reply("wrong key: planted-key-4f1c9a", status=401)
        number = request.prompt.partition("]]\nq")[2].split()[0]
        return Reply(render("chat", {"reasoning": "so", "answer": number}))

    with OpenAIServer(reply, latency=0.1) as provider:
        agents = [Agent(f"openai/{name}", api_base=provider.url, cache=False, num_retries=0) for name in "abc"]
        moa = MoA("question -> answer: int", agents, strategy="voting", limits=Limits(min_proposals=2))
        model = mlflow.pyfunc.load_model(moa_dspy.log_model(moa, "votes").model_uri)
        answered = model.predict([{"question": question} for question in ("q1", "q-1", None, "q2")])
        seven, none = served(model, {"inputs": [{"question": "q7"}, {"question": "q-1"}]})
    assert [row["answer"] for row in answered["outputs"]] == [1, None, None, 2] and provider.peak > 3
    first, failed, malformed, _ = answered["account"]
    assert {key: first[key] for key in ("error", "agreement", "degraded", "cost_usd", "unpriced_calls")} == {
        "error": None,
        "agreement": 1.0,
        "degraded": False,
        "cost_usd": None,
        "unpriced_calls": 3,
    }
    said = {"answer": 1}
    assert first["seconds"] > 0 and json.loads(first["proposals"]) == {"a": said, "b": said, "c": said}
    assert failed["error"].startswith("TooFewProposals") and "question" in malformed["error"]
    assert "planted" not in str(failed)
    assert (seven["outputs"], seven["account"]["error"], none["outputs"]["answer"]) == ({"answer": 7}, None, None)


# Secrets, and bad servers.


def test_no_key_is_written_anywhere(
    store: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_SERVICE_TOKEN", "planted-environment")
    caplog.set_level(logging.INFO)

    def reply(request: Any) -> Reply:
        if request.model == "bad":
            return Reply("no: planted-key, planted-header", status=401)
        return Reply(render("chat", {"reasoning": "so", "answer": "My key is planted-environment."}))

    with OpenAIServer(reply) as server:
        access: dict[str, Any] = {
            "api_key": "planted-key",
            "extra_headers": {"Authorization": "Bearer planted-header"},
            "aws_secret_access_key": "planted-aws",
        }
        access |= {"api_base": server.url, "cache": False, "num_retries": 0}
        lms = [dspy.LM(f"openai/{name}", **access) for name in ("a", "b", "bad")]
        moa = MoA(QA, lms, lms[0])
        moa_dspy.autolog()
        with pytest.raises(RuntimeError), moa_dspy.track(moa, dataset=EXAMPLES):
            moa(question="?")
            dspy.LabeledFewShot(k=1).compile(moa, trainset=EXAMPLES)
            raise RuntimeError("refused: planted-key")
        with pytest.warns(UserWarning, match="made without"):
            moa_dspy.log_model(moa, "real", input_example={"question": "?"}, registered_model_name="real")
    assert len(traces()) == 1
    moa_dspy.autolog(disable=True)
    out = capfd.readouterr()
    held = b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())
    assert b"My key is ***." in held and b"planted" not in held
    assert "planted" not in caplog.text + out.out + out.err


@contextmanager
def no_server() -> Any:
    yield f"http://me:hidden-word@127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    "server",
    [no_server, hanging_server, broken_server, lambda: nullcontext("gopher://somewhere")],
    ids=["down", "hanging", "broken", "wrong"],
)
def test_a_bad_server_costs_a_warning_and_a_bounded_time_and_never_an_answer(
    untracked: None,
    server: Callable[[], AbstractContextManager[str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    moa, started = mixture(cast("a", "judge")), time.monotonic()
    with server() as url:
        mlflow.set_tracking_uri(url)
        with moa_dspy.track(moa, dataset=EXAMPLES) as tracked:
            assert moa(question="?").answer == "judge"
            tracked.log_metrics({"score": 1})
        moa_dspy.autolog()
        assert moa(question="?").answer == "judge"
        moa_dspy.autolog(disable=True)
    assert (tracked.run_id, tracked.usage.calls, mlflow.active_run()) == (None, 2, None)
    told = [record.getMessage() for record in caplog.records if record.name.startswith("moa_dspy")]
    shown = url.replace("me:hidden-word@", "***@")
    assert 1 <= len(told) <= 2 and all(shown in text for text in told) and time.monotonic() - started < 25
    assert "hidden-word" not in caplog.text


# On the command line.


def test_the_command_line_tracks_with_one_flag(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_ID", raising=False)  # which set_experiment() leaves
    rows = [{"question": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(4)]
    Path("data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for command in ("run data.jsonl -o answers.jsonl -s voting", "eval data.jsonl -s voting"):
        done = CliRunner().invoke(app, [*command.split(), "--mlflow", "--json"])
        assert done.exit_code == 0 and "moa-dspy ui" in done.stderr
    experiment: Any = mlflow.get_experiment_by_name("moa-dspy")
    tracked = {run.info.run_name: run for run in mlflow.MlflowClient().search_runs([experiment.experiment_id])}
    assert tracked["run"].data.metrics["calls"] == 16
    scores = {row["name"]: row["score"] for row in json.loads(done.stdout)["rows"]}
    children = {name: run for name, run in tracked.items() if parent(run) == tracked["eval"].info.run_id}
    assert {name: run.data.metrics["score"] for name, run in children.items()} == scores
