"""A trace says who was asked, with which model, for how many tokens and how much money."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from dspy.lm15 import RateLimitError, Response
from mlflow.entities import Span, Trace
from support.fake_lm import FakeLM
from support.mixtures import QA, both_ways, cast, mixture, says

import moa_dspy
from moa_dspy import Agent, MoA
from moa_dspy.tracking.autolog import flush

USAGE, COST = "mlflow.chat.tokenUsage", "mlflow.llm.cost"


@pytest.fixture(autouse=True)
def on(store: Path) -> Iterator[None]:
    moa_dspy.autolog()
    yield
    moa_dspy.autolog(disable=True)


def trace() -> Trace:
    [only] = traces()
    return only


def traces() -> list[Trace]:
    flush()
    found: Any = mlflow.search_traces(return_type="list")
    return list(found)


def lm_spans(found: Trace) -> dict[str, Span]:
    return {span.name: span for span in found.data.spans if span.span_type == "CHAT_MODEL"}


class Priced(FakeLM):
    """A fake whose engine says what a call costs."""

    def __init__(self, name: str, cost: float, usage: tuple[int, int]) -> None:
        super().__init__(name, says(name), usage=usage)
        self._fake.respond = _priced(self._fake.respond, cost)  # type: ignore[method-assign]


def _priced(respond: Any, cost: float) -> Any:
    def priced(*args: Any) -> Response:
        response: Response = respond(*args)
        object.__setattr__(response, "provider_data", {"response_cost": cost})
        return response

    return priced


@both_ways
def test_spans_are_named_by_role_and_model(ask: Any) -> None:
    ask(MoA(QA, ["simulated/alice", "simulated/bob"], "simulated/judge", layers=2), question="?")
    found = trace()
    assert found.info.tags["mlflow.traceName"] == "MoA (synthesis)"
    assert sorted(span.name for span in found.data.spans if "moa.role" in span.attributes) == sorted(
        [
            "layer 1: proposer alice (simulated/alice)",
            "layer 1: proposer bob (simulated/bob)",
            "layer 2: proposer alice (simulated/alice)",
            "layer 2: proposer bob (simulated/bob)",
            "aggregator (simulated/judge)",
            *["simulated/alice", "simulated/bob"] * 2,
            "simulated/judge",
        ]
    )
    last = [span for span in found.data.spans if span.name == "simulated/bob"][-1]
    seen = {name: value for name, value in last.attributes.items() if name.startswith("moa.")}
    assert seen == {"moa.role": "proposer", "moa.agent": "bob", "moa.model": "simulated/bob", "moa.layer": 2}


def test_a_comparison_is_one_trace_per_question() -> None:
    moa = MoA(QA, ["simulated/alice", "simulated/bob"], "simulated/judge")
    example = dspy.Example(question="What is 17 * 23?", answer="391").with_inputs("question")
    moa_dspy.evaluate(moa, [example], strategies=["synthesis"], concurrency=1)
    found = trace()
    names = [span.name for span in found.data.spans if "moa.role" in span.attributes and span.span_type == "CHAIN"]
    assert sorted(names) == [
        "agent judge (simulated/judge)",
        "aggregator (simulated/judge)",
        "proposer alice (simulated/alice)",
        "proposer bob (simulated/bob)",
    ]
    assert set(found.data.spans[0].outputs) == {"alice", "bob", "judge", "plain vote", "synthesis", "oracle"}


@both_ways
def test_tokens_and_cost_are_on_each_call_and_add_up(ask: Any) -> None:
    ask(MoA(QA, [Priced("a", 0.5, (10, 5)), Priced("b", 0.25, (20, 7))], Priced("judge", 2.0, (40, 9))), question="?")
    found = trace()
    assert {name: (span.attributes[USAGE], span.attributes[COST]) for name, span in lm_spans(found).items()} == {
        "a": ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}, {"total_cost": 0.5}),
        "b": ({"input_tokens": 20, "output_tokens": 7, "total_tokens": 27}, {"total_cost": 0.25}),
        "judge": ({"input_tokens": 40, "output_tokens": 9, "total_tokens": 49}, {"total_cost": 2.0}),
    }
    assert found.info.token_usage == {"input_tokens": 70, "output_tokens": 21, "total_tokens": 91}
    assert found.info.cost is not None and found.info.cost["total_cost"] == 2.75


def test_a_mixture_inside_a_mixture_is_counted_once() -> None:
    inner = mixture(cast("a", "b", "inner"))
    MoA(QA, [Agent(program=inner, name="panel"), FakeLM("c", says("c"))], FakeLM("judge", says("j")))(question="?")
    found = trace()
    assert found.info.token_usage == {"input_tokens": 50, "output_tokens": 25, "total_tokens": 75}
    assert {name: span.attributes["moa.agent"] for name, span in lm_spans(found).items()} == {
        "a": "a",
        "b": "b",
        "inner": "aggregator",
        "c": "c",
        "judge": "aggregator",
    }


def test_an_unknown_cost_stays_absent() -> None:
    mixture(cast("a", "b", "judge"))(question="?")
    found = trace()
    assert all(COST not in span.attributes for span in found.data.spans)
    assert found.info.cost is None


def test_a_hit_in_the_cache_has_no_usage(cached: None) -> None:
    moa = mixture(cast("a", "judge", cache=True))
    moa(question="?")
    moa(question="?")
    again, first = traces()
    assert [USAGE in span.attributes for span in lm_spans(first).values()] == [True, True]
    assert [USAGE in span.attributes for span in lm_spans(again).values()] == [False, False]
    assert again.info.token_usage is None


@pytest.mark.parametrize("settings", [{}, {"disable_history": True}, {"max_history_size": 0}], ids=str)
def test_what_was_paid_is_there_when_a_call_fails(settings: dict[str, Any]) -> None:
    broken = FakeLM("a", [RateLimitError("slow down")])
    with dspy.context(**settings):
        MoA(QA, [broken, FakeLM("b", says("b"))], FakeLM("judge", says("j")))(question="?")
    found = lm_spans(trace())
    assert {name: span.attributes.get(USAGE, {}).get("total_tokens") for name, span in found.items()} == {
        "a": None,
        "b": 15,
        "judge": 15,
    }
    assert found["a"].status.status_code == "ERROR"


def test_a_mixture_that_raises_has_its_tokens() -> None:
    judge = FakeLM("judge", [RateLimitError("slow down")] * 2)
    with pytest.raises(moa_dspy.AggregationFailed):
        MoA(QA, [FakeLM("a", says("a")), FakeLM("b", says("b"))], judge, limits=moa_dspy.Limits(strict=True))(
            question="?"
        )
    assert trace().info.token_usage == {"input_tokens": 20, "output_tokens": 10, "total_tokens": 30}


def test_outside_of_mixtures_too() -> None:
    lm = FakeLM("reflection", ["one", "two"])
    lm("hello")
    with dspy.context(lm=FakeLM("plain", [{"answer": "x"}])):
        dspy.Predict(QA)(question="?")
    usage = {name: span.attributes[USAGE]["total_tokens"] for each in traces() for name, span in lm_spans(each).items()}
    assert usage == {"reflection": 15, "plain": 15}


def test_threads_and_tasks_keep_their_traces_apart() -> None:
    moas = [MoA(QA, list(cast(f"{name}1", f"{name}2").values()), FakeLM(f"{name}3", says("j"))) for name in "ab"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: moas[number % 2](question=str(number)), range(6)))

    async def both() -> None:
        await asyncio.gather(*(moa.acall(question="async") for moa in moas))

    asyncio.run(both())
    found = [sorted(lm_spans(each)) for each in traces()]
    assert sorted(found) == [["a1", "a2", "a3"]] * 4 + [["b1", "b2", "b3"]] * 4


def test_a_bug_in_a_callback_costs_a_span_and_not_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    moa = mixture(cast("a", "b", "judge"))
    [callback] = dspy.settings.callbacks
    callback.mask.data = None
    assert moa(question="?").answer == "judge"
    assert moa(question="?").answer == "judge"
    assert [record.getMessage()[:26] for record in caplog.records] == ["A part of a trace is missi"]
