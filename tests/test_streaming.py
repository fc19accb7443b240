import asyncio
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, cast, echo, mixture

from moa_dspy import Limits, MoA

each_way = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


def long_answers(*names: str) -> dict[str, FakeLM]:
    """Fakes whose answers arrive in several pieces."""

    def answers(name: str) -> Any:
        return lambda prompt: {"reasoning": f"{name} thinks it over", "answer": f"{name} says quite a lot"}

    return {name: FakeLM(name, answers(name)) for name in names}


def streamed(program: dspy.Module, listeners: Any = None, awaited: bool = False, **options: Any) -> list[Any]:
    async def collect() -> list[Any]:
        run: Any = dspy.streamify(program, stream_listeners=listeners, is_async_program=awaited, **options)
        return [piece async for piece in run(question="?")]

    return asyncio.run(asyncio.wait_for(collect(), timeout=20))


def listener(predict: Any, field: str = "answer") -> Any:
    return dspy.streaming.StreamListener(field, predict=predict)


def texts(pieces: list[Any]) -> dict[str, str]:
    """Field -> what was streamed of it."""
    streams: dict[str, str] = {}
    for piece in pieces:
        if isinstance(piece, dspy.streaming.StreamResponse):
            streams[piece.signature_field_name] = streams.get(piece.signature_field_name, "") + piece.chunk
    return streams


class TestWithoutListeners:
    @each_way
    def test_every_role_streams_and_the_result_is_right(self, awaited: bool) -> None:
        lms = long_answers("a", "b", "judge")
        *pieces, pred = streamed(mixture(lms), awaited=awaited)
        raw = [piece for piece in pieces if not isinstance(piece, dspy.streaming.StatusMessage)]
        assert {piece.model for piece in raw} == {"a", "b", "judge"} and len(raw) > 30
        assert (pred.answer, len(pred.proposals), pred.metadata.failures) == ("judge says quite a lot", 2, [])
        assert calls(lms) == {"a": 1, "b": 1, "judge": 1}

    @each_way
    def test_synchronous_streams_do_too(self, awaited: bool) -> None:
        run: Any = dspy.streamify(mixture(long_answers("a", "judge")), is_async_program=awaited, async_streaming=False)
        *pieces, pred = run(question="?")
        assert pieces and pred.answer == "judge says quite a lot"


class TestListeners:
    @each_way
    def test_hear_the_aggregator(self, awaited: bool) -> None:
        moa: Any = mixture(long_answers("a", "b", "judge"))
        predict = moa.aggregator.program.synthesize
        pieces = streamed(moa, [listener(predict), listener(predict, "reasoning")], awaited)
        assert texts(pieces) == {"answer": "judge says quite a lot", "reasoning": "judge thinks it over"}
        assert len([piece for piece in pieces if isinstance(piece, dspy.streaming.StreamResponse)]) > 4
        assert pieces[-1].answer == "judge says quite a lot"

    @each_way
    def test_hear_a_proposer(self, awaited: bool) -> None:
        moa: Any = mixture(long_answers("a", "b", "judge"), use_specialized_prompts=True)
        pieces = streamed(moa, [listener(moa.proposers.b.program.predict)], awaited)
        assert texts(pieces) == {"answer": "b says quite a lot"}
        assert (pieces[-1].answer, len(pieces[-1].proposals)) == ("judge says quite a lot", 2)

    @each_way
    def test_hear_through_an_outer_program_and_a_mixture_inside(self, awaited: bool) -> None:
        lms = long_answers("a", "inner_judge", "judge")
        inner: Any = MoA(QA, [lms["a"]], lms["inner_judge"])
        moa = MoA(QA, [inner], lms["judge"])
        pieces = streamed(moa, [listener(inner.aggregator.program.synthesize)], awaited)
        assert (
            texts(pieces) == {"answer": "inner_judge says quite a lot"}
            and pieces[-1].answer == "judge says quite a lot"
        )

    @each_way
    def test_hear_a_proposer_without_aforward(self, awaited: bool) -> None:
        class Plain(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.predict = dspy.Predict(QA)

            def forward(self, question: str) -> Any:
                return self.predict(question=question)

        lms = long_answers("ambient", "judge")
        program = Plain()
        with dspy.context(lm=lms["ambient"]):
            pieces = streamed(MoA(QA, [program], lms["judge"]), [listener(program.predict)], awaited)
        assert texts(pieces) == {"answer": "ambient says quite a lot"} and pieces[-1].answer == "judge says quite a lot"


class TestStatus:
    @each_way
    def test_messages_arrive(self, awaited: bool) -> None:
        class Says(dspy.streaming.StatusMessageProvider):
            def lm_start_status_message(self, instance: Any, inputs: Any) -> str:
                return f"asking {instance.model}"

        pieces = streamed(mixture(long_answers("a", "b", "judge")), awaited=awaited, status_message_provider=Says())
        said = [piece.message for piece in pieces if isinstance(piece, dspy.streaming.StatusMessage)]
        assert sorted(said) == ["asking a", "asking b", "asking judge"] and said[-1] == "asking judge"

    def test_of_many_calls_at_once_do_not_hold_each_other_up(self) -> None:
        class Says(dspy.streaming.StatusMessageProvider):
            def module_start_status_message(self, instance: Any, inputs: Any) -> str:
                return "started"

        moa = mixture(cast(*(f"m{n}" for n in range(20)), "judge"))
        *pieces, pred = streamed(moa, status_message_provider=Says())
        said = [piece for piece in pieces if isinstance(piece, dspy.streaming.StatusMessage)]
        assert (len(said), pred.answer) == (1 + 20 * 3 + 3, "judge")


class TestElsewhere:
    def test_a_synchronous_stream_needs_no_asynchronous_engine(self) -> None:
        lms = long_answers("a", "b", "judge")
        for lm in lms.values():
            lm._async_engine_spec = None
        assert streamed(mixture(lms))[-1].answer == "judge says quite a lot"

    @each_way
    def test_a_late_proposer_is_left_behind(self, awaited: bool) -> None:
        lms = {**long_answers("a"), "late": FakeLM("late", echo, delay=3), **long_answers("judge")}
        pred = streamed(mixture(lms, limits=Limits(proposer_timeout=0.5)), awaited=awaited)[-1]
        assert [failure.error for failure in pred.metadata.failures] == ["ProposerTimeout"]
        assert pred.metadata.seconds < 2.5

    def test_a_synchronous_call_on_the_streaming_loop_still_answers(self) -> None:
        class Outer(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.moa = mixture(long_answers("a", "b", "judge"))
                self.last = dspy.Predict("draft -> answer")

            async def aforward(self, question: str) -> Any:
                return await self.last.acall(draft=self.moa(question=question).answer)

        outer = Outer()
        with dspy.context(lm=long_answers("last")["last"]):
            pieces = streamed(outer, [listener(outer.last)], awaited=True)
        assert (texts(pieces), pieces[-1].answer) == ({"answer": "last says quite a lot"}, "last says quite a lot")

    @each_way
    def test_usage_is_counted(self, awaited: bool) -> None:
        with dspy.context(track_usage=True):
            pred = streamed(mixture(long_answers("a", "judge")), awaited=awaited)[-1]
        assert {model: usage["prompt_tokens"] for model, usage in pred.get_lm_usage().items()} == {"a": 10, "judge": 10}
        assert pred.metadata.usage.prompt_tokens == 20

    @each_way
    def test_failures_are_reported(self, awaited: bool) -> None:
        lms = {"bad": FakeLM("bad", [dspy.lm15.AuthError("?")]), **cast("b", "judge")}
        pred = streamed(mixture(lms), awaited=awaited)[-1]
        assert ([failure.agent for failure in pred.metadata.failures], pred.answer) == (["bad"], "judge")
