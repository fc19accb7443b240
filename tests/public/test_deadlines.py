"""Every call ends, frees what it held, and says why it failed; on real sockets."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import dspy
import pytest
from support.mixtures import Ask, both_ways, every_way, sync
from support.openai_server import ChatRequest, OpenAIServer, Reply

from moa_dspy import MoA

GOOD = "[[ ## reasoning ## ]]\nr\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]"
WORDS = " ".join(["word"] * 40)


def answer(request: ChatRequest) -> Reply:
    number = sum(one.model == request.model for one in served.requests)
    return {
        "good": Reply(GOOD),
        "hangs": Reply(hang=True),
        "stalls": Reply(GOOD, hang="body"),
        "dawdles": Reply(GOOD.replace("42", WORDS), hang="body"),
        "trickles": Reply(GOOD, pace=0.5),
        "moody": Reply(GOOD, hang=number % 3 == 0),
        "down": Reply("down", status=500, headers={"Retry-After": "0"}),
        "falters": Reply("down", status=500, headers={"Retry-After": "0"}) if number == 1 else Reply(hang=True),
        "busy": Reply("slow down", status=429, headers={"Retry-After": "60"}),
    }[request.model.partition("-")[0]]


served: OpenAIServer


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    global served
    with OpenAIServer(answer) as served:
        yield served


def lm(server: OpenAIServer, name: str, **options: Any) -> dspy.LM:
    return dspy.LM(f"openai/{name}", api_base=server.url, api_key="k", cache=False, **options)


def mixture(server: OpenAIServer, *names: str, judge: str = "good", engine: str = "auto", **limits: Any) -> MoA:
    if engine == "litellm":
        lm(server, "good", engine=engine)("?")  # LiteLLM's first call takes seconds
    lms = [lm(server, name, engine=engine) for name in names]
    return MoA("question -> answer", lms, lm(server, judge, engine=engine), limits=limits)


@pytest.mark.parametrize("engine", ["auto", "litellm"])
@both_ways
def test_a_model_that_hangs_is_given_up_and_its_connection_closed(ask: Ask, engine: str, server: OpenAIServer) -> None:
    pred = ask(mixture(server, "good", "hangs", engine=engine, proposer_timeout=0.6), question="?")
    assert [f.error for f in pred.metadata.failures] in (["ProposerTimeout"], ["LMTransportError"], ["LMTimeoutError"])
    assert await_idle(server) == 0


def await_idle(server: OpenAIServer, most: int = 0) -> int:
    """How many requests are in flight, once there are no more than so many, or time is up."""
    until = time.monotonic() + 10
    while server.in_flight > most and time.monotonic() < until:
        time.sleep(0.05)
    return server.in_flight


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
def test_bodies_that_trickle_hold_no_more_than_the_first_connections(engine: str, server: OpenAIServer) -> None:
    moa = mixture(server, "trickles", "good", engine=engine, proposer_timeout=0.4)
    threads = threading.active_count()
    for question in "?!.:":
        [failure] = moa(question=question).metadata.failures
        assert failure.error in ("ProposerTimeout", "LMTimeoutError")
    assert await_idle(server, most=1) == 1 and threading.active_count() < threads + 9
    assert sum(one.model == "trickles" for one in server.requests) == 4


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
@pytest.mark.parametrize("name", ["trickles", "stalls"])
def test_a_stream_that_does_not_end_is_ended(engine: str, name: str, server: OpenAIServer) -> None:
    moa = mixture(server, name, "good", engine=engine, proposer_timeout=1.5)

    async def stream() -> Any:
        run: Any = dspy.streamify(moa)
        return [piece async for piece in run(question="?")][-1]

    pred = asyncio.run(asyncio.wait_for(stream(), 20))
    [failure] = pred.metadata.failures
    assert pred.answer == "42" and failure.error in ("ProposerTimeout", "LMTimeoutError")
    assert await_idle(server) == 0


@pytest.mark.parametrize("engine", ["lm15", "litellm"])
@both_ways
def test_a_judge_whose_stream_does_not_end_leaves_the_vote_after_what_was_streamed(
    ask: Ask, engine: str, server: OpenAIServer
) -> None:
    moa = mixture(server, "good", judge="dawdles", engine=engine, aggregator_timeout=0.7)

    async def stream() -> list[Any]:
        listeners = [dspy.streaming.StreamListener("answer")]
        run: Any = dspy.streamify(moa, stream_listeners=listeners, is_async_program=ask is not sync)
        return [piece async for piece in run(question="?")]

    *pieces, pred = asyncio.run(asyncio.wait_for(stream(), 20))
    streamed = "".join(piece.chunk for piece in pieces)
    assert streamed and WORDS.startswith(streamed) and pieces[-1].is_last_chunk
    assert (pred.answer, pred.metadata.fallback_used, await_idle(server)) == ("42", True, 0)


@every_way
def test_a_provider_that_says_to_come_back_later_than_there_is_time_is_told_at_once(
    ask: Ask, server: OpenAIServer
) -> None:
    pred = ask(mixture(server, "good", "busy", timeout=60), question="?")
    assert [f.error for f in pred.metadata.failures] == ["LMRateLimitError"]
    assert pred.metadata.seconds < 20 and sum(one.model == "busy" for one in server.requests) == 1


@every_way
def test_a_late_proposer_says_what_went_wrong_last(ask: Ask, server: OpenAIServer) -> None:
    pred = ask(mixture(server, "good", "falters", proposer_timeout=0.5), question="?")
    [failure] = pred.metadata.failures
    assert failure.error == "ProposerTimeout" and "LMServerError: " in failure.message and "down" in failure.message


@every_way
def test_a_dead_judge_is_not_asked_again_after_its_retries(ask: Ask, server: OpenAIServer) -> None:
    moa = MoA("question -> answer", [lm(server, "good")], lm(server, "down", num_retries=1))
    assert ask(moa, question="?").metadata.fallback_used
    assert sum(one.model == "down" for one in server.requests) == 2


def test_what_is_abandoned_starts_nothing_new(server: OpenAIServer) -> None:
    class Stubborn(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            while True:
                try:
                    self.ask(question=question)
                    time.sleep(0.05)
                except dspy.LMError:
                    ended.set()
                    raise

    from moa_dspy import Agent

    ended = threading.Event()
    agents = [lm(server, "good"), Agent(lm(server, "good-2"), Stubborn())]
    MoA("question -> answer", agents, strategy="voting", limits={"proposer_timeout": 0.5})(question="?")
    assert ended.wait(5)


@pytest.mark.slow
def test_a_model_that_hangs_one_time_in_three_is_no_outage_after_300_calls(server: OpenAIServer) -> None:
    moa = mixture(server, "moody", proposer_timeout=1)
    moa = MoA("question -> answer", moa.panels[0].agents, strategy="voting", limits={"proposer_timeout": 0.2})
    with dspy.context(disable_history=True):
        results = dspy.Parallel(num_threads=16, disable_progress_bar=True, max_errors=999)(
            [(moa, {"question": str(number)}) for number in range(360)]
        )
    assert results.count(None) < 160 and results[-60:].count(None) < 40
