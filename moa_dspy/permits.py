"""How many LM calls the process has under way at once, in threads and on event loops alike.

LM calls are counted, not modules: whoever waits for others holds no permit, so nested mixtures cannot lock each other.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)

from moa_dspy.allowance import Allowance, LimitReached
from moa_dspy.limits import require_positive

__all__ = ["apermitted", "configure", "limit", "permitted"]


def configure(*, max_concurrency: int | None) -> None:
    """Limit the LM calls that mixtures of this process have under way at once.

    Args:
        max_concurrency: How many; None for no limit. Calls under way are not counted in.

    Raises:
        ValueError: If it is no whole number from 1.

    Examples:
        >>> import moa_dspy
        >>> moa_dspy.configure(max_concurrency=32)
        >>> moa_dspy.configure(max_concurrency=None)
    """
    global _permits
    if max_concurrency is not None:
        require_positive(max_concurrency=max_concurrency)
    _permits = None if max_concurrency is None else _Permits(max_concurrency)


def limit() -> int | None:
    """How many LM calls this process may have under way at once; None for no limit."""
    return None if _permits is None else _permits.number


class _Permits:
    """A semaphore that threads and tasks of any event loop wait for, first come, first served."""

    def __init__(self, number: int) -> None:
        self.number = self._free = number
        self._waiting: deque[Future[None]] = deque()
        self._lock = threading.Lock()

    def request(self) -> Future[None]:
        permit: Future[None] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                permit.set_result(None)
            else:
                self._waiting.append(permit)
        return permit

    def release(self) -> None:
        with self._lock:
            while self._waiting:
                permit = self._waiting.popleft()
                if permit.set_running_or_notify_cancel():
                    permit.set_result(None)
                    return
            self._free += 1

    @contextmanager
    def given_up_late(self, permit: Future[None]) -> Iterator[None]:
        """Wait inside for a permit; one that does not come in time is given up."""
        try:
            yield
        except BaseException as error:
            if not permit.cancel():  # it was given at the last moment
                self.release()
            raise LimitReached(_LATE) if isinstance(error, Exception) else error from None


_permits: _Permits | None = None
_LATE = "Not asked: no permit in time (moa_dspy.configure(max_concurrency=...))."


def permitted(allowance: Allowance | None) -> AbstractContextManager[None]:
    """Hold a permit; waits for one as long as there is time."""
    return _FREE if _permits is None else _hold(_permits, allowance)


def apermitted(allowance: Allowance | None) -> AbstractAsyncContextManager[None]:
    """Hold a permit; waits for one as long as there is time."""
    return _FREE if _permits is None else _ahold(_permits, allowance)


_FREE = nullcontext()


@contextmanager
def _hold(permits: _Permits, allowance: Allowance | None) -> Iterator[None]:
    permit = permits.request()
    with permits.given_up_late(permit):
        permit.result(_seconds(allowance))
    try:
        yield
    finally:
        permits.release()


@asynccontextmanager
async def _ahold(permits: _Permits, allowance: Allowance | None) -> AsyncIterator[None]:
    permit = permits.request()
    with permits.given_up_late(permit):
        await asyncio.wait_for(asyncio.wrap_future(permit), _seconds(allowance))
    try:
        yield
    finally:
        permits.release()


def _seconds(allowance: Allowance | None) -> float | None:
    # A thread cannot wait for ever in numbers.
    return None if allowance is None or allowance.deadline == float("inf") else allowance.remaining
