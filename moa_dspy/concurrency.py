"""Calls side by side: one logic, which threads (`drive`) or tasks on an event loop (`adrive`) run.

A step program is a generator. It yields a `Batch` of calls that may run side by side and is
sent their outcomes, in the order in which they were declared; what it returns is the result.

`dspy.Parallel` and `dspy.asyncify` are not used for the fan-out: they lose tokens, split traces
and deadlock when nested.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import anyio.from_thread
import anyio.to_thread
import dspy

from moa_dspy.workers import start_worker

__all__ = [
    "Batch",
    "Call",
    "Outcome",
    "Steps",
    "acall",
    "adrive",
    "drive",
    "in_anyio_worker",
    "run_side_by_side",
    "together",
]

T = TypeVar("T")
R = TypeVar("R")

# Seconds that a task has to heed its cancellation; one that does not is left to itself.
_CANCELLATION = 0.1
# Seconds between two looks at whether the work was told to stop.
_LOOK = 0.1
_NEVER = float("inf")


@dataclass(frozen=True)
class Call:
    """One module to be called, with the DSPy settings it runs under."""

    module: dspy.Module
    inputs: Mapping[str, Any]
    settings: Mapping[str, Any] = field(default_factory=dict)


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
        patience: Looks at the outcomes so far and says how many seconds the unfinished calls still have; None leaves
            them what they have.
        outcomes: What has come of each so far.
    """

    calls: Sequence[Call]
    timeout: float | None = None
    patience: Callable[[Sequence[Outcome]], float | None] | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.outcomes.extend(Outcome() for _ in self.calls)


Steps = Generator[Batch, list[Outcome], T]


def drive(steps: Steps[T]) -> T:
    """Run a step program with threads; works inside a running event loop too."""
    if dspy.settings.send_stream is not None and not in_anyio_worker():
        with dspy.context(send_stream=None):  # no way to stream from here, and trying would fail the calls
            return drive(steps)
    batch, result = _advance(steps, None)
    while batch is not None:
        try:
            outcomes = _settle(_gather(batch))
        except BaseException as interrupt:
            with suppress(StopIteration):
                steps.throw(interrupt)  # which tells what was paid for, and goes on
            raise
        batch, result = _advance(steps, outcomes)
    return result


async def adrive(steps: Steps[T]) -> T:
    """Run a step program with tasks on the running event loop; cancels what it no longer needs."""
    batch, result = _advance(steps, None)
    while batch is not None:
        try:
            outcomes = _settle(await _agather(batch))
        except BaseException as interrupt:
            with suppress(StopIteration):
                steps.throw(interrupt)
            raise
        batch, result = _advance(steps, outcomes)
    return result


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


async def acall(module: dspy.Module, /, **inputs: Any) -> Any:
    """Await a module; one that has no `aforward` runs in a worker thread."""
    if hasattr(module, "aforward"):
        return await module.acall(**inputs)
    call = partial(module, **inputs)
    return await (_in_thread(call) if dspy.settings.send_stream is None else _in_anyio_thread(call))


def run_side_by_side(
    work: Callable[[T], R], items: Sequence[T], concurrency: int, interrupts: Callable[[], int] | None = None
) -> Iterator[R]:
    """Yield what the work gives for each item, as it is finished; an error in the work is raised.

    In daemon threads, each with a copy of the caller's context: an interpreter that is told to stop does not
    wait for them. No item is begun once the caller stops listening.

    Args:
        work: What to do.
        items: What to do it with.
        concurrency: How many threads.
        interrupts: How often the work was told to stop: once begins no further item, twice abandons all.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    finished: queue.SimpleQueue[Future[R] | None] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    count = interrupts or (lambda: 0)
    stopped = False

    def run() -> None:
        while not stopped and not count():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                break
            outcome: Future[R] = Future()
            try:
                outcome.set_result(work(item))
            except BaseException as error:  # carried to the caller's thread
                outcome.set_exception(error)
            finished.put(outcome)
        finished.put(None)

    running = min(concurrency, len(items))
    for _ in range(running):
        start_worker(partial(contextvars.copy_context().run, run))
    try:
        while running and count() < 2:
            try:
                outcome = finished.get(timeout=None if interrupts is None else _LOOK)
            except queue.Empty:
                continue
            if outcome is None:
                running -= 1
            else:
                yield outcome.result()
    finally:
        stopped = True


def _advance(steps: Steps[T], outcomes: list[Outcome] | None) -> tuple[Batch | None, Any]:
    try:
        return steps.send(outcomes), None  # type: ignore[arg-type]
    except StopIteration as stop:
        return None, stop.value


def _settle(outcomes: list[Outcome]) -> list[Outcome]:
    """Merge the private traces in declared order, whatever order the calls finished in."""
    for outcome in outcomes:
        _raise_interrupt(outcome)
    trace = dspy.settings.trace
    if trace is not None and (limit := dspy.settings.max_trace_size) > 0:
        trace.extend(step for outcome in outcomes for step in outcome.trace)
        del trace[: max(0, len(trace) - limit)]
    return outcomes


def _raise_interrupt(outcome: Outcome) -> None:
    # KeyboardInterrupt and its like end the whole call; a call that was cancelled has just failed.
    if outcome.error is not None and not isinstance(outcome.error, (Exception, asyncio.CancelledError)):
        raise outcome.error


def _gather(batch: Batch) -> list[Outcome]:
    """Run a batch in threads; what is no longer needed is abandoned."""
    outcomes = batch.outcomes
    if len(outcomes) == 1 and batch.timeout is None:
        _run(batch.calls[0], outcomes[0])
        return outcomes
    finished: queue.SimpleQueue[int] = queue.SimpleQueue()
    # What nobody may have to abandon runs right here: one thread less to wake.
    last = len(outcomes) - 1
    here = last if batch.timeout is None and batch.patience is None else None

    def work(index: int) -> None:
        _run(batch.calls[index], outcomes[index])
        finished.put(index)

    for index in range(len(outcomes)):
        if index != here:
            try:
                _start(partial(work, index))
            except RuntimeError as error:  # the system gives no more threads
                if index == last:
                    here = last
                    break
                outcomes[index].error, outcomes[index].finished = error, True
                finished.put(index)
    if here is not None and outcomes:
        work(here)
        if isinstance(outcomes[here].error, KeyboardInterrupt):  # not only once the others have answered
            _raise_interrupt(outcomes[here])
    end = _End(batch)
    done: set[int] = set()
    with suppress(queue.Empty):
        while len(done) < len(outcomes):
            done.add(finished.get(timeout=end.remaining))
            if batch.patience is not None and end.is_brought_by(_seen(outcomes, done)):
                break
    return _seen(outcomes, done)


async def _agather(batch: Batch) -> list[Outcome]:
    """Run a batch as tasks; what is no longer needed is cancelled."""
    outcomes = batch.outcomes
    if len(outcomes) == 1 and batch.timeout is None:
        await _arun(batch.calls[0], outcomes[0])
        if isinstance(outcomes[0].error, asyncio.CancelledError):  # of this task: there is no other
            raise outcomes[0].error
        return outcomes
    tasks = [asyncio.create_task(_arun(call, outcome)) for call, outcome in zip(batch.calls, outcomes, strict=True)]
    end = _End(batch)
    when = asyncio.ALL_COMPLETED if batch.patience is None else asyncio.FIRST_COMPLETED
    pending: set[asyncio.Task[None]] = set(tasks)
    done: set[int] = set()
    try:
        while pending:
            _, pending = await asyncio.wait(pending, timeout=end.remaining, return_when=when)
            done = {index for index, task in enumerate(tasks) if task.done()}
            if end.remaining == 0 or end.is_brought_by(_seen(outcomes, done)):
                break
        return _seen(outcomes, done)
    finally:
        for task in pending:
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=_CANCELLATION)


class _End:
    """When the unfinished calls of a batch are given up."""

    def __init__(self, batch: Batch) -> None:
        self.patience = batch.patience
        self.time = _NEVER if batch.timeout is None else time.monotonic() + batch.timeout

    @property
    def remaining(self) -> float | None:
        """Seconds until then; None if it never comes."""
        return None if self.time == _NEVER else max(0.0, self.time - time.monotonic())

    def is_brought_by(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether these outcomes end it at once; they may bring its end nearer."""
        rest = None if self.patience is None else self.patience(outcomes)
        if rest is not None:
            self.time = min(self.time, time.monotonic() + rest)
        return rest == 0


def _seen(outcomes: list[Outcome], done: set[int]) -> list[Outcome]:
    # An abandoned call still writes to its own outcome: hand out an empty one instead.
    return [outcome if index in done else Outcome() for index, outcome in enumerate(outcomes)]


def _run(call: Call, outcome: Outcome) -> None:
    started = time.perf_counter()
    try:
        with _settings(call, outcome):
            outcome.value = call.module(**call.inputs)
    except BaseException as error:  # carried to the caller's thread: a failed proposer is an outcome
        outcome.error = error
    outcome.seconds, outcome.finished = time.perf_counter() - started, True


async def _arun(call: Call, outcome: Outcome) -> None:
    started = time.perf_counter()
    try:
        with _settings(call, outcome):
            outcome.value = await acall(call.module, **call.inputs)
    except (Exception, asyncio.CancelledError) as error:
        outcome.error = error
    outcome.seconds, outcome.finished = time.perf_counter() - started, True


def _settings(call: Call, outcome: Outcome) -> Any:
    # A trace of its own for each call, or their steps would mix in the order in which they happen to finish.
    trace = None if dspy.settings.trace is None else outcome.trace
    return dspy.context(**{"trace": trace, **call.settings})


def _start(work: Callable[[], None]) -> None:
    run = partial(contextvars.copy_context().run, work)
    if dspy.settings.send_stream is None:
        start_worker(run)
    else:
        anyio.from_thread.run_sync(_start_in_anyio_thread, run)


async def _in_thread(call: Callable[[], Any]) -> Any:
    outcome, loop = Outcome(), asyncio.get_running_loop()
    done = asyncio.Event()

    def work() -> None:
        try:
            outcome.value = call()
        except BaseException as error:  # not on a future, which could not carry a StopIteration
            outcome.error = error
        with suppress(RuntimeError):  # the loop was closed: nobody waits any more
            loop.call_soon_threadsafe(done.set)

    _start(work)
    await done.wait()
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


def _start_in_anyio_thread(run: Callable[[], None]) -> None:
    task = asyncio.create_task(_in_anyio_thread(run))
    _streaming.add(task)
    task.add_done_callback(_streaming.discard)


async def _in_anyio_thread(run: Callable[[], Any]) -> Any:
    # DSPy streams a synchronous call from anyio's own threads only. An abandoned one holds up the interpreter's exit.
    return await anyio.to_thread.run_sync(run, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1))


_streaming: set[asyncio.Task[Any]] = set()


def in_anyio_worker() -> bool:
    """Whether this thread is one of anyio's own: DSPy streams a synchronous call from no other."""
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:
        return False
    return True
