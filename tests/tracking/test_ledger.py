from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback
from support.compiling import TRAIN, Outer, Setting, coach, right, role
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, Ask, cast, every_way, in_task, mixture, says

from moa_dspy import Agent, Limits, MoA
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.optimizers import Specialize
from moa_dspy.tracking.ledger import Ledger
from moa_dspy.usage import Usage


@contextmanager
def counting() -> Iterator[Ledger]:
    ledger = Ledger()
    with dspy.context(**ledger.settings()):
        yield ledger


def billed(ledger: Ledger, **which: bool) -> dict[tuple[str, str], int]:
    """(Who, model) -> the prompt tokens counted."""
    counted: Counter[tuple[str, str]] = Counter()
    for call in ledger.calls(**which):
        counted[call.agent, call.model] += call.prompt_tokens
    return dict(counted)


def sent(lms: Mapping[str, FakeLM]) -> dict[str, int]:
    """Model -> the prompt tokens that its engine counted."""
    return {name: 10 * lm.calls for name, lm in lms.items() if lm.calls}


def by_model(ledger: Ledger) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for (_, model), tokens in billed(ledger).items():
        counted[model] += tokens
    return dict(counted)


@every_way
def test_a_mixtures_calls_go_by_their_agents(ask: Ask) -> None:
    lms = {"a": FakeLM("a", says("a"), usage=(1, 2)), "judge": FakeLM("judge", says("j"), usage=(3, 4))}
    with counting() as ledger:
        ask(mixture(lms), question="?")
    assert billed(ledger) == {("a", "a"): 1, ("aggregator", "judge"): 3}


def test_what_is_called_afterwards_is_not_counted() -> None:
    moa = mixture(cast("a", "judge"))
    with counting() as ledger:
        pass
    moa(question="?")
    assert ledger.calls() == []


@pytest.mark.parametrize("tracked", [False, True], ids=["plain", "track_usage"])
def test_the_workers_of_dspys_executors_are_counted(tracked: bool) -> None:
    lms = cast("a", "b", "judge")
    moa = mixture(lms)
    with dspy.context(track_usage=tracked), counting() as ledger:
        dspy.Evaluate(devset=EXAMPLES * 4, metric=lambda *_: True, num_threads=4)(moa)
        dspy.Parallel(num_threads=3, disable_progress_bar=True)([(moa, example) for example in EXAMPLES])
    assert by_model(ledger) == sent(lms) == {"a": 150, "b": 150, "judge": 150}


def test_a_programs_own_usage_is_still_noted() -> None:
    moa = mixture(cast("a", "judge"))
    with dspy.context(track_usage=True), counting():
        used: Any = moa(question="?").get_lm_usage()
    assert {model: tokens["prompt_tokens"] for model, tokens in used.items()} == {"a": 10, "judge": 10}


def test_no_history_is_needed(cached: None) -> None:
    lms = cast("a", "judge", cache=True)
    with dspy.context(disable_history=True), counting() as ledger:
        in_task(mixture(lms), question="?")
        in_task(mixture(lms), question="?")
    assert by_model(ledger) == sent(lms) == {"a": 10, "judge": 10}
    assert [call.cache_hit for call in ledger.calls()] == [False, False, True, True]


def test_a_hit_is_not_billed_for_the_miss_beside_it(cached: None) -> None:
    class Dawdler(BaseCallback):
        """Holds the hit up until the miss is billed: both tell the tracker of the program around them."""

        def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            time.sleep(0.3 if "q0" in str(inputs) else 0)

    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.answer = dspy.Predict(QA)

        def forward(self, *questions: str) -> Any:
            *_, last = run_side_by_side(lambda question: self.answer(question=question), questions, 2)
            return last

    program = Twice()
    with dspy.context(lm=FakeLM("a", says("a"), cache=True), track_usage=True):
        program("q0")
        with counting() as ledger, dspy.context(callbacks=[ledger, Dawdler()]):
            program("q0", "q1")
    assert sorted(call.cache_hit for call in ledger.calls()) == [False, True]
    assert Usage.of(ledger.calls()).prompt_tokens == 10


def test_agents_of_an_inner_mixture_are_named_by_the_way_to_them() -> None:
    inner = Agent(program=mixture(cast("a", "judge")), name="inner")
    moa = MoA(QA, [inner, *cast("a").values()], FakeLM("boss", says("x")))
    with counting() as ledger:
        moa(question="?")
    ways = [("inner.a", "a"), ("inner.aggregator", "judge"), ("a", "a"), ("aggregator", "boss")]
    assert billed(ledger) == dict.fromkeys(ways, 10)


def test_what_no_agent_asks_is_the_programs() -> None:
    class Around(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.moa, self.check = mixture(cast("a", "judge")), dspy.Predict("answer -> verdict")

        def forward(self, question: str) -> Any:
            return self.check(answer=self.moa(question=question).answer)

    with dspy.context(lm=FakeLM("checker", [{"verdict": "good"}])), counting() as ledger:
        Around()(question="?")
    assert billed(ledger) == {("a", "a"): 10, ("aggregator", "judge"): 10, ("program", "checker"): 10}


@pytest.mark.parametrize("nested", [False, True], ids=["moa", "outer"])
def test_a_compile_is_counted_to_the_last_token(nested: bool) -> None:
    lms, writer = {name: role(name) for name in ("ada", "bo", "judge")}, FakeLM("coach", coach)
    program = Setting(nested=nested).program(lms)
    optimizer = dspy.GEPA(
        metric=lambda *given: dspy.Prediction(score=right(*given[:2]), feedback="no"),
        reflection_lm=writer,
        max_metric_calls=20,
        num_threads=3,
    )
    with counting() as ledger:
        tuned = optimizer.compile(program, trainset=TRAIN, valset=TRAIN)
        compiling = sent({**lms, "coach": writer})
        tuned(question="q1")
    assert writer.calls and by_model(ledger) == sent({**lms, "coach": writer})
    assert sum(billed(ledger, compiling=True).values()) == sum(compiling.values())
    assert set(billed(ledger)) == {("ada", "ada"), ("bo", "bo"), ("aggregator", "judge"), ("optimizer", "coach")}
    assert set(billed(ledger, compiling=False).values()) == {10}


def test_so_are_stages_side_by_side() -> None:
    lms, writer = {name: role(name) for name in ("ada", "bo", "judge")}, FakeLM("coach", coach)
    optimizer = dspy.COPRO(metric=right, prompt_model=writer, breadth=2, depth=1)
    with counting() as ledger:
        Specialize(metric=right, optimizer=optimizer, num_threads=4).compile(Setting().program(lms), trainset=TRAIN)
    assert writer.calls and by_model(ledger) == sent({**lms, "coach": writer})
    assert set(billed(ledger)) == {("ada", "ada"), ("bo", "bo"), ("aggregator", "judge"), ("optimizer", "coach")}


def test_ledgers_in_two_threads_do_not_mix() -> None:
    found: dict[str, dict[str, int]] = {}
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with counting() as ledger:
            both.wait()
            mixture(cast(name, "judge"))(question="?")
            both.wait()
        found[name] = by_model(ledger)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {"a": {"a": 10, "judge": 10}, "b": {"b": 10, "judge": 10}}


def test_one_in_another_counts_too() -> None:
    moa = Outer(mixture(cast("a", "judge")))
    with counting() as whole:
        moa(question="?")
        with counting() as part:
            moa(question="?")
    assert (by_model(whole), by_model(part)) == ({"a": 20, "judge": 20}, {"a": 10, "judge": 10})
    assert billed(whole) == {("a", "a"): 20, ("aggregator", "judge"): 20}


def test_calls_left_behind_are_named() -> None:
    slow = {"a": FakeLM("a", says("a"), delay=3), **cast("b", "judge")}
    moa = mixture(slow, limits=Limits(proposer_timeout=1))
    with counting() as ledger:
        moa(question="?")
    ended = {call.agent: call.error for call in ledger.calls()}
    assert ended == {"a": "Unfinished", "b": None, "aggregator": None}
