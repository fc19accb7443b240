"""One logic, two drivers: a program of steps runs in threads or on an event loop.

A step program is a generator. It yields a `Batch` of calls that may run side by side and is
sent their outcomes, in the order in which they were declared; what it returns is the result.
`drive` runs it with threads, `adrive` with tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, TypeVar

import anyio.from_thread
import dspy

from moa_dspy.calls import Batch, Call, Outcome, agather, gather

__all__ = ["Batch", "Call", "Outcome", "Steps", "adrive", "drive", "together"]

T = TypeVar("T")
Steps = Generator[Batch, list[Outcome], T]


def drive(steps: Steps[T]) -> T:
    """Run a step program with threads; works inside a running event loop too."""
    if dspy.settings.send_stream is not None and not _in_anyios_worker():
        with dspy.context(send_stream=None):  # no way to stream from here, and trying would fail the calls
            return _drive(steps)
    return _drive(steps)


async def adrive(steps: Steps[T]) -> T:
    """Run a step program with tasks on the running event loop; cancels what it no longer needs."""
    batch, result = _advance(steps, None)
    while batch is not None:
        batch, result = _advance(steps, _settle(await agather(batch)))
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


def _drive(steps: Steps[T]) -> T:
    batch, result = _advance(steps, None)
    while batch is not None:
        batch, result = _advance(steps, _settle(gather(batch)))
    return result


def _in_anyios_worker() -> bool:
    try:
        anyio.from_thread.check_cancelled()
    except RuntimeError:
        return False
    return True


def _advance(steps: Steps[T], outcomes: list[Outcome] | None) -> tuple[Batch | None, Any]:
    try:
        return steps.send(outcomes), None  # type: ignore[arg-type]
    except StopIteration as stop:
        return None, stop.value


def _settle(outcomes: list[Outcome]) -> list[Outcome]:
    """Merge the private traces in declared order, whatever order the calls finished in."""
    for outcome in outcomes:
        # KeyboardInterrupt and its like end the whole call; a call that was cancelled has just failed.
        if outcome.error is not None and not isinstance(outcome.error, (Exception, asyncio.CancelledError)):
            raise outcome.error
    trace, limit = dspy.settings.trace, dspy.settings.max_trace_size
    if trace is not None and limit > 0:
        trace.extend(step for outcome in outcomes for step in outcome.trace)
        del trace[: max(0, len(trace) - limit)]
    return outcomes
