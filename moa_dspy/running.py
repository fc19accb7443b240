"""One logic, two drivers: a program of steps runs in threads or on an event loop.

A step program is a generator. It yields a `Batch` of calls that may run side by side and is
sent their outcomes, in the order in which they were declared; what it returns is the result.
`drive` runs it with threads, `adrive` with tasks. `dspy.Parallel` and `dspy.asyncify` are not
used for the fan-out: they lose tokens, split traces and deadlock when nested.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio.from_thread
import anyio.to_thread
import dspy

from moa_dspy.sampling import Rollout, ambient, compose, sampling

T = TypeVar("T")


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


Steps = Generator[Batch, list[Outcome], T]


def together(*programs: Steps[T]) -> Steps[list[T]]:
    """Run step programs side by side: their batches join into one."""
    results: dict[int, T] = {}
    inboxes: dict[int, list[Outcome] | None] = dict.fromkeys(range(len(programs)))
    while True:
        asked: dict[int, Batch] = {}
        for index, outcomes in inboxes.items():
            batch, result = _advance(programs[index], outcomes)
            if batch is None:
                results[index] = result
            else:
                asked[index] = batch
        if not asked:
            return [results[index] for index in range(len(programs))]
        outcomes = yield Batch([call for batch in asked.values() for call in batch.calls])
        answers = iter(outcomes)
        inboxes = {index: [next(answers) for _ in batch.calls] for index, batch in asked.items()}


def drive(steps: Steps[T]) -> T:
    """Run a step program with threads; works inside a running event loop too."""
    if dspy.settings.send_stream is not None:
        # DSPy's synchronous streaming hops to the event loop from anyio's own worker threads
        # only, so under streamify the calls run on that loop.
        return anyio.from_thread.run(adrive, steps)
    batch, result = _advance(steps, None)
    while batch is not None:
        batch, result = _advance(steps, _settle(_gather(batch)))
    return result


async def adrive(steps: Steps[T]) -> T:
    """Run a step program with tasks on the running event loop; cancels what it no longer needs."""
    batch, result = _advance(steps, None)
    while batch is not None:
        batch, result = _advance(steps, _settle(await _agather(batch)))
    return result


async def acall(module: dspy.Module, **inputs: Any) -> Any:
    """Await a module; one that has no `aforward` runs in a worker thread."""
    if hasattr(module, "aforward"):
        return await module.acall(**inputs)
    limiter = anyio.CapacityLimiter(1)
    return await anyio.to_thread.run_sync(partial(module, **inputs), abandon_on_cancel=True, limiter=limiter)


def _advance(steps: Steps[T], outcomes: list[Outcome] | None) -> tuple[Batch | None, Any]:
    try:
        return steps.send(outcomes), None  # type: ignore[arg-type]
    except StopIteration as stop:
        return None, stop.value


def _settle(outcomes: list[Outcome]) -> list[Outcome]:
    """Merge the private traces in declared order, whatever order the calls finished in."""
    for outcome in outcomes:
        if outcome.error is not None and not isinstance(outcome.error, Exception):
            raise outcome.error
    trace, limit = dspy.settings.trace, dspy.settings.max_trace_size
    if trace is not None and limit > 0:
        trace.extend(step for outcome in outcomes for step in outcome.trace)
        del trace[: max(0, len(trace) - limit)]
    return outcomes


def _gather(batch: Batch) -> list[Outcome]:
    outcomes = [Outcome() for _ in batch.calls]
    if len(batch.calls) == 1 and batch.timeout is None:
        _run(batch.calls[0], outcomes[0])
        return outcomes
    finished: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work(index: int) -> None:
        _run(batch.calls[index], outcomes[index])
        finished.put(index)

    for index in range(len(batch.calls)):
        # Daemons: an abandoned call must not keep the interpreter from exiting.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work, index), daemon=True, name=f"moa-{index}").start()
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


async def _agather(batch: Batch) -> list[Outcome]:
    outcomes = [Outcome() for _ in batch.calls]
    tasks = [asyncio.create_task(_arun(call, outcome)) for call, outcome in zip(batch.calls, outcomes, strict=True)]
    loop = asyncio.get_running_loop()
    deadline = None if batch.timeout is None else loop.time() + batch.timeout
    when = asyncio.ALL_COMPLETED if batch.enough is None else asyncio.FIRST_COMPLETED
    pending: set[asyncio.Task[None]] = set(tasks)
    try:
        while pending:
            remaining = None if deadline is None else max(0.0, deadline - loop.time())
            _, pending = await asyncio.wait(pending, timeout=remaining, return_when=when)
            done = {index for index, task in enumerate(tasks) if task.done()}
            if deadline is not None and loop.time() >= deadline:
                break
            if batch.enough is not None and batch.enough(_seen(outcomes, done)):
                break
        return _seen(outcomes, {index for index, task in enumerate(tasks) if task.done()})
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _seen(outcomes: list[Outcome], done: set[int]) -> list[Outcome]:
    # An abandoned thread still writes to its own outcome: hand out an empty one instead.
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
    except Exception as error:
        outcome.error = error
    outcome.seconds, outcome.finished = time.perf_counter() - started, True


@contextmanager
def _private(call: Call, outcome: Outcome) -> Iterator[None]:
    trace = None if dspy.settings.trace is None else outcome.trace
    with sampling(compose(ambient(), call.rollout)), dspy.context(trace=trace, **call.settings):
        yield
