import asyncio
import copy
import itertools
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import dspy
import pytest
from dspy.lm15 import Config, Message, Request, StreamEndEvent

from moa_dspy import MoA
from moa_dspy.simulated import (
    SIMULATED_MODELS,
    AsyncSimulatedEngine,
    SimulatedEngine,
    SimulatedLM,
    SimulatedModel,
    simulated_lm,
)
from moa_dspy.simulated.questions import KINDS, bundled_questions

TURKEY = "What is the capital of Turkey?"
PROPOSERS = ("alice", "bob", "carol", "dave")


def sure(name: str = "sure", **settings: Any) -> SimulatedLM:
    """A model that knows every question."""
    return SimulatedLM(name, profile=SimulatedModel(name, dict.fromkeys(KINDS, 1.0)), **settings)


def wavering(**settings: Any) -> SimulatedLM:
    """A model that knows half of the questions, and others at every new sample."""
    profile = SimulatedModel("wavering", dict.fromkeys(KINDS, 0.5), steadiness=0.0)
    return SimulatedLM("wavering", profile=profile, **settings)


def answers(lm: dspy.LM, count: int = 24, **config: Any) -> list[str]:
    predict = dspy.Predict("question -> answer")
    with dspy.context(lm=lm):
        return [predict(question=e.question, config=config).answer for e in bundled_questions()[:count]]


def request(text: str = TURKEY) -> Request:
    return Request(model="simulated/sure", messages=(Message.user(text),))


def engine() -> SimulatedEngine:
    return SimulatedEngine(SimulatedModel("sure", {"geography": 1.0}))


def test_a_name_works_with_and_without_its_prefix() -> None:
    assert simulated_lm("alice").model == simulated_lm("simulated/alice").model == "simulated/alice"


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no simulated model 'ursula'; there are alice, bob, carol, dave, judge"):
        simulated_lm("simulated/ursula")


def test_a_negative_latency_is_refused() -> None:
    with pytest.raises(ValueError, match="seconds that each answer takes, 0 or more: not -1"):
        simulated_lm("alice", latency=-1)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"skills": {"dates": 1.2}}, "dates of the simulated model 'x' is a probability, not 1.2"),
        ({"judgement": -0.1}, "judgement of the simulated model 'x' is a probability"),
        ({"skills": {"poetry": 0.5}}, "No question is of the kind poetry; the kinds are arithmetic, ordering"),
        ({"hints": {"poems": {}}}, "No question is of the kind poems"),
        ({"price": (1.0, -2.0)}, "The price of the simulated model .x. is USD per million prompt tokens"),
    ],
)
def test_a_profile_that_cannot_be_is_refused(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedModel("x", **numbers)


def test_a_name_that_cannot_be_written_after_the_prefix_is_refused() -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        SimulatedModel("a/b")


def test_usage_counts_four_characters_a_token() -> None:
    lm = sure()
    assert lm(TURKEY) == ["Ankara"]
    assert {name: lm.history[-1]["usage"][name] for name in ("prompt_tokens", "completion_tokens")} == {
        "prompt_tokens": 8,
        "completion_tokens": 2,
    }


def test_a_price_is_charged_and_without_one_the_cost_is_unknown() -> None:
    profile = SimulatedModel("dear", {"arithmetic": 1.0}, price=(2.0, 10.0))
    for price, cost in ((profile.price, True), (None, False)):
        lm = SimulatedLM("dear", replace(profile, price=price))
        usage = MoA("question -> answer", [lm], strategy="voting")(question="What is 2 + 2?").metadata.usage
        assert usage.cost_usd == ((2 * usage.prompt_tokens + 10 * usage.completion_tokens) / 1e6 if cost else None)
        assert usage.unpriced_calls == (0 if cost else 1)
    assert SimulatedModel(**profile.dump_state()).dump_state()["price"] == [2.0, 10.0]


def test_calls_are_not_cached_unless_asked() -> None:
    assert (sure().cache, sure(cache=True).cache) == (False, True)


def test_a_long_answer_is_cut_at_max_tokens() -> None:
    cut = engine().complete(replace(request("Why?"), config=Config(max_tokens=3)))
    assert (cut.text, cut.finish_reason, cut.usage.output_tokens) == ("I am a simul", "length", 3)
    assert engine().complete(request("Why?")).finish_reason == "stop"


def test_latency_is_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    sure(latency=1.5)(TURKEY)
    assert slept == [1.5]


def test_latency_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("moa_dspy.simulated.lm.asyncio.sleep", sleep)
    assert asyncio.run(sure(latency=1.5).acall(TURKEY)) == ["Ankara"]
    assert slept == [1.5]


def test_async_answers_are_the_sync_ones() -> None:
    async def ask(lm: dspy.LM) -> list[str]:
        predict = dspy.Predict("question -> answer")
        with dspy.context(lm=lm):
            return [(await predict.acall(question=e.question)).answer for e in bundled_questions()[:24]]

    assert asyncio.run(ask(wavering(rollout_id=3))) == answers(wavering(rollout_id=3))


def test_a_stream_comes_in_words_and_adds_up_to_the_answer() -> None:
    whole = engine().complete(request("Why?"))
    start, *deltas, end = engine().stream(request("Why?"))
    words = [event.delta.text for event in deltas if event.type == "delta" and event.delta.type == "text"]
    assert start.type == "start"
    assert end == StreamEndEvent("stop", whole.usage)
    assert (words[:3], "".join(words)) == (["I", " am", " a"], whole.text)


def test_the_async_stream_is_the_same() -> None:
    async def collect() -> list[object]:
        engine = AsyncSimulatedEngine(SimulatedModel("sure", {"geography": 1.0}))
        return [event async for event in engine.stream(request())]

    assert asyncio.run(collect()) == list(engine().stream(request()))


def test_streamify_hands_on_the_answer() -> None:
    async def collect() -> list[object]:
        listener: Any = dspy.streaming.StreamListener("answer")
        stream: Any = dspy.streamify(dspy.Predict("question -> answer"), stream_listeners=[listener])
        with dspy.context(lm=sure()):
            return [chunk async for chunk in stream(question="Which city?")]

    *chunks, prediction = asyncio.run(collect())
    assert isinstance(prediction, dspy.Prediction)
    assert len(chunks) > 5
    assert "".join(getattr(chunk, "chunk", "") for chunk in chunks) == prediction.answer


def test_the_same_call_gets_the_same_answer() -> None:
    assert answers(wavering()) == answers(wavering())


def test_another_process_gets_the_same_answers() -> None:
    code = (
        "import dspy\n"
        "from moa_dspy.simulated import simulated_lm\n"
        "from moa_dspy.simulated.questions import bundled_questions\n"
        "dspy.configure(lm=simulated_lm('alice', rollout_id=5)); predict = dspy.Predict('question -> answer')\n"
        "print([predict(question=e.question).answer for e in bundled_questions()[:24]])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert shown == str(answers(simulated_lm("alice", rollout_id=5)))


def test_a_copy_with_another_rollout_answers_anew_and_always_so() -> None:
    lm = wavering()
    first, second = (answers(lm.copy(rollout_id=id, temperature=1.0)) for id in (1, 2))
    assert len({tuple(first), tuple(second), tuple(answers(lm))}) == 3
    assert first == answers(wavering().copy(rollout_id=1))


def test_a_rollout_can_come_with_the_call_or_by_the_kwargs() -> None:
    lm = wavering()
    lm.kwargs["rollout_id"] = 1
    assert answers(wavering(), rollout_id=1) == answers(lm) == answers(wavering(rollout_id=1))


def test_at_temperature_0_a_rollout_changes_nothing() -> None:
    with pytest.warns(UserWarning, match="rollout_id has no effect"):
        assert answers(wavering(temperature=0.0, rollout_id=1)) == answers(wavering())


def test_a_seed_is_another_sample() -> None:
    assert answers(wavering(seed=1)) != answers(wavering())


def test_several_candidates_are_several_samples() -> None:
    with dspy.context(lm=wavering()):
        asked: Any = dspy.Predict("question -> answer", n=12)(question=TURKEY)
    assert set(asked.completions.answer) == {"Ankara", "Izmir"}


def test_a_steady_model_thinks_again_as_it_did_before() -> None:
    profile = SimulatedModel("steady", dict.fromkeys(KINDS, 0.5), steadiness=1.0)
    lm = SimulatedLM("steady", profile=profile)
    assert answers(lm.copy(rollout_id=7)) == answers(lm)


def test_samples_keep_the_declared_skill() -> None:
    right = [e.answer for e in bundled_questions()]
    samples = [answers(wavering(rollout_id=id), count=120) for id in range(8)]
    share = sum(given == answer for sample in samples for given, answer in zip(sample, right, strict=True)) / 960
    assert share == pytest.approx(0.5, abs=0.06)


def test_a_copy_can_have_another_profile_and_latency() -> None:
    lm: Any = wavering()
    changed: Any = lm.copy(profile=SimulatedModel("other", {"geography": 1.0}), latency=2.0)
    assert (changed.engine.profile.name, changed.engine.latency) == ("other", 2.0)
    assert (lm.engine.profile.name, lm.engine.latency) == ("wavering", 0.0)


@pytest.mark.parametrize(
    "again",
    [copy.deepcopy, lambda lm: pickle.loads(pickle.dumps(lm)), lambda lm: pickle.loads(cloudpickle.dumps(lm))],
    ids=["deepcopy", "pickle", "cloudpickle"],
)
def test_a_copied_lm_answers_the_same(again: Any) -> None:
    assert answers(again(wavering(rollout_id=4))) == answers(wavering(rollout_id=4))


def test_a_deep_copy_shares_the_engine() -> None:
    lm = sure()
    assert copy.deepcopy(lm).engine is lm.engine


@pytest.mark.parametrize(
    "lm",
    [
        sure(latency=0.25, temperature=0.7),
        dspy.LM("simulated/bare", engine=engine(), async_engine=AsyncSimulatedEngine(engine().profile), cache=False),
    ],
    ids=["SimulatedLM", "dspy.LM with the engines"],
)
def test_a_saved_program_comes_back_with_its_lm(lm: Any, tmp_path: Path) -> None:
    program = dspy.Predict("question -> answer")
    program.set_lm(lm)
    program.save(tmp_path / "program.json")
    loaded: Any = dspy.Predict("question -> answer")
    loaded.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert type(loaded.lm) is type(lm)
    assert (loaded.lm.model, loaded.lm.kwargs) == (lm.model, lm.kwargs)
    assert loaded.lm.engine.dump_state() == lm.engine.dump_state()
    assert loaded(question=TURKEY).answer == "Ankara"


def test_many_threads_get_what_one_gets() -> None:
    examples = bundled_questions()[:24] * 4
    with dspy.context(lm=wavering()):
        outcomes = dspy.Parallel(num_threads=8, disable_progress_bar=True)(
            [(dspy.Predict("question -> answer"), example) for example in examples]
        )
    assert [outcome.answer for outcome in outcomes] == answers(wavering()) * 4


@pytest.fixture(scope="module")
def given() -> dict[str, list[str]]:
    return {name: answers(simulated_lm(name), count=120) for name in SIMULATED_MODELS}


def test_the_named_models_score_about_what_they_declare(given: dict[str, list[str]]) -> None:
    for name, model in SIMULATED_MODELS.items():
        share = sum(said == e.answer for said, e in zip(given[name], bundled_questions(), strict=True)) / 120
        assert share == pytest.approx(sum(map(model.skill, KINDS)) / len(KINDS), abs=0.05), name


def test_no_named_proposer_is_best_at_everything() -> None:
    best = {max(PROPOSERS, key=lambda name: SIMULATED_MODELS[name].skill(kind)) for kind in KINDS}
    assert best == {"alice", "bob", "carol"}


def test_together_the_proposers_know_more_than_any_of_them(given: dict[str, list[str]]) -> None:
    right = [e.answer for e in bundled_questions()]
    votes = [Counter(said).most_common(1)[0][0] for said in zip(*(given[name] for name in PROPOSERS), strict=True)]
    score = {name: sum(map(str.__eq__, given[name], right)) for name in PROPOSERS}
    assert max(score.values()) == 86
    assert sum(map(str.__eq__, votes, right)) == 98
    assert sum(answer in said for answer, *said in zip(right, *(given[n] for n in PROPOSERS), strict=True)) == 118


def test_models_that_err_together_often_agree(given: dict[str, list[str]]) -> None:
    pairs = [
        one == other
        for first, second in itertools.combinations(PROPOSERS, 2)
        for one, other, e in zip(given[first], given[second], bundled_questions(), strict=True)
        if e.answer not in (one, other)
    ]
    assert sum(pairs) / len(pairs) == pytest.approx(0.6, abs=0.1)
