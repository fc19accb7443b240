"""Threads that work through a list, and can be told to stop."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from contextvars import copy_context
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")

__all__ = ["Workers"]


class Workers(Generic[T, R]):
    """Threads that do the work for one item after the other, each in a copy of the caller's context.

    Args:
        work: What to do with an item. What it raises ends the work of all.
        items: What there is to do.
        threads: How many work side by side.
    """

    def __init__(self, work: Callable[[T], R], items: Iterable[T], threads: int) -> None:
        self._work = work
        self._todo: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[R | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()
        for item in items:
            self._todo.put(item)
        # Daemons: an abandoned call must not keep the interpreter from exiting.
        context = copy_context()
        self._threads = [
            threading.Thread(target=context.copy().run, args=(self._run,), daemon=True, name=f"batch-{number}")
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """Whether a result may still come."""
        return any(thread.is_alive() for thread in self._threads) or not self._done.empty()

    def stop(self) -> None:
        """Begin nothing new; what is under way goes on."""
        self._stopped.set()

    def next_result(self) -> R | None:
        """A result, or None if there was none for a moment, so that the caller can look at what else happened.

        Raises:
            BaseException: What the work raised.
        """
        try:
            result = self._done.get(timeout=0.1)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        return result

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                self._done.put(self._work(self._todo.get_nowait()))
        except queue.Empty:
            return
        except BaseException as error:  # carried to the caller's thread
            self._stopped.set()
            self._done.put(error)
