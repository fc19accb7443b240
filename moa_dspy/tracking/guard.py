"""The guard: a bad tracking server costs one warning and a bounded time, never the program's answer."""

from __future__ import annotations

import contextvars
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import mlflow

from moa_dspy.secrets import redact

__all__ = [
    "LIMIT",
    "LOCAL_LIMIT",
    "SETTINGS",
    "Guard",
    "bounded",
    "is_remote",
    "masked",
    "reach",
    "told",
]

T = TypeVar("T")
logger = logging.getLogger("moa_dspy.tracking")

LIMIT = 10.0
"""Seconds that a program waits for its tracking server at most before it goes on without."""

LOCAL_LIMIT = 60.0
"""The same for a store on this machine: the first use of a database builds its tables."""

SETTINGS = {
    # MLflow's own: 7 retries of 120 s each, 247 s for a server that is down.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # MLflow's own (5 spans, 1000 tasks) lose a fifth of the traces of a busy mixture: the queue is full.
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE": "200",
    "MLFLOW_ASYNC_TRACE_LOGGING_MAX_QUEUE_SIZE": "10000",
    # It prints the address of each run that ends, on stdout.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""MLflow's settings while it is on, unless the environment has its own."""


class Guard:
    """Runs MLflow's work so that a bad tracking server costs one warning, and a bounded time.

    After the first failure nothing more is tried, and one warning is logged.

    Args:
        seconds: How long a piece of work may take before the program goes on without it; by default `LIMIT`, and
            `LOCAL_LIMIT` for a store on this machine.

    Example:
        >>> from moa_dspy.tracking.guard import Guard
        >>> Guard().run("add", lambda: 1 + 1)
        2
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.uri = mlflow.get_tracking_uri()
        self.seconds = seconds or (LIMIT if is_remote(self.uri) else LOCAL_LIMIT)
        self._broken = threading.Event()
        self._lock = threading.Lock()

    @property
    def broken(self) -> bool:
        """Whether something failed: nothing more is tried."""
        return self._broken.is_set()

    def run(self, what: str, work: Callable[[], T]) -> T | None:
        """Do the work in a thread of its own, and wait for it no longer than the limit.

        The thread has a copy of the caller's context. MLflow's active run belongs to the caller's thread: name a
        run by its id.

        Args:
            what: What it is, for the warning: "log the metrics".
            work: Does it.

        Returns:
            What the work gives; None if it failed, took too long, or was not tried.
        """
        if self.broken:
            return None
        done: list[T] = []
        failed: list[Exception] = []

        def target() -> None:
            try:
                done.append(work())
            except Exception as error:
                failed.append(error)

        thread = threading.Thread(target=contextvars.copy_context().run, args=(target,), name="moa-mlflow", daemon=True)
        try:
            thread.start()
            thread.join(self.seconds)
        except RuntimeError:  # at the end of the program Python starts no thread: the HTTP settings bound it
            target()
        if done:
            return done[0]
        self.fail(what, failed[0] if failed else TimeoutError(f"no answer within {self.seconds:g} s"))
        return None

    def here(self, what: str, work: Callable[[], T]) -> T | None:
        """Do work that needs the caller's thread, where MLflow's active run is, if the server answers at all.

        Its time is bounded by the HTTP settings of `bounded()`.
        """
        self.run(what, reach)
        if self.broken:
            return None
        try:
            return work()
        except Exception as error:
            self.fail(what, error)
            return None

    def fail(self, what: str, error: BaseException) -> None:
        """Take note that the server is bad, and say so if nobody has said it yet."""
        with self._lock:
            if self.broken:
                return
            self._broken.set()
        logger.warning(
            "MLflow at %s is of no use: could not %s (%s: %s). The program goes on, and nothing more of it is logged "
            "there. Mend that or name another place (MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri() in code), then "
            "turn tracking on again.",
            masked(self.uri),
            what,
            type(error).__name__,
            told(str(error)),
        )


@contextmanager
def bounded() -> Iterator[None]:
    """MLflow's settings are `SETTINGS`, so far as the environment has none, until the last one here leaves."""
    with _settings_lock:
        _holders.append(1)
        for name, value in SETTINGS.items():
            if name not in os.environ:
                os.environ[name] = _ours[name] = value
        _urllib3.addFilter(_no_retries)
    try:
        yield
    finally:
        with _settings_lock:
            _holders.pop()
            if not _holders:
                _urllib3.removeFilter(_no_retries)
                for name, value in _ours.items():
                    if os.environ.get(name) == value:
                        del os.environ[name]
                _ours.clear()


def is_remote(uri: str) -> bool:
    """Whether a server keeps what is tracked there."""
    return uri.startswith(("http", "databricks"))


def masked(uri: str) -> str:
    """The text without the logins and keys in its addresses.

    Example:
        >>> masked("https://me:secret@host:5000/?token=abc")
        'https://***@host:5000/?token=***'
    """
    return _IN_QUERY.sub(r"\1***", _LOGIN.sub("://***@", uri))


def reach() -> bool:
    """Ask the server for anything, to see whether it answers."""
    mlflow.MlflowClient().search_experiments(max_results=1)
    return True


def told(text: str) -> str:
    """The text on one line of readable length, without secrets."""
    text = " ".join(masked(redact(text)).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [...]"


def _no_retries(record: logging.LogRecord) -> bool:
    # urllib3 warns of each attempt of MLflow's, with the address as it stands: the guard says what came of them.
    text = record.getMessage()
    return not text.startswith("Retrying") or ("/mlflow/" not in text and "/v1/traces" not in text)


_urllib3 = logging.getLogger("urllib3.connectionpool")
_LONGEST = 300
_LOGIN = re.compile(r"://[^/?#\s]+@")
_IN_QUERY = re.compile(r"([?&][\w-]*(?:key|token|sig|secret|password)[\w-]*=)[^&#\s]*", re.IGNORECASE)
_settings_lock = threading.Lock()
_holders: list[int] = []
_ours: dict[str, str] = {}
