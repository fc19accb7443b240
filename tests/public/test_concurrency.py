"""Everything that can run side by side does, in threads and tasks, and nothing gets mixed up."""

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.gate import Gate
from support.mixtures import QA, Ask, calls, cast, echo, every_way, mixture, question
from support.shown import JUDGED

from moa_dspy import MoA, Selection

QUESTIONS = [dspy.Example(question=f"q{n}", answer=f"q{n}").with_inputs("question") for n in range(32)]


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def evaluated(program: dspy.Module, examples: Any = QUESTIONS) -> float:
    run = dspy.Evaluate(devset=examples, metric=exact, num_threads=8, display_progress=False)
    return float(run(program).score)


def wavering(name: str, seed: int, usage: tuple[int, int] = (10, 5)) -> FakeLM:
    """A fake that echoes the question after a random while."""
    clock, lock = random.Random(seed), threading.Lock()

    def answer(prompt: str) -> Any:
        with lock:
            pause = clock.uniform(0, 0.01)
        threading.Event().wait(pause)
        return echo(prompt)

    return FakeLM(name, answer, usage=usage)


# In flight at once.


@every_way
@pytest.mark.parametrize(("proposers", "samples"), [(1, 6), (3, 2), (64, 1)])
def test_all_proposers_and_samples_are(ask: Ask, proposers: int, samples: int) -> None:
    gate = Gate(proposers * samples, timeout=20)
    names = [f"m{n}" for n in range(proposers)]
    pred = ask(mixture({**cast(*names, gate=gate), **cast("judge")}, num_proposals_per_model=samples), question="?")
    assert [p.agent for p in pred.proposals] == [name for name in names for _ in range(samples)]
    assert (gate.opened, pred.metadata.usage.calls) == (1, proposers * samples + 1)


@every_way
def test_the_proposers_of_mixtures_inside_are(ask: Ask) -> None:
    gate = Gate(5)
    lms = cast("a", "b", "c", "d", "e", gate=gate)
    a, b, c, d, e = lms.values()
    inner = [MoA(QA, [a, b], strategy="voting"), MoA(QA, [MoA(QA, [c, d], strategy="voting")], strategy="voting")]
    pred = ask(MoA(QA, [*inner, e], strategy="voting"), question="?")
    assert (len(pred.proposals), gate.opened, calls(lms)) == (3, 1, dict.fromkeys("abcde", 1))


@every_way
def test_the_rotations_of_a_selection_are(ask: Ask) -> None:
    gate = Gate(3)
    judge = FakeLM("judge", lambda prompt: JUDGED, gate=gate)
    ask(mixture({**cast("a", "b"), "judge": judge}, strategy=Selection(rotations=3)), question="?")
    assert (gate.opened, judge.calls) == (1, 3)


def test_the_questions_of_an_evaluation_are() -> None:
    gate = Gate(16)
    moa = MoA(QA, [FakeLM(name, echo, gate=gate) for name in "ab"], strategy="voting")
    assert (evaluated(moa, QUESTIONS[:16]), gate.opened) == (100, 2)


def test_64_tasks_are() -> None:
    gate = Gate(128, timeout=20)
    moa = MoA(QA, [FakeLM(name, echo, gate=gate) for name in "ab"], strategy="voting")

    async def main() -> list[Any]:
        return await asyncio.gather(*(moa.acall(question=f"q{n}") for n in range(64)))

    assert [pred.answer for pred in asyncio.run(main())] == [f"q{n}" for n in range(64)] and gate.opened == 1


def test_no_more_workers_are_needed_than_dspy_is_allowed() -> None:
    gate = Gate(12)
    lms = cast(*(f"m{n}" for n in range(12)), gate=gate)
    with dspy.context(async_max_workers=1, num_threads=1):
        run: Any = dspy.asyncify(MoA(QA, [*lms.values()], strategy="voting"))
        asyncio.run(run(question="?"))
    assert gate.opened == 1


# Many threads.


def test_each_call_gets_its_own_answer_trace_and_account() -> None:
    usages = [("a", (1, 2)), ("b", (3, 4)), ("a", (5, 6)), ("judge", (7, 8))]
    lms = [wavering(name, seed, usage) for seed, (name, usage) in enumerate(usages)]
    moa = MoA(QA, lms[:3], lms[3], num_proposals_per_model=2)

    def ask(example: dspy.Example) -> Any:
        with dspy.context(trace=[], track_usage=True):
            return moa(question=example.question), list(dspy.settings.trace)

    with ThreadPoolExecutor(16) as pool:
        jobs = [pool.submit(copy_context().run, ask, example) for example in QUESTIONS]
        results = [job.result(timeout=60) for job in jobs]
    for example, (pred, trace) in zip(QUESTIONS, results, strict=True):
        assert {p.outputs["answer"] for p in pred.proposals} == {example.answer} == {pred.answer}
        assert [step[1]["question"] for step in trace] == [example.question] * 7
        agents = {name: (usage.calls, usage.prompt_tokens) for name, usage in pred.metadata.agents.items()}
        assert agents == {"a": (2, 2), "b": (2, 6), "a_2": (2, 10), "aggregator": (1, 7)}
        told = {model: tokens["completion_tokens"] for model, tokens in pred.get_lm_usage().items()}
        assert told == {"a": 16, "b": 8, "judge": 8}
    assert all(question(prompt).startswith("q") for lm in lms for prompt in lm.prompts)


def test_threads_and_tasks_may_be_mixed() -> None:
    moa = MoA(QA, [wavering("a", 1), wavering("b", 2)], strategy="voting")

    async def main() -> list[str]:
        tasks = [moa.acall(question=f"t{n}") for n in range(12)]
        threads = [asyncio.to_thread(moa, question=f"s{n}") for n in range(12)]
        return [pred.answer for pred in await asyncio.gather(*tasks, *threads)]

    assert asyncio.run(main()) == [f"{kind}{n}" for kind in "ts" for n in range(12)]


@pytest.mark.parametrize("repeat", range(2))
def test_attempts_in_many_threads_keep_every_answer(repeat: int) -> None:
    lms = [wavering(name, repeat) for name in ("a", "b", "judge")]
    best = dspy.BestOfN(MoA(QA, lms[:2], lms[2]), N=2, reward_fn=lambda inputs, pred: 0.0, threshold=1.0)
    assert evaluated(best) == 100 and [lm.calls for lm in lms] == [64, 64, 64]


def test_no_threads_are_left_behind() -> None:
    before = threading.active_count()
    for _ in range(5):
        mixture(cast("a", "b", "c", "judge"))(question="?")
    for _ in range(500):
        if threading.active_count() <= before:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{threading.active_count() - before} threads are left")


# Settings.


@every_way
def test_the_callers_settings_reach_every_call_and_stay(ask: Ask) -> None:
    lms = cast("a", "b", "judge")
    with dspy.context(adapter=dspy.JSONAdapter(), max_errors=3):
        before = {key: value for key, value in dspy.settings.config.items() if key != "trace"}
        ask(mixture(lms), question="?")
        assert {key: value for key, value in dspy.settings.config.items() if key != "trace"} == before
    assert all("JSON object" in prompt for lm in lms.values() for prompt in lm.prompts)
