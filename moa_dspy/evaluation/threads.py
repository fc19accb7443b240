"""Questions side by side, in threads that Ctrl-C does not have to wait for."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

__all__ = ["in_threads"]

T = TypeVar("T")
R = TypeVar("R")


def in_threads(work: Callable[[T], R], items: Sequence[T], concurrency: int) -> Iterator[R]:
    """Yield what the work gives for each item, as it is finished; an error in the work is raised.

    Daemon threads, so that an interpreter that is told to stop does not wait for calls under way; each with a
    copy of the caller's context, so that its `dspy.context` holds inside. No item is begun once the caller
    stops listening.

    Args:
        work: What to do.
        items: What to do it with.
        concurrency: How many threads.
    """
    waiting: queue.SimpleQueue[T] = queue.SimpleQueue()
    finished: queue.SimpleQueue[Future[R]] = queue.SimpleQueue()
    stopped = threading.Event()
    for item in items:
        waiting.put(item)

    def worker() -> None:
        while not stopped.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                return
            outcome: Future[R] = Future()
            try:
                outcome.set_result(work(item))
            except BaseException as error:  # carried to the caller's thread
                outcome.set_exception(error)
            finished.put(outcome)

    for _ in range(min(concurrency, len(items))):
        threading.Thread(target=contextvars.copy_context().run, args=(worker,), daemon=True).start()
    try:
        for _ in items:
            yield finished.get().result()
    finally:
        stopped.set()
