"""Traces that MLflow could not store: noticed in what it logs, counted in the store, said once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mlflow

from moa_dspy.tracking.guard import Guard, masked, reach, told

__all__ = ["Losses", "abandon"]

logger = logging.getLogger("moa_dspy.tracking")


class Losses(logging.Filter):
    """Reads the warnings with which MLflow drops traces, in their place.

    Traces are stored in the background, by threads in which nothing can be raised: what they log is all there is.
    """

    def __init__(self, guard: Guard) -> None:
        super().__init__()
        self.guard = guard
        self._lock = threading.Lock()
        self._made: set[str] = set()
        self._later: list[Callable[[], None]] = []
        self._since = time.time()
        self._why: str | None = None
        self._levels = {name: logging.getLogger(name).level for name in _EXPORT}

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Read the warnings meanwhile."""
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self)
        for name in _EXPORT:  # that spans could not be stored is told on the level for debugging only
            logging.getLogger(name).setLevel(logging.DEBUG)
        try:
            yield
        finally:
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(self)
            for name, level in self._levels.items():
                logging.getLogger(name).setLevel(level)

    def made(self, trace_id: str) -> None:
        """A trace was begun that shall be stored."""
        with self._lock:
            if len(self._made) < _MOST:
                self._made.add(trace_id)

    def later(self, work: Callable[[], None]) -> None:
        """Do this when the traces so far are stored, in the background."""
        with self._lock:
            self._later.append(work)
        threading.Thread(target=self._catch_up, name="moa-mlflow-later", daemon=True).start()

    def _catch_up(self) -> None:
        mlflow.flush_trace_async_logging()
        while not self.guard.broken:
            with self._lock:
                if not self._later:
                    return
                work = self._later.pop(0)
            try:
                work()
            except Exception as error:
                self._why = self._why or told(str(error))

    def filter(self, record: logging.LogRecord) -> bool:
        try:
            return self._passes(record)
        except Exception:  # it would end MLflow's thread, and the program would wait for it for ever
            return True

    def _passes(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        is_export = record.name in _EXPORT
        if record.levelno < logging.WARNING and not (is_export and text.startswith("Failed to log")):
            return not is_export
        if not self.guard.broken:
            self.guard.run("store a trace", reach)
        if self.guard.broken:
            abandon()
        elif is_export:
            self._why = self._why or told(text)
        return not self.guard.broken and not is_export

    def flush(self, seconds: float) -> None:
        """Wait until all traces are stored, no longer than this, and say how many were lost."""
        if self.guard.broken:
            abandon()
            return
        with self._lock:
            if not self._made and not self._later:
                return  # MLflow's own flush takes a second and more, also with nothing to store
        done = threading.Thread(target=self._catch_up, name="moa-mlflow-flush", daemon=True)
        try:
            done.start()
            done.join(seconds)
        except RuntimeError:  # at the end of the program Python starts no thread: each request is bounded in itself
            self._catch_up()
        if self.guard.broken:
            return
        if done.is_alive():
            self._why = self._why or f"they were not stored within {seconds:g} s"
        with self._lock:
            made, self._made, why, self._why = self._made, set(), self._why, None
            since, self._since = self._since, time.time()
        if why is None or not made:
            return
        lost = self.guard.run("count the traces", lambda: len(made - _stored(since)))
        if lost is not None:
            logger.warning(
                "%d of %d traces are not in MLflow at %s, and others may lack spans: %s",
                lost,
                len(made),
                masked(self.guard.uri),
                why,
            )


def abandon() -> None:
    """Forget what is still to be stored, so that the program's end does not wait for a server that is gone."""
    # MLflow has no public way to do so: should it change, the end of the program takes longer.
    with suppress(Exception):
        from mlflow.tracing import provider

        exporter: Any = provider
        queue = exporter._get_trace_exporter()._async_queue._queue
        while True:
            queue.get_nowait()
            queue.task_done()


def _stored(since: float) -> set[str]:
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: set[str] = set()
    token = None
    while True:
        page = client.search_traces(
            locations=experiments,
            filter_string=f"attributes.timestamp_ms >= {int(since * 1000)}",
            max_results=500,
            page_token=token,
            include_spans=False,
        )
        found |= {trace.info.trace_id for trace in page}
        token = page.token
        if not token:
            return found


_MOST = 100_000
_EXPORT = frozenset({"mlflow.tracing.export.async_export_queue", "mlflow.tracing.export.mlflow_v3"})
_LOGGERS = (*sorted(_EXPORT), "mlflow.dspy.util", "mlflow.dspy.callback", "mlflow.utils.autologging_utils")
