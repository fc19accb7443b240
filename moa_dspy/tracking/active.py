"""MLflow's active run, put in its place and taken away without asking a server.

MLflow keeps a stack of runs per thread. `mlflow.start_run` and `mlflow.end_run` ask the server in the program's own
thread, where nothing bounds the wait, and end whatever run is on top: with several tasks in one thread, another's.
"""

from __future__ import annotations

from typing import Any

import mlflow
import mlflow.tracking.fluent
from mlflow.entities import Run

__all__ = ["activate", "active_id", "deactivate"]


_fluent: Any = mlflow.tracking.fluent


def activate(run: Run) -> None:
    """Make it this thread's active run: what autolog and `mlflow.log_metric` log into."""
    _fluent._active_run_stack.get().append(_fluent.ActiveRun(run))


def deactivate(run_id: str) -> None:
    """Take it away again, wherever it stands among this thread's runs."""
    stack = _fluent._active_run_stack.get()
    stack[:] = [run for run in stack if run.info.run_id != run_id]


def active_id() -> str | None:
    """The id of this thread's active run."""
    run = mlflow.active_run()
    return None if run is None else run.info.run_id
