"""Reaching MLflow's store within a bound: a bad one costs one warning and a known time, never an answer."""

from __future__ import annotations

import contextvars
import logging
import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import mlflow

from moa_dspy.secrets import redact

__all__ = [
    "LIMIT",
    "LIMIT_AT_END",
    "LOCAL_LIMIT",
    "Writer",
    "describe",
    "find_store",
    "limit",
    "mask_address",
    "within",
]

T = TypeVar("T")
logger = logging.getLogger("moa_dspy.tracking")

LIMIT = 10.0
"""Seconds that a program waits for a tracking server to answer, before it goes on without it."""

LOCAL_LIMIT = 60.0
"""The same for a store on this machine: the first use of a database builds its tables."""

LIMIT_AT_END = 30.0
"""Seconds that the end of a block waits for what is still to be written."""


def find_store(store: str | None = None) -> str:
    """The tracking URI that is meant.

    Args:
        store: A database's or a server's address; None means what MLflow itself would use.

    Raises:
        ValueError: If MLflow's server knows no such store.
        FileNotFoundError: If it is a SQLite file that is not there.
    """
    uri = store or mlflow.get_tracking_uri()
    kind, _, place = uri.partition("://")
    if place and kind.partition("+")[0] not in _STORES:
        raise ValueError(
            f"{mask_address(uri)} is no store that MLflow's server knows: its address begins with {', '.join(_STORES)}."
        )
    if kind == "sqlite" and not Path(place.removeprefix("/")).is_file():
        raise FileNotFoundError(
            f"There is no store {mask_address(uri)}: nothing was tracked here. Track something first, for example with "
            "moa-dspy demo --mlflow, or name another store."
        )
    return uri


def _is_worth_saying(record: logging.LogRecord) -> bool:
    # urllib3 warns of each attempt of MLflow's, dozens for a server that is down; what came of them is said once.
    text = record.getMessage()
    return not text.startswith("Retrying") or ("/mlflow/" not in text and "/v1/traces" not in text)


logging.getLogger("urllib3.connectionpool").addFilter(_is_worth_saying)


def limit() -> float:
    """How many seconds a program waits for the present store to answer."""
    return LIMIT if mlflow.get_tracking_uri().startswith(("http", "databricks")) else LOCAL_LIMIT


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do the work in a thread of its own, in a copy of the caller's context, and wait no longer than this.

    MLflow bounds a request with MLFLOW_HTTP_REQUEST_TIMEOUT (120 s) and _MAX_RETRIES (7), which is minutes.

    Raises:
        TimeoutError: If it takes longer; it goes on in the background then.
        Exception: What the work raises.

    Example:
        >>> within(5, lambda: 1 + 1)
        2
    """
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
        thread.join(seconds)
    except RuntimeError:  # at the end of the program Python starts no thread
        target()
    if done:
        return done[0]
    raise failed[0] if failed else TimeoutError(f"no answer within {seconds:g} s")


class Writer:
    """Writes in the background, in order, so that nobody waits for a slow store.

    What fails is remembered, and what follows is tried all the same: a server may come back.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Callable[[], object]]] = deque()
        self._failed: list[str] = []
        self._is_running = False
        self._changed = threading.Condition()

    def write(self, what: str, work: Callable[[], object]) -> None:
        """Do this after all that is to be written already.

        Args:
            what: What it is, should it fail: "the metrics".
            work: Does it.
        """
        with self._changed:
            self._waiting.append((what, work))
            if self._is_running:
                return
            self._is_running = True
        try:
            threading.Thread(target=self._run, name="moa-mlflow-writer", daemon=True).start()
        except RuntimeError:  # at the end of the program Python starts no thread
            self._run()

    def finish(self, seconds: float) -> list[str]:
        """Wait until all is written, no longer than this; gives what is not written, and why."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting, seconds)
            late = [f"{what} (no answer within {seconds:g} s)" for what, _ in self._waiting]
            failed, self._failed = self._failed, []
        return failed + late

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._is_running = False
                    return
                what, work = self._waiting[0]
            try:
                work()
            except Exception as error:
                self._failed.append(f"{what} ({describe(error)})")
            with self._changed:
                self._waiting.popleft()
                self._changed.notify_all()


def describe(error: BaseException) -> str:
    """An error on one line, with its type and without secrets."""
    text = " ".join(mask_address(redact(str(error))).split())
    return f"{type(error).__name__}: {text if len(text) <= _LONGEST else f'{text[:_LONGEST]} [...]'}"


def mask_address(text: str) -> str:
    """The text without the logins and keys in its addresses.

    Example:
        >>> mask_address("https://me:secret@host:5000/?token=abc")
        'https://***@host:5000/?token=***'
    """
    return _IN_QUERY.sub(r"\1***", _LOGIN.sub("://***@", text))


_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file", "http", "https")
_LONGEST = 600
_LOGIN = re.compile(r"://[^/?#\s]+@")
_IN_QUERY = re.compile(r"([?&][\w-]*(?:key|token|sig|secret|password)[\w-]*=)[^&#\s]*", re.IGNORECASE)
