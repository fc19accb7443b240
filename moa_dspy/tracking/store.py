"""Reaching MLflow's store within a bound: a bad one costs one warning and a known time, never an answer."""

from __future__ import annotations

import contextvars
import importlib.util
import logging
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeVar, cast

import mlflow

from moa_dspy.secrets import redact

__all__ = [
    "LIMIT",
    "LIMIT_AT_END",
    "LOCAL_LIMIT",
    "check_store",
    "describe",
    "limit",
    "logger",
    "mask_address",
    "run_in_background",
    "within",
]

T = TypeVar("T")
logger = logging.getLogger("moa_dspy.tracking")

LIMIT = 10.0
"""Seconds that a program waits for a tracking server to answer, before it goes on without it."""

LOCAL_LIMIT = 60.0
"""The same for a store on this machine: the first use of a database builds its tables."""

LIMIT_AT_END = 30.0
"""Seconds that a block waits for its store, at its beginning and its end together."""


def check_store() -> None:
    """Ask the present store whether it answers.

    Raises:
        TimeoutError: If it does not within its limit.
        Exception: What MLflow says of it.
    """
    _note_missing_modules()
    within(limit(), lambda: mlflow.MlflowClient().search_experiments(max_results=1))


def limit() -> float:
    """How many seconds a program waits for the present store to answer."""
    return LIMIT if mlflow.get_tracking_uri().startswith(("http", "databricks")) else LOCAL_LIMIT


def within(seconds: float, work: Callable[[], T]) -> T:
    """Do the work in a thread of its own, in a copy of the caller's context, and wait no longer than this.

    MLflow bounds a request with MLFLOW_HTTP_REQUEST_TIMEOUT (120 s) and _MAX_RETRIES (7), which is minutes.

    Raises:
        TimeoutError: If it takes longer; it goes on in the background then.
        Exception: What the work raises.

    Examples:
        >>> within(5, lambda: 1 + 1)
        2
    """
    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    run_in_background(target)
    if not wait([future], seconds).done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return future.result()


def run_in_background(work: Callable[[], object]) -> None:
    """Do the work in a thread that the end of the program does not wait for."""
    thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), name="moa-mlflow", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # at the end of the program Python starts no thread
        work()


def describe(error: BaseException) -> str:
    """An error on one line, with its type and without secrets."""
    return f"{type(error).__name__}: {' '.join(redact(str(error)).split())}"


def mask_address(address: str) -> str:
    """The address without the logins and keys in it.

    Examples:
        >>> mask_address("https://me:secret@host:5000/?token=abc")
        'https://***@host:5000/?token=***'
    """
    return redact(address)


def _note_missing_modules() -> None:
    """Tell Python, where it looks first, that what MLflow looks for with every request is not installed.

    Else a request in the background holds Python's import lock and waits for that of MLflow's import hooks, while
    `mlflow.genai.evaluate` holds the latter and waits for the former: for ever.
    """
    for name in ("dbruntime", "IPython", "pyspark"):
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            cast("dict[str, Any]", sys.modules)[name] = None


def _is_worth_saying(record: logging.LogRecord) -> bool:
    # urllib3 warns of each attempt of MLflow's, dozens for a server that is down; what came of them is said once.
    text = record.getMessage()
    return not text.startswith("Retrying") or ("/mlflow/" not in text and "/v1/traces" not in text)


logging.getLogger("urllib3.connectionpool").addFilter(_is_worth_saying)
