"""Reaching MLflow's store within a bound: a bad one costs one warning and a known time, never an answer."""

from __future__ import annotations

import contextvars
import importlib.util
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar, cast

import mlflow
from packaging.version import Version

from moa_dspy.secrets import redact

__all__ = ["LIMIT_AT_END", "Writer", "address", "check_store", "describe", "limit", "logger", "within"]

T = TypeVar("T")
logger = logging.getLogger("moa_dspy.tracking")

LIMIT = 10.0  # seconds that a program waits for a tracking server to answer, before it goes on without it
LOCAL_LIMIT = 60.0  # the same for a store on this machine: the first use of a database builds its tables
LIMIT_AT_END = 30.0  # seconds that a block waits for its store, at its beginning and its end together


def check_store() -> None:
    """Ask the present store; raises what MLflow says, or a TimeoutError if it does not answer within its limit."""
    within(limit(), lambda: mlflow.MlflowClient().search_experiments(max_results=1))


def limit() -> float:
    """How many seconds a program waits for the present store to answer."""
    return LIMIT if mlflow.get_tracking_uri().startswith(("http", "databricks")) else LOCAL_LIMIT


def within(seconds: float, work: Callable[[], T]) -> T:
    """What the work gives or raises, or a TimeoutError after so long; then it goes on in the background.

    MLflow bounds a request with MLFLOW_HTTP_REQUEST_TIMEOUT (120 s) and _MAX_RETRIES (7), which is minutes.
    """
    future = run_in_background(work)
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def run_in_background(work: Callable[[], T]) -> Future[T]:
    """Do the work in a thread that the program's end does not wait for, in a copy of the caller's context."""
    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), name="moa-mlflow", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # at the end of the program Python starts no thread
        target()
    return future


class Writer:
    """Writes in the background, in order, so that nobody waits for a slow store.

    What fails is remembered, and what follows is tried all the same: a server may come back. All that waits is given to
    `send` at once; without one it is called, one after the other.
    """

    def __init__(self, send: Callable[[list[Any]], object] | None = None) -> None:
        self._send = send
        self._waiting: deque[tuple[str, Any]] = deque()  # what is under way is in it, too
        self._failed: list[str] = []
        self._changed = threading.Condition()

    def write(self, what: str, item: Any) -> None:
        """Send or call this after all that waits already; `what` says what is missing, should it fail."""
        with self._changed:
            self._waiting.append((what, item))
            is_first = len(self._waiting) == 1
        if is_first:
            run_in_background(self._write_all)

    def finish(self, seconds: float) -> list[str]:
        """Wait until all is written, no longer than this; gives what is not written, and why."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, max(seconds, 0))
            late = [f"{what} (no answer in time)" for what in dict.fromkeys(what for what, _ in self._waiting)]
            failed, self._failed = self._failed, []
        return failed + late

    def _write_all(self) -> None:
        waiting = True
        while waiting:
            taken = list(self._waiting) if self._send else [self._waiting[0]]
            names, items = zip(*taken, strict=True)
            try:
                if self._send:
                    self._send(list(items))
                else:
                    items[0]()
            except Exception as error:
                self._failed += [f"{what} ({describe(error)})" for what in dict.fromkeys(names)]
            with self._changed:
                for _ in taken:
                    self._waiting.popleft()
                waiting = bool(self._waiting)
                self._changed.notify_all()


def describe(error: BaseException) -> str:
    """An error on one line, with its type and without secrets."""
    return f"{type(error).__name__}: {' '.join(redact(str(error)).split())}"


def address() -> str:
    """The present store's, without the logins and keys in it."""
    return redact(mlflow.get_tracking_uri())


def _is_worth_saying(record: logging.LogRecord) -> bool:
    # urllib3 warns of each attempt of MLflow's, dozens for a server that is down; what came of them is said once.
    text = record.getMessage()
    return not text.startswith("Retrying") or ("/mlflow/" not in text and "/v1/traces" not in text)


logging.getLogger("urllib3.connectionpool").addFilter(_is_worth_saying)

if Version(mlflow.__version__) < Version("3.18"):
    # `mlflow.genai.evaluate` calls MLflow's import hooks with the lock held that each import of a module waits for, and
    # each request looks for these: one in the background and the hooks would wait for each other for ever. What is
    # noted as missing is not looked for. Since 3.18 MLflow calls them without the lock.
    for _name in ("dbruntime", "IPython", "pyspark"):
        if _name not in sys.modules and importlib.util.find_spec(_name) is None:
            cast("dict[str, Any]", sys.modules)[_name] = None
