"""Traces as a person reads them: who was asked what, at what cost, and no secret."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow import tracing
from mlflow.tracing.client import TracingClient
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, both_ways, cast, mixture, says
from support.openai_server import OpenAIServer, Reply, Tokens
from support.rendering import render

import moa_dspy
from moa_dspy import Agent, Limits, MoA
from moa_dspy.tracking import flush

COST = 1000 * 0.15e-6 + 100 * 0.6e-6


@pytest.fixture(autouse=True)
def on(store: Path) -> None:
    moa_dspy.autolog()


def traces() -> list[Any]:
    flush()
    return list(mlflow.search_traces(return_type="list"))


def trace() -> Any:
    [found] = traces()
    return found


def names(found: Any) -> list[str]:
    return sorted(span.name for span in found.data.spans)


def priced(provider: OpenAIServer, **options: Any) -> dspy.LM:
    return dspy.LM("openai/gpt-4o-mini", api_base=provider.url, api_key="planted-key", cache=False, **options)


def provider() -> OpenAIServer:
    text = render("chat", {"reasoning": "r", "answer": "x", "choice": "P1"})
    return OpenAIServer(lambda request: Reply(text, usage=Tokens(prompt=1000, completion=100)))


@both_ways
def test_spans_are_named_by_role_and_model(ask: Any) -> None:
    ask(mixture(cast("a", "b", "judge"), num_proposals_per_model=2, layers=2), question="?")
    layer = [f"layer {number}: proposer {name} ({name})" for number in (1, 2) for name in "aabb"]
    assert names(trace()) == sorted([*layer, "MoA (synthesis)", "aggregator (judge)"])


@both_ways
def test_an_agents_one_call_is_its_span_and_more_of_them_stand_below(ask: Any) -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict(QA)

        def forward(self, question: str) -> Any:
            self.ask(question=question)
            return self.ask(question=question)

    garbled = FakeLM("judge", ["no fields", {"reasoning": "so", "answer": "x"}])
    ask(MoA(QA, [*cast("a").values(), Agent(FakeLM("b", says("b")), Twice())], garbled), question="?")
    spans = {span.span_id: span for span in trace().data.spans}
    kinds = [(s.name, s.span_type, spans[s.parent_id].name) for s in spans.values() if s.parent_id is not None]
    assert sorted(kinds) == [
        ("Twice.forward", "CHAIN", "proposer b (b)"),
        ("aggregator (judge)", "AGENT", "MoA (synthesis)"),
        ("b", "CHAT_MODEL", "Twice.forward"),
        ("b", "CHAT_MODEL", "Twice.forward"),
        ("judge", "CHAT_MODEL", "aggregator (judge)"),
        ("judge", "CHAT_MODEL", "aggregator (judge)"),
        ("proposer a (a)", "CHAT_MODEL", "MoA (synthesis)"),
        ("proposer b (b)", "AGENT", "MoA (synthesis)"),
    ]
    one = next(span for span in spans.values() if span.name == "proposer a (a)")
    assert (one.inputs["messages"][1]["role"], one.outputs) == ("user", {"reasoning": "so", "answer": "a"})
    assert (one.attributes["moa.role"], one.attributes["mlflow.llm.model"]) == ("proposer", "a")
    assert all(span.start_time_ns - next(iter(spans.values())).start_time_ns >= 0 for span in spans.values())


def test_a_reply_that_cannot_be_read_is_shown() -> None:
    lms = {"bad": FakeLM("bad", lambda prompt: "no fields"), **cast("a", "judge")}
    with dspy.context(adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        mixture(lms)(question="?")
    [span] = [span for span in trace().data.spans if span.name == "proposer bad (bad)"]
    assert (span.status.status_code, span.outputs) == ("ERROR", ["no fields"])


def test_what_is_not_sampled_is_not_lost(caplog: pytest.LogCaptureFixture) -> None:
    tracing.disable()
    mixture(cast("a", "judge"))(question="?")
    tracing.enable()
    assert (traces(), [record for record in caplog.records if record.name.startswith("moa_dspy")]) == ([], [])


def test_the_root_says_what_came_of_it() -> None:
    lms = {"bad": FakeLM("bad", [dspy.lm15.RateLimitError("no")]), **cast("a", "judge")}
    mixture(lms, strategy="selection")(question="?")
    found = trace()
    root = found.data.spans[0].attributes
    assert {name: root[f"moa.{name}"] for name in ("agreement", "degraded", "failures", "selected")} == {
        "agreement": 0.5,
        "degraded": True,
        "failures": ["bad: LMRateLimitError"],
        "selected": "a",
    }
    tags = {name: found.info.tags[f"moa.{name}"] for name in ("degraded", "strategy", "unpriced_calls")}
    assert tags == {"degraded": "true", "strategy": "selection", "unpriced_calls": "1"}


@both_ways
def test_tokens_and_costs_are_exact_side_by_side(ask: Any) -> None:
    with provider() as served:
        moa = MoA(QA, [priced(served), priced(served, temperature=0.5)], priced(served))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: ask(moa, question=str(number)), range(8)))
    found = traces()
    assert [one.info.token_usage["total_tokens"] for one in found] == [3300] * 8
    assert [one.info.cost["total_cost"] for one in found] == [pytest.approx(3 * COST)] * 8


def test_a_sum_that_was_overwritten_is_mended() -> None:
    with provider() as served:
        MoA(QA, [priced(served)], priced(served))(question="?")
    mlflow.flush_trace_async_logging()
    [info] = [one.info for one in mlflow.search_traces(return_type="list")]
    lacking = {"mlflow.trace.cost": '{"total_cost": 0.1}', "mlflow.trace.tokenUsage": '{"input_tokens": 1}'}
    info.trace_metadata.update(lacking)
    TracingClient().start_trace(info)
    mended = trace().info
    assert (mended.token_usage["total_tokens"], mended.cost["total_cost"]) == (2200, pytest.approx(2 * COST))
    assert mended.tags["moa.strategy"] == "synthesis"


def test_all_details_if_asked() -> None:
    moa_dspy.autolog(detail="full")
    mixture(cast("a", "judge"))(question="?")
    details = [span.name for span in trace().data.spans if span.span_type in ("PARSER", "CHAT_MODEL")]
    assert sorted(details) == [
        "ChatAdapter.format",
        "ChatAdapter.format",
        "ChatAdapter.parse",
        "ChatAdapter.parse",
        "a",
        "judge",
    ]
    wrong: Any = "most"
    with pytest.raises(ValueError, match="There are 'roles' and 'full'"):
        moa_dspy.autolog(detail=wrong)


def test_a_calls_cost_has_its_parts() -> None:
    with provider() as served:
        priced(served)("hello")
        with dspy.context(lm=priced(served)):
            dspy.ChainOfThought(QA)(question="?")
        MoA(QA, [priced(served)], strategy="voting")(question="?")
    spans = [span for one in traces() for span in one.data.spans if span.span_type == "CHAT_MODEL"]
    parts = {"input_cost": 1000 * 0.15e-6, "output_cost": 100 * 0.6e-6, "total_cost": COST}
    assert [span.attributes["mlflow.llm.cost"] for span in spans] == [pytest.approx(parts)] * 3


def test_an_unknown_cost_stays_absent() -> None:
    mixture(cast("a", "judge"))(question="?")
    found = trace()
    assert "mlflow.trace.cost" not in found.info.trace_metadata
    assert found.info.token_usage["input_tokens"] == 20


def test_a_hit_in_the_cache_is_marked_and_costs_nothing(cached: None) -> None:
    moa = mixture(cast("a", "judge", cache=True))
    moa(question="?")
    moa(question="?")
    latest, _ = traces()
    assert [span.attributes.get("moa.cache_hit") for span in latest.data.spans] == [None, True, True]
    assert not latest.info.token_usage


def test_what_was_paid_is_there_when_a_call_fails() -> None:
    lms = {**cast("a"), "judge": FakeLM("judge", lambda _: dspy.lm15.RateLimitError("no"))}
    with pytest.raises(moa_dspy.AggregationFailed):
        mixture(lms, limits=Limits(on_degraded="raise"))(question="?")
    found = trace()
    assert (found.info.state.value, found.info.token_usage["input_tokens"]) == ("ERROR", 10)


def test_a_late_proposer_is_marked_and_its_trace_readable() -> None:
    lms = {"slow": FakeLM("slow", says("s"), delay=1.0), **cast("a", "judge")}
    mixture(lms, limits=Limits(proposer_timeout=0.2))(question="?")
    time.sleep(1.5)
    late = {span.name: span.attributes.get("moa.late") for span in trace().data.spans}
    assert late["proposer slow (slow)"] is True and late["proposer a (a)"] is None


def test_a_mixture_inside_a_mixture_is_one_trace_with_each_cost_once() -> None:
    with provider() as served:
        inner = MoA(QA, [priced(served)], priced(served))
        MoA(QA, [inner, priced(served)], priced(served))(question="?")
    found = trace()
    assert json.loads(found.info.trace_metadata["mlflow.trace.cost"])["total_cost"] == pytest.approx(4 * COST)


def test_threads_and_tasks_keep_their_traces_apart() -> None:
    moa = mixture(cast("a", "b", "judge"))

    async def many() -> None:
        await asyncio.gather(*(moa.acall(question=f"t{number}") for number in range(5)))

    asyncio.run(many())
    dspy.Parallel(num_threads=3, disable_progress_bar=True)([(moa, {"question": f"p{n}"}) for n in range(5)])
    found = traces()
    assert sorted(one.data.spans[0].inputs["question"] for one in found) == sorted(
        [*(f"t{n}" for n in range(5)), *(f"p{n}" for n in range(5))]
    )
    assert {len(one.data.spans) for one in found} == {4}


def test_scores_of_an_evaluation_are_on_its_traces() -> None:
    def metric(example: Any, prediction: Any, trace: Any = None) -> float:
        return 0.5

    dspy.Evaluate(devset=EXAMPLES, metric=metric, num_threads=2)(mixture(cast("a", "judge")))
    found = [[(one.name, one.value) for one in each.info.assessments] for each in traces()]
    assert found == [[("metric", 0.5)]] * 3


def test_mlflows_other_autologging_doubles_nothing() -> None:
    import litellm
    import mlflow.litellm as beside

    beside.autolog()
    try:
        with provider() as served, dspy.context(lm=None):
            lm = priced(served, engine="litellm") if "engine" in dspy.LM.__init__.__annotations__ else priced(served)
            MoA(QA, [lm], strategy="voting")(question="?")
    finally:
        beside.autolog(disable=True)
        litellm.callbacks = []
    found = next(one for one in traces() if one.data.spans[0].name.startswith("MoA"))
    assert json.loads(found.info.trace_metadata["mlflow.trace.cost"])["total_cost"] == pytest.approx(COST)
    costs = [span.attributes.get("mlflow.llm.cost", {}).get("total_cost", 0) for span in found.data.spans]
    assert sum(costs) == pytest.approx(COST)
