"""A mixture under `dspy.streamify`: pieces from every role, and the same result at the end."""

import asyncio
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, echo, mixture, says
from support.shown import panel_of

from moa_dspy import Limits, MoA

each_way = pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])


def talking(*names: str) -> dict[str, FakeLM]:
    """Fakes whose answers arrive in several pieces."""

    def answers(name: str) -> Any:
        return lambda prompt: {"reasoning": f"{name} thinks it over", "answer": f"{name} says quite a lot"}

    return {name: FakeLM(name, answers(name)) for name in names}


def streamed(program: dspy.Module, listeners: Any = None, awaited: bool = False, **options: Any) -> list[Any]:
    async def collect() -> list[Any]:
        run: Any = dspy.streamify(program, stream_listeners=listeners, is_async_program=awaited, **options)
        return [piece async for piece in run(question="?")]

    return asyncio.run(asyncio.wait_for(collect(), timeout=20))


def listening(program: Any, role: str, *fields: str) -> list[Any]:
    """Listeners to the predictor of a role, in the program or in one of its mixtures."""
    [predict] = [part for name, part in program.named_predictors() if role in name]
    return [dspy.streaming.StreamListener(field, predict=predict) for field in fields]


def texts(pieces: list[Any]) -> dict[str, str]:
    """Field -> what was streamed of it."""
    found: dict[str, str] = {}
    for piece in pieces:
        if isinstance(piece, dspy.streaming.StreamResponse):
            found[piece.signature_field_name] = found.get(piece.signature_field_name, "") + piece.chunk
    return found


@each_way
def test_every_role_streams_and_the_result_is_right(awaited: bool) -> None:
    lms = talking("a", "b", "judge")
    *pieces, pred = streamed(mixture(lms), awaited=awaited)
    raw = [piece for piece in pieces if not isinstance(piece, dspy.streaming.StatusMessage)]
    assert {piece.model for piece in raw} == {"a", "b", "judge"} and len(raw) > 30
    assert (pred.answer, len(pred.proposals), pred.metadata.failures) == ("judge says quite a lot", 2, [])
    assert calls(lms) == {"a": 1, "b": 1, "judge": 1} and pred.metadata.usage.prompt_tokens == 30


@each_way
def test_a_synchronous_stream_does_too(awaited: bool) -> None:
    run: Any = dspy.streamify(mixture(talking("a", "judge")), is_async_program=awaited, async_streaming=False)
    *pieces, pred = run(question="?")
    assert pieces and pred.answer == "judge says quite a lot"


@each_way
@pytest.mark.parametrize(("role", "name"), [("aggregator", "judge"), (".b.", "b")])
def test_a_listener_hears_one_role(awaited: bool, role: str, name: str) -> None:
    moa = mixture(talking("a", "b", "judge"), use_specialized_prompts=True)
    pieces = streamed(moa, listening(moa, role, "answer", "reasoning"), awaited)
    assert texts(pieces) == {"answer": f"{name} says quite a lot", "reasoning": f"{name} thinks it over"}
    assert len(pieces) > 4 and pieces[-1].answer == "judge says quite a lot"


@each_way
def test_a_listener_hears_a_mixture_inside(awaited: bool) -> None:
    lms = talking("a", "inner", "judge")
    inner = MoA(QA, [lms["a"]], lms["inner"])
    pieces = streamed(MoA(QA, [inner], lms["judge"]), listening(inner, "aggregator", "answer"), awaited)
    assert (texts(pieces), pieces[-1].answer) == ({"answer": "inner says quite a lot"}, "judge says quite a lot")


@each_way
def test_status_messages_arrive(awaited: bool) -> None:
    class Says(dspy.streaming.StatusMessageProvider):
        def lm_start_status_message(self, instance: Any, inputs: Any) -> str:
            return f"asking {instance.model}"

    pieces = streamed(mixture(talking("a", "b", "judge")), awaited=awaited, status_message_provider=Says())
    said = [piece.message for piece in pieces if isinstance(piece, dspy.streaming.StatusMessage)]
    assert sorted(said) == ["asking a", "asking b", "asking judge"] and said[-1] == "asking judge"


@each_way
def test_failures_and_latecomers_are_reported(awaited: bool) -> None:
    late, bad = FakeLM("late", echo, delay=3), FakeLM("bad", [dspy.lm15.AuthError("?")])
    lms = {**talking("a"), "late": late, "bad": bad, **talking("judge")}
    pred = streamed(mixture(lms, limits=Limits(proposer_timeout=0.4)), awaited=awaited)[-1]
    assert {f.agent: f.error for f in pred.metadata.failures} == {"late": "ProposerTimeout", "bad": "LMAuthError"}
    assert pred.metadata.seconds < 2.5


def test_what_was_streamed_already_is_not_asked_for_again() -> None:
    judge = FakeLM("judge", ["no fields at all"])
    *pieces, pred = streamed(panel_of("x", judge=judge))
    assert pieces and (pred.answer, pred.metadata.fallback_used, judge.calls) == ("x", True, 1)


ADAPTERS = [None, dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter]


@each_way
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(("strategy", "answer"), [("synthesis", "judge"), ("fusion", "judge"), ("selection", "b")])
def test_a_field_is_streamed_as_the_mixtures_own(awaited: bool, adapter: Any, strategy: Any, answer: str) -> None:
    moa = mixture(quoting("a", "b", "judge"), strategy=strategy, use_specialized_prompts=True)
    with dspy.context(adapter=adapter and adapter()):
        *pieces, pred = streamed(moa, [dspy.streaming.StreamListener("answer")], awaited)
    assert texts(pieces) == {"answer": pred.answer} == {"answer": f'{answer} says\n"quite" a lot'}
    assert (len(pieces) > 3) == (answer == "judge") and [piece.is_last_chunk for piece in pieces][-1]


def quoting(*names: str) -> dict[str, FakeLM]:
    """Fakes whose answers JSON has to escape; a judge among them chooses the first proposal it sees."""

    def answers(name: str) -> Any:
        answer = f'{name} says\n"quite" a lot'
        return lambda prompt: {"reasoning": "so", "answer": answer, "choice": "P1", "elements": []}

    return {name: FakeLM(name, answers(name)) for name in names}


@each_way
def test_a_vote_is_streamed_at_once(awaited: bool) -> None:
    vote = MoA("question -> answer: int", [FakeLM("a", says(4))] * 2, strategy="voting")
    piece, pred = streamed(vote, [dspy.streaming.StreamListener("answer")], awaited)
    assert (piece.chunk, piece.is_last_chunk, pred.answer) == ("4", True, 4)


@each_way
def test_a_cached_answer_is_streamed_at_once(awaited: bool, cached: None) -> None:
    lms = {name: FakeLM(name, echo, cache=True) for name in ("a", "judge")}
    run = mixture(lms)
    first, again = (streamed(run, [dspy.streaming.StreamListener("answer")], awaited) for _ in range(2))
    assert [texts(pieces)["answer"] for pieces in (first, again)] == ["?", "?"] and calls(lms) == {"a": 1, "judge": 1}


@each_way
def test_listeners_find_their_fields_in_a_program_around_it(awaited: bool) -> None:
    lms = talking("a", "b", "judge")
    lms["post"] = FakeLM("post", lambda prompt: {"final": "in the end"})
    listeners = [dspy.streaming.StreamListener(name) for name in ("answer", "final")]
    pieces = streamed(
        Around(mixture({name: lms[name] for name in ["a", "b", "judge"]}), lms["post"]), listeners, awaited
    )
    assert texts(pieces) == {"answer": "judge says quite a lot", "final": "in the end"}


class Around(dspy.Module):
    """A mixture, and a predictor after it."""

    def __init__(self, moa: MoA, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.moa, self.post = moa, dspy.Predict("answer -> final")
        self.post.lm = lm

    def forward(self, question: str) -> Any:
        return self.post(answer=self.moa(question=question).answer)

    async def aforward(self, question: str) -> Any:
        return await self.post.acall(answer=(await self.moa.acall(question=question)).answer)


@each_way
def test_what_the_aggregator_gives_beside_the_answer_is_listened_to_by_naming_the_mixture(awaited: bool) -> None:
    moa = mixture(talking("a", "judge"))
    pieces = streamed(moa, [dspy.streaming.StreamListener("reasoning", predict=moa)], awaited)
    assert texts(pieces) == {"reasoning": "judge thinks it over"}


def test_the_final_prediction_can_be_left_out() -> None:
    listeners = [dspy.streaming.StreamListener("answer")]
    pieces = streamed(mixture(talking("a", "judge")), listeners, include_final_prediction_in_output_stream=False)
    assert {type(piece) for piece in pieces} == {dspy.streaming.StreamResponse}
