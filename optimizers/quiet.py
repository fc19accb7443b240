"""Quiet while DSPy's optimizers work: what they print, log and draw is left out, and nobody else's words are."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import dspy
from tqdm import TMonitor

__all__ = ["heard", "quiet"]

# Among DSPy's settings, because those reach the workers of its executors: whether an optimizer is speaking.
_QUIET = "moa_dspy_quiet"
_lock, _streams, _inside = threading.Lock(), ExitStack(), 0


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what is written in this context, also by DSPy's workers; other threads' words are passed on."""
    global _inside
    with _lock:
        if not _inside:
            for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
                _streams.enter_context(redirect(_Filtered(stream)))
        _inside += 1
    try:
        with dspy.context(**{_QUIET: True}):
            yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _streams.close()


@contextmanager
def heard() -> Iterator[None]:
    """Let programs and metrics be heard, whoever runs them."""
    with dspy.context(**{_QUIET: False}):
        yield


class _Filtered:
    """A stream that leaves out what is written in quiet contexts, and by the thread that redraws tqdm's bars."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        is_left_out = dspy.settings.get(_QUIET) or isinstance(threading.current_thread(), TMonitor)
        return len(text) if is_left_out else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
