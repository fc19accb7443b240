import asyncio
import threading
import time
from collections import Counter
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Response, TextPart
from dspy.lm15 import Usage as Tokens
from support.fake_lm import FakeLM
from support.mixtures import QA, Ask, both_ways, cast, echo, every_way, mixture, says
from support.openai_server import OpenAIServer, Reply
from support.openai_server import Tokens as Billed
from support.rendering import render

from moa_dspy import Agent, LMCall, MoA, Usage
from moa_dspy.usage import metered


def row(agent: str, model: str | None = None, **columns: Any) -> dict[str, Any]:
    """A row of the account, without its seconds."""
    call = LMCall(agent=agent, model=model or agent, **{"prompt_tokens": 10, "completion_tokens": 5, **columns})
    return call.model_dump(exclude={"seconds"})


def rows(prediction: Any) -> list[dict[str, Any]]:
    return [call.model_dump(exclude={"seconds"}) for call in prediction.metadata.calls]


class Tracks(dspy.Module):
    """A proposer that tracks its usage by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)
        self.tokens: dict[str, Any] = {}

    def forward(self, question: str) -> Any:
        with dspy.track_usage() as tracker:
            prediction = self.answer(question=question)
        self.tokens = tracker.get_total_tokens()
        return prediction


class FansOut(dspy.Module):
    """A proposer that uses dspy.Parallel."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)

    def forward(self, question: str) -> Any:
        run = dspy.Parallel(num_threads=3, disable_progress_bar=True)
        return run([(self.answer, {"question": f"{question}{n}"}) for n in range(3)])[0]


class TestRows:
    @every_way
    def test_one_for_each_call_in_declared_order(self, ask: Ask) -> None:
        lms = {
            "a": FakeLM("a", says("a"), usage=(1, 2), delay=0.1),
            "b": FakeLM(
                "b", says("b"), usage=Tokens(input_tokens=30, output_tokens=40, cache_read_tokens=7, reasoning_tokens=8)
            ),
            "judge": FakeLM("judge", says("j"), usage=(5, 6)),
        }
        pred = ask(mixture(lms), question="?")
        assert rows(pred) == [
            row("a", prompt_tokens=1, completion_tokens=2),
            row("b", prompt_tokens=30, completion_tokens=40, cached_tokens=7, reasoning_tokens=8),
            row("aggregator", "judge", prompt_tokens=5, completion_tokens=6),
        ]
        assert 0.1 <= pred.metadata.calls[0].seconds < 1 and pred.metadata.calls[1].seconds < 0.1

    @every_way
    def test_of_the_cache_cost_nothing(self, ask: Ask, cached: None) -> None:
        moa = mixture(cast("a", "judge", cache=True))
        first, again = ask(moa, question="?"), ask(moa, question="?")
        free: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0, "cache_hit": True}
        assert rows(first) == [row("a"), row("aggregator", "judge")]
        assert rows(again) == [row("a", **free), row("aggregator", "judge", **free)]
        usage = again.metadata.usage
        assert (usage.calls, usage.cache_hits, usage.cost_usd, usage.unpriced_calls) == (2, 2, 0.0, 0)

    @every_way
    @pytest.mark.parametrize("settings", [{"disable_history": True}, {"max_history_size": 0}, {"max_history_size": 1}])
    def test_need_no_history(self, ask: Ask, settings: dict[str, Any], cached: None) -> None:
        moa = mixture(cast("a", "judge", cache=True))
        with dspy.context(**settings):
            first, again = ask(moa, question="?"), ask(moa, question="?")
        assert rows(first) == [row("a"), row("aggregator", "judge")]
        assert [call["cache_hit"] for call in rows(again)] == [True, True]

    @both_ways
    def test_of_failures_have_no_cost(self, ask: Ask) -> None:
        lms = {"bad": FakeLM("bad", [dspy.lm15.RateLimitError("no")]), **cast("a", "judge")}
        pred = ask(mixture(lms), question="?")
        failed = row("bad", prompt_tokens=0, completion_tokens=0, error="LMRateLimitError")
        assert rows(pred) == [failed, row("a"), row("aggregator", "judge")]
        assert (pred.metadata.usage.failed_calls, pred.metadata.usage.unpriced_calls) == (1, 3)

    @both_ways
    def test_of_an_engine_that_counts_nothing_are_no_cache_hits(self, ask: Ask) -> None:
        pred = ask(mixture(cast("a", "judge", usage=Tokens())), question="?")
        assert rows(pred) == [
            row(*name, prompt_tokens=0, completion_tokens=0) for name in (("a",), ("aggregator", "judge"))
        ]

    @both_ways
    def test_name_the_model_that_was_asked(self, ask: Ask) -> None:
        lms = cast("x/a", "judge")
        pred = ask(MoA(QA, [Agent(lms["x/a"], name="mine")], lms["judge"]), question="?")
        assert rows(pred) == [row("mine", "x/a"), row("aggregator", "judge")]


class TestPrices:
    @both_ways
    def test_of_a_known_model_are_dspys(self, ask: Ask) -> None:
        answer = Reply(
            render("chat", {"reasoning": "r", "answer": "x"}), usage=Billed(1000, 100, cached=200, reasoning=30)
        )
        with OpenAIServer(lambda request: answer) as server:
            lm = dspy.LM("openai/gpt-4o-mini", api_base=server.url, api_key="key", cache=False)
            pred = ask(MoA(QA, [lm, FakeLM("free", says("x"))], strategy="voting"), question="?")
            [entry] = lm.history
        [known, unknown] = rows(pred)
        assert known == row(
            "gpt_4o_mini",
            "openai/gpt-4o-mini",
            prompt_tokens=1000,
            completion_tokens=100,
            cached_tokens=200,
            reasoning_tokens=30,
            cost_usd=entry["cost"],
        )
        assert entry["cost"] == pytest.approx((800 * 0.15 + 200 * 0.075 + 100 * 0.6) / 1e6)
        assert unknown["cost_usd"] is None
        usage = pred.metadata.usage
        assert (usage.cost_usd, usage.unpriced_calls) == (entry["cost"], 1)

    @both_ways
    def test_that_an_engine_states_are_taken(self, ask: Ask) -> None:
        class Priced:
            def complete(self, request: Any) -> Response:
                message = Message.assistant([TextPart(render("chat", {"reasoning": "r", "answer": "x"}))])
                return Response(
                    id=None,
                    model="m",
                    message=message,
                    finish_reason="stop",
                    usage=Tokens(input_tokens=1, output_tokens=1),
                    provider_data={"response_cost": 0.25},
                )

        class AsyncPriced:
            async def complete(self, request: Any) -> Response:
                return Priced().complete(request)

        lm = dspy.LM("m", engine=Priced(), async_engine=AsyncPriced(), cache=False)
        assert ask(MoA(QA, [lm], strategy="voting"), question="?").metadata.usage.cost_usd == 0.25

    def test_are_unknown_without_history(self) -> None:
        with OpenAIServer(lambda request: render("chat", {"reasoning": "r", "answer": "x"})) as server:
            lm = dspy.LM("openai/gpt-4o-mini", api_base=server.url, api_key="key", cache=False)
            with dspy.context(disable_history=True):
                usage = MoA(QA, [lm], strategy="voting")(question="?").metadata.usage
        assert (usage.cost_usd, usage.unpriced_calls, usage.prompt_tokens > 0) == (None, 1, True)


class TestUsage:
    def test_adds_up(self) -> None:
        calls = [
            LMCall(
                agent="a",
                model="m",
                prompt_tokens=1,
                completion_tokens=2,
                cached_tokens=3,
                reasoning_tokens=4,
                cost_usd=0.5,
                seconds=1,
            ),
            LMCall(agent="a", model="m", prompt_tokens=10, cost_usd=0.0, seconds=2, cache_hit=True),
            LMCall(agent="a", model="m", seconds=4, error="E"),
        ]
        assert Usage.of(iter(calls)) == Usage(
            calls=3,
            prompt_tokens=11,
            completion_tokens=2,
            cached_tokens=3,
            reasoning_tokens=4,
            cost_usd=0.5,
            unpriced_calls=1,
            seconds=7,
            cache_hits=1,
            failed_calls=1,
        )

    def test_of_nothing_costs_nothing(self) -> None:
        assert Usage.of([]) == Usage(cost_usd=0)

    def test_without_any_price_has_none(self) -> None:
        assert Usage.of([LMCall(agent="a", model="m")]).cost_usd is None

    @both_ways
    def test_is_told_by_agent_and_by_model(self, ask: Ask) -> None:
        lms = cast("a", "b")
        metadata = ask(
            MoA(QA, [lms["a"], lms["b"], lms["a"]], lms["b"], num_proposals_per_model=2), question="?"
        ).metadata
        assert {name: usage.calls for name, usage in metadata.agents.items()} == {
            "a": 2,
            "b": 2,
            "a_2": 2,
            "aggregator": 1,
        }
        assert {name: usage.prompt_tokens for name, usage in metadata.models.items()} == {"a": 40, "b": 30}
        assert metadata.usage.calls == 7


class TestDSPysOwnTracking:
    @every_way
    def test_of_a_prediction_agrees(self, ask: Ask, cached: None) -> None:
        moa = mixture(cast("a", "b", "judge", cache=True), num_proposals_per_model=2)
        for hit in (False, True):
            with dspy.context(track_usage=True):
                pred = ask(moa, question="?")
            models = {} if hit else {"a": (20, 10), "b": (20, 10), "judge": (10, 5)}
            assert _tokens(pred.get_lm_usage()) == models
            ours = {
                name: (usage.prompt_tokens, usage.completion_tokens) for name, usage in pred.metadata.models.items()
            }
            assert {name: tokens for name, tokens in ours.items() if tokens != (0, 0)} == models

    @every_way
    def test_around_a_call_agrees(self, ask: Ask) -> None:
        moa = mixture(cast("a", "b", "judge"))
        with dspy.track_usage() as tracker:
            ask(moa, question="?")
            ask(moa, question="?")
        assert _tokens(tracker.get_total_tokens()) == {"a": (20, 10), "b": (20, 10), "judge": (20, 10)}

    @every_way
    @pytest.mark.parametrize("history", [True, False])
    def test_inside_a_proposer_agrees(self, ask: Ask, history: bool, cached: None) -> None:
        lms = {"a": FakeLM("a", says("a"), cache=True), **cast("judge")}
        program = Tracks()
        moa = MoA(QA, [Agent(lms["a"], program)], lms["judge"])
        with dspy.context(disable_history=not history), dspy.track_usage() as tracker:
            pred, hit = ask(moa, question="?"), ask(moa, question="?")
        assert rows(pred) == [row("a"), row("aggregator", "judge")]
        assert [call["cache_hit"] for call in rows(hit)] == [True, False]
        assert _tokens(tracker.get_total_tokens()) == {"a": (10, 5), "judge": (20, 10)}
        assert (program.tokens, pred.get_lm_usage()) == ({}, None)

    @every_way
    @pytest.mark.parametrize("history", [True, False])
    def test_around_a_mixture_inside_a_proposer_agrees(self, ask: Ask, history: bool) -> None:
        # Without history, what two calls of one model used can be mistaken for each other, so there are two models.
        names = ("a", "a" if history else "b", "judge")
        lms = [FakeLM(name, says("x"), usage=(n, n), delay=n / 20) for n, name in enumerate(names, start=1)]

        class Inner(Tracks):
            def __init__(self) -> None:
                super().__init__()
                self.answer = MoA(QA, lms[:2], lms[2])

        with dspy.context(disable_history=not history):
            pred = ask(MoA(QA, [Inner()], strategy="voting"), question="?")
        seen = sorted((call["model"], call["prompt_tokens"], call["cache_hit"]) for call in rows(pred))
        assert seen == sorted((name, n, False) for n, name in enumerate(names, start=1))

    @both_ways
    def test_of_a_cache_hit_in_a_mixture_inside_is_not_taken_for_a_neighbours_call(
        self, ask: Ask, cached: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look = dspy.cache.get

        def look_long(*request: Any) -> Any:
            time.sleep(0.2)
            return look(*request)

        monkeypatch.setattr(dspy.cache, "get", look_long)
        inner = MoA(QA, [FakeLM("same", says("x"), cache=True)], strategy="voting")
        moa = MoA(QA, [inner, FakeLM("same", says("x"), delay=0.1)], strategy="voting")
        ask(moa, question="?")
        with dspy.context(track_usage=True):
            pred = ask(moa, question="?")
        free: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0, "cache_hit": True}
        assert rows(pred) == [row("moa", "same", **free), row("same")]
        assert _tokens(pred.get_lm_usage()) == {"same": (10, 5)}

    @every_way
    def test_in_dspy_parallel_inside_a_proposer_agrees(self, ask: Ask) -> None:
        lms = cast("a", "judge")
        with dspy.context(track_usage=True):
            pred = ask(MoA(QA, [Agent(lms["a"], FansOut())], lms["judge"]), question="?")
        assert Counter(call["agent"] for call in rows(pred)) == {"a": 3, "aggregator": 1}
        assert _tokens(pred.get_lm_usage()) == {"a": (30, 15), "judge": (10, 5)}

    def test_keeps_threads_apart(self) -> None:
        lm = FakeLM("a", echo)
        moa = MoA(QA, [lm, lm], strategy="voting")
        evaluate = dspy.Evaluate(
            devset=[dspy.Example(question=str(n)).with_inputs("question") for n in range(12)],
            metric=lambda example, pred: (
                pred.metadata.usage.calls == 2 and pred.get_lm_usage()["a"]["prompt_tokens"] == 20
            ),
            num_threads=6,
            display_progress=False,
        )
        with dspy.context(track_usage=True):
            assert evaluate(moa).score == 100


def _tokens(usage: Any) -> dict[str, tuple[int, int]]:
    return {model: (tokens["prompt_tokens"], tokens["completion_tokens"]) for model, tokens in usage.items()}


class TestMeter:
    @both_ways
    def test_sees_any_program(self, ask: Ask) -> None:
        lm = FakeLM("a", says("x"))
        with metered("mine") as meter, dspy.context(lm=lm):
            ask(dspy.Predict(QA), question="?")
        assert [call.model_dump(exclude={"seconds"}) for call in meter.calls()] == [row("mine", "a")]

    def test_shows_a_call_under_way_as_unfinished(self) -> None:
        release = threading.Event()

        def answer(prompt: str) -> Any:
            release.wait()
            return {"answer": "x"}

        with metered("mine") as meter, dspy.context(lm=FakeLM("a", answer)):

            async def main() -> list[LMCall]:
                task = asyncio.create_task(asyncio.to_thread(dspy.Predict(QA), question="?"))
                while not meter.calls():
                    await asyncio.sleep(0.01)
                before = meter.calls()
                release.set()
                await task
                return before

            [under_way] = asyncio.run(main())
        [done] = meter.calls()
        assert (under_way.error, done.error, under_way.seconds <= done.seconds) == ("Unfinished", None, True)

    def test_leaves_the_users_callbacks_alone(self) -> None:
        seen: list[str] = []

        class Watch(dspy.utils.callback.BaseCallback):
            def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
                seen.append(instance.model)

        with dspy.context(callbacks=[Watch()]):
            mixture(cast("a", "judge"))(question="?")
            assert len(dspy.settings.callbacks) == 1
        assert seen == ["a", "judge"]

    def test_keeps_no_prompts(self) -> None:
        with metered("mine") as meter, dspy.context(lm=FakeLM("a", says("x"))):
            dspy.Predict(QA)(question="?")
        assert list(meter.history) == []
