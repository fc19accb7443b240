"""What is written into MLflow runs, by their ids: from any thread, whatever run is active there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import mlflow
import pandas
from mlflow.data.dataset import Dataset
from mlflow.entities import Metric, Param, Run, RunStatus, RunTag

from .active import activate, active_id, deactivate

__all__ = ["end_run", "log", "log_child", "log_input", "log_table", "log_texts", "parent_of_next", "start_run"]

opened: set[str] = set()
"""Ids of the runs that are open here."""

around: ContextVar[tuple[str, ...]] = ContextVar("moa_dspy_runs", default=())
"""Those around the present task, the outermost first."""


def parent_of_next() -> str | None:
    """The run whose child one that is started now is: of this task, or the user's own in this thread."""
    present = active_id()
    if present is None or (present in opened and present not in around.get()):  # none, or that of another task
        return around.get()[-1] if around.get() else None
    return present


def start_run(name: str | None, parent: str | None) -> Run:
    """A new run, active nowhere."""
    tags = {} if parent is None else {"mlflow.parentRunId": parent}
    run = mlflow.start_run(run_name=name, tags=tags, nested=True)
    deactivate(run.info.run_id)
    return run


def end_run(run_id: str, error: BaseException | None) -> None:
    """End a run as the error says: killed by Ctrl-C or a cancelled task, else failed."""
    status = RunStatus.FINISHED if error is None else RunStatus.FAILED
    if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
        status = RunStatus.KILLED
    activate(mlflow.MlflowClient().get_run(run_id))
    mlflow.end_run(RunStatus.to_string(status))  # it stops the measuring of the system too, where that is on


def log(
    run_id: str,
    metrics: Mapping[str, float] | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Log all of it at once."""
    now = int(time.time() * 1000)
    mlflow.MlflowClient().log_batch(
        run_id,
        metrics=[Metric(name, value, now, 0) for name, value in (metrics or {}).items()],
        params=[Param(name, value) for name, value in (params or {}).items()],
        tags=[RunTag(name, value) for name, value in (tags or {}).items()],
    )


def log_child(
    run_id: str, experiment_id: str, name: str, metrics: Mapping[str, float], params: Mapping[str, str]
) -> None:
    """A finished child run with these numbers."""
    client = mlflow.MlflowClient()
    child = client.create_run(experiment_id, tags={"mlflow.parentRunId": run_id}, run_name=name).info.run_id
    log(child, metrics, params)
    client.set_terminated(child)


def log_input(run_id: str, dataset: Dataset) -> None:
    """The data set as an input of the run."""
    activate(mlflow.MlflowClient().get_run(run_id))  # MLflow logs inputs into the active run of a thread only
    try:
        mlflow.log_input(dataset, context="evaluation")
    finally:
        deactivate(run_id)


def log_table(run_id: str, columns: Mapping[str, Sequence[Any]], path: str) -> None:
    """A table that MLflow's pages show as one."""
    # As objects, in which whole numbers may be missing; MLflow's search for images does not warn about them.
    mlflow.MlflowClient().log_table(run_id, pandas.DataFrame(columns, dtype=object), path)


def log_texts(run_id: str, texts: Mapping[str, str]) -> None:
    """Text artifacts: path -> text."""
    for path, text in texts.items():
        mlflow.MlflowClient().log_text(run_id, text, path)
