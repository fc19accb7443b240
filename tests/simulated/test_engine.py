import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Config, Message, Request, StreamEndEvent

from moa_dspy import MoA
from moa_dspy.simulated import AsyncSimulatedEngine, SimulatedEngine, SimulatedLM, SimulatedModel, simulated_lm
from moa_dspy.simulated.questions import KINDS, bundled_questions

TURKEY = "What is the capital of Turkey?"
SURE = SimulatedModel("sure", dict.fromkeys(KINDS, 1.0))
ENGINE = SimulatedEngine(SURE)


def wavering(**settings: Any) -> SimulatedLM:
    """A model that knows half of the questions, and others at every new sample."""
    return SimulatedLM("wavering", SimulatedModel("wavering", dict.fromkeys(KINDS, 0.5), steadiness=0.0), **settings)


def answers(lm: dspy.LM, count: int = 24, **config: Any) -> list[str]:
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=lm):
        return [predict(question=e.question, config=config).answer for e in bundled_questions()[:count]]


def request(text: str = TURKEY) -> Request:
    return Request(model="simulated/sure", messages=(Message.user(text),))


def test_what_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(ValueError, match="no simulated model 'ursula'; there are alice, bob, carol, dave, judge"):
        simulated_lm("simulated/ursula")
    with pytest.raises(ValueError, match="seconds that each answer takes, 0 or more: not -1"):
        simulated_lm("alice", latency=-1)


def test_a_token_has_four_characters_and_a_long_answer_is_cut() -> None:
    whole, cut = ENGINE.complete(request()), ENGINE.complete(replace(request(), config=Config(max_tokens=1)))
    assert (whole.text, whole.finish_reason, whole.usage.input_tokens, whole.usage.output_tokens) == (
        "Ankara",
        "stop",
        8,
        2,
    )
    assert (cut.text, cut.finish_reason, cut.usage.output_tokens) == ("Anka", "length", 1)


@pytest.mark.parametrize("price", [(2.0, 10.0), None])
def test_a_price_is_charged_and_without_one_the_cost_is_unknown(price: tuple[float, float] | None) -> None:
    lm = SimulatedLM("dear", SimulatedModel("dear", price=price))
    usage = MoA("question -> answer", [lm], strategy="voting")(question="What is 2 + 2?").metadata.usage
    assert usage.cost_usd == (price and (2 * usage.prompt_tokens + 10 * usage.completion_tokens) / 1e6)


def test_latency_is_slept_and_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("asyncio.sleep", sleep)
    lm = SimulatedLM("sure", SURE, latency=1.5)
    assert lm(TURKEY) == asyncio.run(lm.acall(TURKEY)) == ["Ankara"]
    assert slept == [1.5, 1.5]


def test_a_stream_comes_in_words_and_adds_up_to_the_answer() -> None:
    async def collect() -> list[Any]:
        return [event async for event in AsyncSimulatedEngine(SURE).stream(request("Why?"))]

    whole = ENGINE.complete(request("Why?"))
    start, *deltas, end = events = list(ENGINE.stream(request("Why?")))
    words = [event.delta.text for event in deltas if event.type == "delta" and event.delta.type == "text"]
    assert (start.type, end) == ("start", StreamEndEvent("stop", whole.usage))
    assert events == asyncio.run(collect())
    assert (words[:3], "".join(words)) == (["I'm", " sorry,", " but"], whole.text)


def test_async_calls_and_threads_get_the_same_answers() -> None:
    predict, examples = dspy.Predict("question -> answer"), bundled_questions()[:24]

    async def ask() -> list[str]:
        return [(await predict.acall(question=example.question)).answer for example in examples]

    with dspy.context(lm=wavering(rollout_id=3)):
        parallel = dspy.Parallel(num_threads=8, disable_progress_bar=True)
        threaded = [outcome.answer for outcome in parallel([(predict, example) for example in examples])]
        assert asyncio.run(ask()) == threaded == answers(wavering(rollout_id=3))


def test_rollouts_and_seeds_are_samples_of_their_own_however_they_are_given() -> None:
    lm = wavering()
    first = answers(lm.copy(rollout_id=1, temperature=1.0))
    others = [answers(lm), answers(lm.copy(rollout_id=2, temperature=1.0)), answers(wavering(seed=1))]
    assert first not in others and len(set(map(tuple, others))) == 3
    assert first == answers(wavering(), rollout_id=1) == answers(wavering(rollout_id=1))


def test_at_temperature_0_a_rollout_changes_nothing() -> None:
    with pytest.warns(UserWarning, match="rollout_id has no effect"):
        assert answers(wavering(temperature=0.0, rollout_id=1)) == answers(wavering())


def test_several_candidates_are_several_samples() -> None:
    with dspy.context(lm=wavering()):
        asked: Any = dspy.Predict("question -> answer", n=12)(question=TURKEY)
    assert set(asked.completions.answer) == {"Ankara", "Izmir"}


def test_a_saved_program_comes_back_with_its_lm(tmp_path: Path) -> None:
    lm = SimulatedLM("sure", SURE, latency=0.25, temperature=0.7)
    program = dspy.Predict("question -> answer")
    loaded: Any = dspy.Predict("question -> answer")
    program.set_lm(lm)
    program.save(tmp_path / "program.json")
    loaded.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert (type(loaded.lm), loaded.lm.dump_state()) == (type(lm), lm.dump_state())
    assert loaded(question=TURKEY).answer == "Ankara"
