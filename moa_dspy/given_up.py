"""Synchronous LM calls that end when they are given up.

A thread that reads cannot be stopped, a task can: its cancellation closes the connection. But an awaited call costs
three times the CPU. So calls stay in their threads for as long as their provider ends those that were given up; while
it does not (a body trickles), further ones are awaited, on an event loop of ours.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Coroutine, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from typing import Any, TypeVar

import dspy
from dspy.utils.exceptions import LMTimeoutError

from moa_dspy.allowance import Allowance

__all__ = ["ENDED", "enter_call", "run_awaited"]

ENDED = "Ended, as nobody waits for it any more (Limits)."

T = TypeVar("T")

# Seconds between two looks at whether a call was given up.
_LOOK = 0.2

# By provider: what each synchronous call under way may take.
_under_way: defaultdict[tuple[str, str], list[Allowance]] = defaultdict(list)


@contextmanager
def enter_call(lm: dspy.BaseLM, allowance: Allowance | None) -> Iterator[bool]:
    """Enter a synchronous call of this LM; gives whether its provider still holds one that was given up."""
    if allowance is None:
        yield False
        return
    calls = _under_way[lm.model, str(lm.kwargs.get("api_base"))]
    now = time.monotonic()
    is_held = any([one.is_over or one.deadline <= now for one in calls])
    calls.append(allowance)
    try:
        yield is_held
    finally:
        calls.remove(allowance)


def run_awaited(call: Coroutine[Any, Any, T], allowance: Allowance) -> T:
    """Wait in this thread for what a coroutine gives, cancelled when it is given up.

    Raises:
        LMTimeoutError: If it was given up.
    """
    future = asyncio.run_coroutine_threadsafe(call, _start_loop())  # in a copy of the caller's context
    try:
        while not wait([future], timeout=_LOOK).done:
            if allowance.is_given_up:
                raise LMTimeoutError(ENDED)
        return future.result()
    except BaseException:
        future.cancel()
        raise


_loop: asyncio.AbstractEventLoop | None = None
_starting = threading.Lock()


def _start_loop() -> asyncio.AbstractEventLoop:
    global _loop
    with _starting:  # many threads find out at once that a provider trickles
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, daemon=True, name="moa-awaits").start()
        return _loop


def _forget() -> None:
    global _loop, _starting
    _loop, _starting = None, threading.Lock()
    _under_way.clear()


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_forget)
