"""One MLflow run, written by its id in the background: from any thread, whatever run is active there."""

from __future__ import annotations

import asyncio
import atexit
import json
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
from mlflow.data.dataset import Dataset
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag

from moa_dspy.secrets import mask, remembered, secret_values
from moa_dspy.tracking.store import LIMIT_AT_END, Writer, address, check_store, describe, limit, logger, within
from moa_dspy.values import as_text, to_json

__all__ = ["Run"]

_TABLES = "mlflow.loggedArtifacts"  # the tag that names them, for MLflow's page and `mlflow.load_table`
_Entities = tuple[list[Any], list[Any], list[Any]]  # metrics, params, tags
_ROWS = 5000  # a table is one file, which MLflow's page loads whole
_CHARACTERS = 2000


class Run:
    """A run under way; without one (`id` is None), because the store is of no use, everything is left out.

    What waits to be written goes out together, since a server can be slow: one request for all numbers, another for
    all files.
    """

    def __init__(self) -> None:
        self.id: str | None = None
        self._experiment_id = ""
        self._client: Any = None
        self._uri = address()
        self._numbers, self._files, self._others = Writer(self._send_numbers), Writer(self._send_files), Writer()
        self._tables: list[dict[str, str]] = []
        self._waited = 0.0
        self._thread: int | None = None  # where it is the active run

    def start(self, name: str, run_id: str | None, tags: Mapping[str, str]) -> None:
        """Start it, or go on with one that is there.

        It is its thread's active run, for `mlflow.log_metric` and its like; not in async code, whose tasks share one.
        """
        options: dict[str, Any] = {"run_id": run_id, "run_name": name, "tags": dict(tags), "nested": True}
        is_async, started = _in_event_loop(), time.monotonic()
        try:
            check_store()
            run = within(limit(), lambda: _start_inactive(options)) if is_async else _start_active(options)
        except Exception as error:
            logger.warning(
                "MLflow at %s is of no use, so there is no run: %s. The block goes on and is counted. Mend that or "
                "name another place (MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri() in code).",
                self._uri,
                describe(error),
            )
            return
        self._client = mlflow.MlflowClient()
        self.id, self._experiment_id = run.info.run_id, run.info.experiment_id
        self._tables = json.loads(run.data.tags.get(_TABLES, "[]"))
        self._thread = None if is_async else threading.get_ident()
        self._waited = time.monotonic() - started

    def end(self, error: BaseException | None) -> None:
        """Wait for what is still to be written, say what is missing, and end it as the error says."""
        if self.id is None:
            return
        stopped = isinstance(error, (KeyboardInterrupt, asyncio.CancelledError))
        status = "FINISHED" if error is None else "KILLED" if stopped else "FAILED"
        deadline = time.monotonic() + LIMIT_AT_END - min(self._waited, LIMIT_AT_END / 2)
        writers = (self._numbers, self._files, self._others)
        missing = [what for writer in writers for what in writer.finish(deadline - time.monotonic())]
        try:
            if missing:  # else it has just answered
                check_store()
            self._leave(status)
        except Exception as unreachable:
            missing.insert(0, f"its end ({describe(unreachable)})")
            self.write("its end", lambda run_id: self._client.set_terminated(run_id, status))
            _left_active.add(self.id)
        if missing:
            shown = "; ".join(missing[:3]) + (f"; and {len(missing) - 3} more" if len(missing) > 3 else "")
            logger.warning("Run %s in MLflow at %s is incomplete. It lacks: %s.", self.id, self._uri, shown)

    def write(self, what: str, work: Callable[[str], object]) -> None:
        """Do this with the run's id, in the background, after what was to be done before."""
        run_id = self.id
        if run_id is not None:
            self._others.write(what, lambda: work(run_id))

    def log(
        self,
        what: str,
        metrics: Mapping[str, float] | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Log numbers, and texts of a line."""
        if self.id is not None:
            self._numbers.write(what, _entities(metrics or {}, params or {}, tags or {}, step))

    def log_text(self, path: str, text: str) -> None:
        """Log a file."""
        if self.id is not None:
            self._files.write(path, (path, text))

    def log_table(self, path: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log a table, as MLflow's page shows one, under a name of its own; none if there are no rows."""
        if self.id is None or not rows:
            return
        stem, taken, number = path.removesuffix(".json"), [table["path"] for table in self._tables], 2
        while path in taken:
            path, number = f"{stem}_{number}.json", number + 1
        self._tables.append({"path": path, "type": "table"})
        columns, secrets = list(dict.fromkeys(name for row in rows for name in row)), secret_values(*remembered())
        data = [[_cell(row.get(name), secrets) for name in columns] for row in rows[:_ROWS]]
        self._files.write(path, (path, to_json({"columns": columns, "data": data})))
        self.log(f"the tag of {path}", tags={_TABLES: json.dumps(self._tables)})

    def log_data(self, data: Dataset) -> None:
        """Log a data set as the run's input."""
        entity = DatasetEntity(**{name: value for name, value in data.to_dict().items() if name in _OF_A_DATASET})
        given = [DatasetInput(entity, [InputTag("mlflow.data.context", "evaluation")])]
        self.write("the data set", lambda run_id: self._client.log_inputs(run_id, datasets=given))

    def log_child(self, name: str, metrics: Mapping[str, float], params: Mapping[str, str]) -> None:
        """Log a finished child run."""

        def write(run_id: str) -> None:
            made = self._client.create_run(self._experiment_id, tags={"mlflow.parentRunId": run_id}, run_name=name)
            self._client.log_batch(made.info.run_id, *_entities(metrics, params))
            self._client.update_run(made.info.run_id, status="FINISHED")

        self.write(f"the run {name}", write)

    def experiment_name(self) -> str:
        """The name of the run's experiment; asks the store."""
        return str(self._client.get_experiment(self._experiment_id).name)

    def _send_numbers(self, batches: Sequence[_Entities]) -> None:
        metrics, params, tags = ([one for batch in batches for one in batch[kind]] for kind in range(3))
        last = {tag.key: tag for tag in tags}  # the last word on each
        self._client.log_batch(self.id, metrics, params, list(last.values()))

    def _send_files(self, files: Sequence[tuple[str, str]]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for path, text in files:
                Path(folder, path).write_text(text, encoding="utf-8")
            self._client.log_artifacts(self.id, folder)

    def _leave(self, status: str) -> None:
        if self._thread != threading.get_ident():
            self._client.set_terminated(self.id, status)
            return
        while (run := mlflow.active_run()) is not None:  # those inside it that were left open, then itself
            mlflow.end_run(status)
            if run.info.run_id == self.id:
                return


def _entities(
    metrics: Mapping[str, float], params: Mapping[str, str], tags: Mapping[str, str] | None = None, step: int = 0
) -> _Entities:
    now = int(time.time() * 1000)
    return (
        [Metric(name, value, now, step) for name, value in metrics.items()],
        [Param(name, value) for name, value in params.items()],
        [RunTag(name, value) for name, value in (tags or {}).items()],
    )


def _cell(value: Any, secrets: Sequence[str]) -> Any:
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = mask(as_text(value), secrets)
    more = len(text) - _CHARACTERS
    return text if more <= 0 else f"{text[:_CHARACTERS]} [... {more} characters more]"


def _start_active(options: Mapping[str, Any]) -> Any:
    while (left := mlflow.active_run()) is not None and left.info.run_id in _left_active:
        mlflow.end_run("FAILED")
    return mlflow.start_run(**options)


def _start_inactive(options: Mapping[str, Any]) -> Any:
    """Start a run that is active nowhere; to be called in a thread that ends."""
    run = mlflow.start_run(**options)
    mlflow.end_run()
    mlflow.MlflowClient().update_run(run.info.run_id, status="RUNNING")
    return run


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


# Runs whose store went away before they could be ended: mlflow.end_run() would wait minutes for it, so they stay their
# thread's active run until the next one starts there.
_left_active: set[str] = set()


@atexit.register
def _forget_left_active() -> None:
    """MLflow ends the active run when the program ends, and would wait for its store then."""
    uri = mlflow.get_tracking_uri()
    while (run := mlflow.active_run()) is not None and run.info.run_id in _left_active:
        mlflow.set_tracking_uri("nowhere://")  # a store that fails at once, instead of one that is asked for minutes
        with suppress(mlflow.MlflowException):
            mlflow.end_run()
        mlflow.set_tracking_uri(uri)


_OF_A_DATASET = ("name", "digest", "source_type", "source", "schema", "profile")
