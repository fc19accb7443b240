"""Calls that run side by side: in threads, or as tasks on an event loop.

`dspy.Parallel` and `dspy.asyncify` are not used for the fan-out: they lose tokens, split traces
and deadlock when nested.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio.from_thread
import anyio.to_thread
import dspy

from moa_dspy.sampling import Rollout, ambient, compose, sampling

__all__ = ["Batch", "Call", "Outcome", "acall", "agather", "gather"]


@dataclass(frozen=True)
class Call:
    """One module to be called, with the DSPy settings and the rollout it runs under."""

    module: dspy.Module
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)
    rollout: Rollout | None = None


@dataclass
class Outcome:
    """What came of a call. Not `finished`: it was abandoned, too late or no longer needed."""

    value: Any = None
    error: BaseException | None = None
    finished: bool = False
    seconds: float = 0.0
    trace: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Batch:
    """Calls that run side by side.

    Args:
        calls: What to call.
        timeout: Seconds after which the unfinished calls are abandoned; None waits for all.
        enough: Looks at the outcomes so far and says whether the unfinished calls are no longer needed.
    """

    calls: Sequence[Call]
    timeout: float | None = None
    enough: Callable[[Sequence[Outcome]], bool] | None = None


def gather(batch: Batch) -> list[Outcome]:
    """Run a batch in threads; what is no longer needed is abandoned."""
    outcomes = [Outcome() for _ in batch.calls]
    if len(batch.calls) == 1 and batch.timeout is None:
        _run(batch.calls[0], outcomes[0])
        return outcomes
    finished: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work(index: int) -> None:
        _run(batch.calls[index], outcomes[index])
        finished.put(index)

    for index in range(len(batch.calls)):
        _start(partial(work, index))
    deadline = None if batch.timeout is None else time.monotonic() + batch.timeout
    done: set[int] = set()
    while len(done) < len(outcomes):
        try:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            done.add(finished.get(timeout=remaining))
        except queue.Empty:
            break
        if batch.enough is not None and batch.enough(_seen(outcomes, done)):
            break
    return _seen(outcomes, done)


async def agather(batch: Batch) -> list[Outcome]:
    """Run a batch as tasks; what is no longer needed is cancelled."""
    outcomes = [Outcome() for _ in batch.calls]
    tasks = [asyncio.create_task(_arun(call, outcome)) for call, outcome in zip(batch.calls, outcomes, strict=True)]
    loop = asyncio.get_running_loop()
    deadline = None if batch.timeout is None else loop.time() + batch.timeout
    when = asyncio.ALL_COMPLETED if batch.enough is None else asyncio.FIRST_COMPLETED
    pending: set[asyncio.Task[None]] = set(tasks)
    done: set[int] = set()
    try:
        while pending:
            remaining = None if deadline is None else max(0.0, deadline - loop.time())
            _, pending = await asyncio.wait(pending, timeout=remaining, return_when=when)
            done = {index for index, task in enumerate(tasks) if task.done()}
            if deadline is not None and loop.time() >= deadline:
                break
            if batch.enough is not None and batch.enough(_seen(outcomes, done)):
                break
        return _seen(outcomes, done)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


async def acall(module: dspy.Module, /, **inputs: Any) -> Any:
    """Await a module; one that has no `aforward` runs in a worker thread."""
    if hasattr(module, "aforward"):
        return await module.acall(**inputs)
    call = partial(module, **inputs)
    return await (_in_thread(call) if dspy.settings.send_stream is None else _in_worker(call))


async def _in_thread(call: Callable[[], Any]) -> Any:
    outcome, done = Outcome(), concurrent.futures.Future[None]()

    def work() -> None:
        try:
            outcome.value = call()
        except BaseException as error:  # not on the future, which could not carry a StopIteration
            outcome.error = error
        done.set_result(None)

    done.set_running_or_notify_cancel()
    _start(work)
    await asyncio.wrap_future(done)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _start(work: Callable[[], None]) -> None:
    run = partial(contextvars.copy_context().run, work)
    if dspy.settings.send_stream is None:
        # A daemon: an abandoned call must not keep the interpreter from exiting.
        threading.Thread(target=run, daemon=True, name="moa").start()
    else:
        anyio.from_thread.run_sync(_start_in_worker, run)


def _start_in_worker(run: Callable[[], None]) -> None:
    task = asyncio.create_task(_in_worker(run))
    _workers.add(task)
    task.add_done_callback(_workers.discard)


async def _in_worker(run: Callable[[], Any]) -> Any:
    # DSPy streams a synchronous call from anyio's own threads only. An abandoned one holds up the interpreter's exit.
    return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


_workers: set[asyncio.Task[Any]] = set()


def _seen(outcomes: list[Outcome], done: set[int]) -> list[Outcome]:
    # An abandoned call still writes to its own outcome: hand out an empty one instead.
    return [outcome if index in done else Outcome() for index, outcome in enumerate(outcomes)]


def _run(call: Call, outcome: Outcome) -> None:
    started = time.perf_counter()
    try:
        with _private(call, outcome):
            outcome.value = call.module(**call.inputs)
    except BaseException as error:  # carried to the caller's thread: a failed proposer is an outcome
        outcome.error = error
    outcome.seconds, outcome.finished = time.perf_counter() - started, True


async def _arun(call: Call, outcome: Outcome) -> None:
    started = time.perf_counter()
    try:
        with _private(call, outcome):
            outcome.value = await acall(call.module, **call.inputs)
    except (Exception, asyncio.CancelledError) as error:
        outcome.error = error
    outcome.seconds, outcome.finished = time.perf_counter() - started, True


@contextmanager
def _private(call: Call, outcome: Outcome) -> Iterator[None]:
    """A trace of its own for each call, or their steps would mix in the order in which they happen to finish."""
    trace = None if dspy.settings.trace is None else outcome.trace
    with sampling(compose(ambient(), call.rollout)), dspy.context(trace=trace, **call.settings):
        yield
