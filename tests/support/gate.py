"""Prove that calls overlap, without measuring time."""

import asyncio
import concurrent.futures
import threading

from .misuse import FakeMisuse


class Gate:
    """A meeting point: nobody passes before `parties` calls have arrived, be they threads or tasks.

    Share one gate among several fakes. A serial caller never brings the second call and fails with
    `FakeMisuse` after `timeout` seconds. It opens again for the next `parties` calls.

    Example:
        >>> gate = Gate(2)
        >>> lms = [FakeLM("a", [...], gate=gate), FakeLM("b", [...], gate=gate)]
    """

    def __init__(self, parties: int, timeout: float = 5.0) -> None:
        self.parties = parties
        self.timeout = timeout
        self.opened = 0
        self._lock = threading.Lock()
        self._arrived = 0
        self._open: concurrent.futures.Future[None] = concurrent.futures.Future()

    def wait(self) -> None:
        """Block this thread until all parties are here."""
        gathering = self._arrive()
        try:
            gathering.result(self.timeout)
        except concurrent.futures.TimeoutError:
            raise self._late() from None
        finally:
            self._leave(gathering)

    async def wait_async(self) -> None:
        """Suspend this task until all parties are here."""
        gathering = self._arrive()
        try:
            # wait_for() would cancel the future, and with it those of the other parties; wait() leaves it alone.
            done, _ = await asyncio.wait([asyncio.wrap_future(gathering)], timeout=self.timeout)
            if not done:
                raise self._late()
        finally:
            self._leave(gathering)

    def _arrive(self) -> "concurrent.futures.Future[None]":
        with self._lock:
            gathering = self._open
            self._arrived += 1
            if self._arrived == self.parties:
                self._arrived, self._open = 0, concurrent.futures.Future()
                self.opened += 1
                gathering.set_result(None)
            return gathering

    def _leave(self, gathering: "concurrent.futures.Future[None]") -> None:
        with self._lock:
            if gathering is self._open:  # gave up before the others came
                self._arrived -= 1

    def _late(self) -> FakeMisuse:
        return FakeMisuse(f"gate: only {self._arrived} of {self.parties} calls were in flight within {self.timeout} s")
