"""Threads that wait for work: waking one costs an eighth of starting one.

No pool of a fixed size would do: mixtures nest, and an outer one that holds all of its threads would wait for ever for
an inner one. So another thread is started whenever none is idle, and one that was idle for long ends.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

__all__ = ["start_worker"]

_IDLE_SECONDS = 30.0

Work = Callable[[], object]
_idle: list[queue.SimpleQueue[Work]] = []


def start_worker(work: Work) -> None:
    """Do the work in a daemon thread: one that is abandoned does not keep the interpreter from exiting.

    Args:
        work: What to do; it must not raise.

    Raises:
        RuntimeError: If the system gives no more threads.
    """
    try:
        inbox = _idle.pop()  # the last to become idle: its memory is warm, and the others get to end
    except IndexError:
        inbox = queue.SimpleQueue()
        threading.Thread(target=_run, args=(inbox,), daemon=True, name="moa").start()
    inbox.put(work)


def _run(inbox: queue.SimpleQueue[Work]) -> None:
    while True:
        try:
            work = inbox.get(timeout=_IDLE_SECONDS)
        except queue.Empty:
            try:
                _idle.remove(inbox)
            except ValueError:
                continue  # somebody took it at the last moment
            return
        work()
        del work  # with all that it holds
        _idle.append(inbox)


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_idle.clear)
