"""How calls run side by side, where a mixture cannot show it."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import dspy
import pytest
from support.mixtures import cast, mixture

from moa_dspy.allowance import Allowance
from moa_dspy.concurrency import Batch, Call, Steps, adrive, drive, run_side_by_side, together
from moa_dspy.given_up import run_awaited
from moa_dspy.workers import start_worker


class Says(dspy.Module):
    def __init__(self, value: Any, delay: float = 0.0) -> None:
        super().__init__()
        self.value, self.delay = value, delay

    def forward(self) -> Any:
        time.sleep(self.delay)
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value, threading.current_thread().name


def ask(*modules: Says, **options: Any) -> Steps[list[Any]]:
    outcomes = yield Batch([Call(module, {}) for module in modules], **options)
    return outcomes


def test_the_last_call_runs_in_the_callers_thread() -> None:
    names = [outcome.value[1] for outcome in drive(ask(Says(1), Says(2), Says(3)))]
    assert names == ["moa", "moa", threading.current_thread().name]


def test_what_may_have_to_be_abandoned_does_not() -> None:
    started = time.monotonic()
    outcomes = drive(ask(Says(1), Says(2, delay=5), timeout=0.3))
    assert [o.finished for o in outcomes] == [True, False] and time.monotonic() - started < 3


def test_programs_side_by_side_join_their_batches() -> None:
    a, b = drive(together(ask(Says("a", 0.2)), ask(Says("b", 0.2))))
    assert (a[0].value[0], b[0].value[0]) == ("a", "b")


def test_an_error_is_an_outcome_and_an_interrupt_is_not() -> None:
    [outcome] = drive(ask(Says(ValueError("no"))))
    assert isinstance(outcome.error, ValueError)
    with pytest.raises(KeyboardInterrupt):
        drive(ask(Says(KeyboardInterrupt()), Says(1)))


def test_async_does_not_wait_for_a_task_that_ignores_its_cancellation() -> None:
    class Stubborn(dspy.Module):
        async def aforward(self) -> None:
            for _ in range(100):
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.1)

    def steps() -> Steps[Any]:
        return (yield Batch([Call(Stubborn(), {}), Call(Says(1), {})], timeout=0.2))

    async def run() -> float:
        started = time.monotonic()
        await adrive(steps())
        return time.monotonic() - started

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(run()) < 3


def test_threads_are_used_again() -> None:
    seen: set[int] = set()

    def look(done: threading.Event) -> None:
        seen.add(threading.get_ident())
        done.set()

    for _ in range(20):
        done = threading.Event()
        start_worker(partial(look, done))
        done.wait(5)
        time.sleep(0.005)
    assert len(seen) <= 5


def test_a_thread_that_cannot_be_started_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(work: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("moa_dspy.concurrency.start_worker", refuse)
    pred = mixture(cast("a", "b", "judge"))(question="?")
    assert [(f.agent, f.error) for f in pred.metadata.failures] == [("a", "RuntimeError")]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_starts_threads_of_its_own() -> None:
    program = """
import os, threading
from moa_dspy.given_up import run_awaited
from moa_dspy.workers import start_worker
done = threading.Event(); start_worker(done.set); done.wait(5)
import time; time.sleep(0.1)
pid = os.fork()
if pid == 0:
    done = threading.Event(); start_worker(done.set)
    os._exit(0 if done.wait(5) else 1)
print(os.waitpid(pid, 0)[1])
"""
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "0\n"


def test_an_abandoned_call_does_not_keep_the_interpreter_from_exiting() -> None:
    program = """
import threading
from moa_dspy.given_up import run_awaited
from moa_dspy.workers import start_worker
start_worker(threading.Event().wait); print("done")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


def test_calls_that_many_threads_have_awaited_at_once_share_one_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    new, made = asyncio.new_event_loop, list[int]()

    def make_slowly() -> asyncio.AbstractEventLoop:
        made.append(1)
        time.sleep(0.05)
        return new()

    monkeypatch.setattr("moa_dspy.given_up._loop", None)
    monkeypatch.setattr(asyncio, "new_event_loop", make_slowly)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: run_awaited(asyncio.sleep(0), Allowance()), range(8)))
    assert made == [1]


def test_work_side_by_side_stops_when_told() -> None:
    asked: list[int] = []
    results = run_side_by_side(asked.append, range(100), 2, lambda: int(len(asked) >= 10))
    assert 10 <= len(list(results)) <= 12
