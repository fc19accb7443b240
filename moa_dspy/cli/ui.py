"""`moa-dspy ui`: MLflow's pages on what was tracked."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import HOST, Stopped, check_port, note
from moa_dspy.secrets import redact

_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file", "http", "https")


def ui(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="Such as sqlite:///mlflow.db, or a server's address.")
    ] = None,
    port: options.Port = 5000,
) -> None:
    """Start MLflow on what --mlflow tracked: runs, traces, prompts, cost per model.

    Without STORE it is MLflow's own default: what MLFLOW_TRACKING_URI names, else mlflow.db in this folder. A store
    gets a server of its own, for this machine only, until Ctrl-C; of a server that runs already, the address is told.

    [bold]Examples[/bold]
    moa-dspy demo --mlflow && moa-dspy ui
    moa-dspy ui sqlite:////data/mlflow.db --port 5050

    Exit status: 0 closed, 1 the server failed, 2 bad input.
    """
    import mlflow

    uri = store or mlflow.get_tracking_uri()
    kind, _, place = uri.partition("://")
    if place and kind.partition("+")[0] not in _STORES:
        raise ValueError(
            f"{redact(uri)} is no store that MLflow's server knows: its address begins with {', '.join(_STORES)}."
        )
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise FileNotFoundError(
            f"There is no store {redact(uri)}: nothing was tracked here. Track something first, for example with "
            "moa-dspy demo --mlflow, or name another store."
        )
    if kind.startswith("http"):
        note(f"MLflow: {redact(uri)}")
        return
    check_port(port)
    note(f"MLflow on {redact(uri)}, in some seconds: http://{HOST}:{port}  Ctrl-C ends it.")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    # No job workers: seven processes of 360 MB that only MLflow's own judges and prompt optimizers need.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    with subprocess.Popen([*command, "--host", HOST, "--port", str(port)], env=environment) as process:
        try:
            while process.poll() is None:  # a plain wait() is not interrupted by a signal that another thread gets
                time.sleep(0.2)
        except KeyboardInterrupt:
            process.terminate()
            return
    if process.returncode:
        raise Stopped(f"MLflow's server ended with status {process.returncode}; why stands above.")
