"""`moa-dspy ui`: MLflow's pages on what was tracked."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import HOST, Stopped, check_port, note

_STARTING = 120.0  # seconds: on a new database it makes its tables first


def ui(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="Such as sqlite:///mlflow.db, or a server's address.")
    ] = None,
    port: options.Port = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
) -> None:
    """Open MLflow on what --mlflow tracked: runs, traces, prompts, cost per model.

    Without STORE it is MLflow's own default: what MLFLOW_TRACKING_URI names, else mlflow.db in this folder. A store
    gets a server of its own, for this machine only, until Ctrl-C; of a server that runs already, the address is
    opened.

    [bold]Examples[/bold]
    moa-dspy demo --mlflow && moa-dspy ui
    moa-dspy ui sqlite:////data/mlflow.db --port 5050 --no-browser

    Exit status: 0 closed, 1 the server failed, 2 bad input.
    """
    from moa_dspy.tracking import mask_address

    uri = _find_store(store)
    if uri.startswith("http"):
        note(f"MLflow: {mask_address(uri)}")
        if browser:
            typer.launch(uri)
        return
    check_port(port)
    with suppress(KeyboardInterrupt), _server(uri, port) as (address, process):
        note(f"MLflow on {mask_address(uri)}: {address}  Ctrl-C ends it.")
        if browser:
            typer.launch(address)
        while process.poll() is None:  # a plain wait() is not interrupted by a signal that another thread gets
            time.sleep(0.2)


@contextmanager
def _server(uri: str, port: int) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """MLflow's own server on a store of this machine.

    Raises:
        Stopped: If it ends at once.
    """
    address = f"http://{HOST}:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    command += ["--host", HOST, "--port", str(port)]
    # No job workers: seven processes of 360 MB that only MLflow's own judges and prompt optimizers need.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            if not _answers(f"{address}/health", process):
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()
                raise Stopped(f"MLflow's server did not start. It said: {said[-1] if said else 'nothing'}")
            yield address, process
        finally:
            process.terminate()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _STARTING
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), urllib.request.urlopen(url, timeout=2):  # URLError is one
            return True
        time.sleep(0.2)
    return False


def _find_store(store: str | None) -> str:
    """The tracking URI that is meant; None means what MLflow itself would use."""
    import mlflow

    from moa_dspy.tracking import mask_address

    uri = store or mlflow.get_tracking_uri()
    kind, _, place = uri.partition("://")
    if place and kind.partition("+")[0] not in _STORES:
        raise ValueError(
            f"{mask_address(uri)} is no store that MLflow's server knows: its address begins with {', '.join(_STORES)}."
        )
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise FileNotFoundError(
            f"There is no store {mask_address(uri)}: nothing was tracked here. Track something first, for example with "
            "moa-dspy demo --mlflow, or name another store."
        )
    return uri


_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file", "http", "https")
