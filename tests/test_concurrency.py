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

from moa_dspy import Agent, MoA, Selection

QUESTIONS = [dspy.Example(question=f"q{n}", answer=f"q{n}").with_inputs("question") for n in range(48)]


def exact(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def wavering(name: str, seed: int, usage: tuple[int, int] = (10, 5)) -> FakeLM:
    """A fake that echoes the question after a random while."""
    clock, lock = random.Random(seed), threading.Lock()

    def answer(prompt: str) -> Any:
        with lock:
            pause = clock.uniform(0, 0.01)
        threading.Event().wait(pause)
        return echo(prompt)

    return FakeLM(name, answer, usage=usage)


class TestInFlightAtOnce:
    @every_way
    def test_are_all_proposers_and_samples(self, ask: Ask) -> None:
        gate = Gate(6)
        lms = {**cast("a", "b", "c", gate=gate), **cast("judge")}
        pred = ask(mixture(lms, num_proposals_per_model=2), question="?")
        assert (len(pred.proposals), gate.opened) == (6, 1)

    @every_way
    def test_are_64_proposers(self, ask: Ask) -> None:
        gate = Gate(64, timeout=20)
        lms = {**cast(*(f"m{n}" for n in range(64)), gate=gate), **cast("judge")}
        pred = ask(mixture(lms), question="?")
        assert [p.agent for p in pred.proposals] == [f"m{n}" for n in range(64)] and gate.opened == 1
        assert len(pred.metadata.calls) == 65

    @every_way
    def test_are_the_proposers_of_mixtures_inside(self, ask: Ask) -> None:
        gate = Gate(5)
        lms = cast("a", "b", "c", "d", "e", gate=gate)
        a, b, c, d, e = lms.values()
        inner = [MoA(QA, [a, b], strategy="voting"), MoA(QA, [MoA(QA, [c, d], strategy="voting")], strategy="voting")]
        pred = ask(MoA(QA, [*inner, e], strategy="voting"), question="?")
        assert (len(pred.proposals), gate.opened, calls(lms)) == (3, 1, dict.fromkeys("abcde", 1))

    @every_way
    def test_are_the_rotations_of_a_selection(self, ask: Ask) -> None:
        gate = Gate(3)
        judge = FakeLM("judge", lambda prompt: {"reasoning": "r", "choice": "P1"}, gate=gate)
        ask(mixture({**cast("a", "b"), "judge": judge}, strategy=Selection(rotations=3)), question="?")
        assert (gate.opened, judge.calls) == (1, 3)

    def test_are_the_proposers_in_evaluate(self) -> None:
        gate = Gate(16)
        lms = [FakeLM(name, echo, gate=gate) for name in "ab"]
        moa = MoA(QA, lms, strategy="voting")
        evaluate = dspy.Evaluate(devset=QUESTIONS[:16], metric=exact, num_threads=8, display_progress=False)
        assert (evaluate(moa).score, gate.opened) == (100, 2)

    def test_are_the_calls_of_several_tasks(self) -> None:
        gate = Gate(16)
        moa = MoA(QA, [FakeLM(name, echo, gate=gate) for name in "ab"], strategy="voting")

        async def main() -> list[Any]:
            return await asyncio.gather(*(moa.acall(question=f"q{n}") for n in range(8)))

        assert [pred.answer for pred in asyncio.run(main())] == [f"q{n}" for n in range(8)] and gate.opened == 1

    def test_need_no_more_workers_than_dspy_is_allowed(self) -> None:
        gate = Gate(12)
        lms = cast(*(f"m{n}" for n in range(12)), gate=gate)
        with dspy.context(async_max_workers=1, num_threads=1):
            run: Any = dspy.asyncify(MoA(QA, [*lms.values()], strategy="voting"))
            asyncio.run(run(question="?"))
        assert gate.opened == 1


class TestManyThreads:
    def test_get_each_its_own_answer_and_account(self) -> None:
        lms = [
            wavering("a", 1, (1, 2)),
            wavering("b", 2, (3, 4)),
            wavering("a", 3, (5, 6)),
            wavering("judge", 4, (7, 8)),
        ]
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
            usage = pred.get_lm_usage()
            assert {model: told["completion_tokens"] for model, told in usage.items()} == {"a": 16, "b": 8, "judge": 8}
        assert [lm.calls for lm in lms] == [96, 96, 96, 48]
        assert all(question(prompt).startswith("q") for lm in lms for prompt in lm.prompts)

    def test_may_share_mixtures_inside_mixtures(self) -> None:
        a, b, judge = wavering("a", 1), wavering("b", 2), wavering("judge", 3)
        inner = MoA(QA, [a, b], judge)
        moa = MoA(QA, [inner, Agent(b, dspy.ChainOfThought(QA))], judge)
        evaluate = dspy.Evaluate(devset=QUESTIONS, metric=exact, num_threads=8, display_progress=False)
        assert evaluate(moa).score == 100
        assert calls({"a": a, "b": b, "judge": judge}) == {"a": 48, "b": 96, "judge": 96}

    def test_may_mix_threads_and_tasks(self) -> None:
        moa = MoA(QA, [wavering("a", 1), wavering("b", 2)], strategy="voting")

        async def main() -> list[str]:
            tasks = [moa.acall(question=f"t{n}") for n in range(12)]
            threads = [asyncio.to_thread(moa, question=f"s{n}") for n in range(12)]
            return [pred.answer for pred in await asyncio.gather(*tasks, *threads)]

        assert asyncio.run(main()) == [f"{kind}{n}" for kind in "ts" for n in range(12)]

    def test_leave_no_threads_behind(self) -> None:
        before = threading.active_count()
        for _ in range(5):
            mixture(cast("a", "b", "c", "judge"))(question="?")
        while threading.active_count() > before:
            threading.Event().wait(0.01)
        assert threading.active_count() == before


class TestSettings:
    @every_way
    def test_of_the_caller_reach_every_call(self, ask: Ask) -> None:
        lms = cast("a", "b", "judge")
        with dspy.context(adapter=dspy.JSONAdapter()):
            ask(mixture(lms), question="?")
        assert all("JSON object" in prompt for lm in lms.values() for prompt in lm.prompts)

    @every_way
    def test_are_left_as_they_were(self, ask: Ask) -> None:
        before = dict(dspy.settings.config)
        with dspy.context(max_errors=3):
            ask(mixture(cast("a", "b", "judge")), question="?")
        after = dict(dspy.settings.config)
        assert {key: after[key] for key in before if key != "trace"} == {
            key: before[key] for key in before if key != "trace"
        }
        assert {*after} == {*before}

    @every_way
    def test_may_be_read_only_for_the_mixture(self, ask: Ask) -> None:
        lms = cast("a", "judge")
        with dspy.context(lm=lms["judge"]):
            assert ask(MoA(QA, [lms["a"]]), question="?").answer == "judge"


def test_history_of_the_mixture_holds_every_call() -> None:
    moa = mixture(cast("a", "b", "judge"))
    moa(question="?")
    assert sorted(entry["model"] for entry in moa.history) == ["a", "b", "judge"]


@pytest.mark.parametrize("repeat", range(3))
def test_stress_of_threads_and_mail_keeps_every_answer(repeat: int) -> None:
    lms = [wavering(name, repeat) for name in ("a", "b", "judge")]
    moa = MoA(QA, lms[:2], lms[2])
    best = dspy.BestOfN(moa, N=2, reward_fn=lambda inputs, pred: 0.0, threshold=1.0)
    evaluate = dspy.Evaluate(devset=QUESTIONS[:24], metric=exact, num_threads=8, display_progress=False)
    assert evaluate(best).score == 100
    assert [lm.calls for lm in lms] == [48, 48, 48]
