"""Ctrl-C as something to look at, instead of an exception in the middle of anything."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

__all__ = ["Interrupts"]


class Interrupts:
    """Counts Ctrl-C while it is entered; in another thread than the main one, which never sees any, it counts none.

    Raised as KeyboardInterrupt it could fall between an answer and its being counted.
    """

    def __init__(self) -> None:
        self.count = 0
        self._is_ours = False

    def __enter__(self) -> Interrupts:
        # None: somebody outside Python handles the signal, and could not be put back.
        self._before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is threading.main_thread() and self._before is not None:
            signal.signal(signal.SIGINT, self._add)
            self._is_ours = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_ours:
            signal.signal(signal.SIGINT, self._before)

    def _add(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
