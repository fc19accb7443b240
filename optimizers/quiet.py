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


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what is written in this context, also by DSPy's workers; other threads' words are passed on."""
    global _inside
    with _lock:
        if not _inside:
            out: Any = _Filtered(sys.stdout)
            err: Any = _Filtered(sys.stderr)
            _streams.enter_context(redirect_stdout(out))
            _streams.enter_context(redirect_stderr(err))
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
        if dspy.settings.get(_QUIET) or isinstance(threading.current_thread(), TMonitor):
            return len(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_lock, _inside, _streams = threading.Lock(), 0, ExitStack()
