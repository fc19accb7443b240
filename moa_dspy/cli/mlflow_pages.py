"""MLflow's own server, on a store of this machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["address_of", "serving"]

_HOST = "127.0.0.1"
_STARTING = 120.0  # seconds: on a new database it makes its tables first


def address_of(store: str | None) -> str:
    """The tracking URI that is meant; None means MLflow's default.

    Raises:
        ValueError: If there is nothing at it, or MLflow is missing.
    """
    try:
        from moa_dspy.tracking.guard import masked
    except ImportError as error:
        raise ValueError(str(error)) from None
    import mlflow

    uri = store or mlflow.get_tracking_uri()
    kind, _, place = uri.partition("://")
    if kind in ("http", "https"):
        return uri
    if place and kind.partition("+")[0] not in ("sqlite", "postgresql", "mysql", "mssql", "file"):
        raise ValueError(
            f"{masked(uri)} is no store that MLflow's server knows: its address begins with sqlite, postgresql, mysql, "
            "mssql, http or https."
        )
    if kind == "sqlite" and not Path(place.removeprefix("/")).is_file():
        raise FileNotFoundError(
            f"There is no store {masked(uri)}: nothing was tracked here. Track something first, for example with "
            "moa-dspy demo --mlflow, or name another store."
        )
    return uri


@contextmanager
def serving(uri: str, port: int) -> Iterator[tuple[str, Callable[[], int] | None]]:
    """MLflow's address, and what waits for the end of a server that was started for it.

    Raises:
        OSError: If the port is taken, or the server ends at once.
    """
    if uri.startswith("http"):
        yield uri, None
        return
    with socket.socket() as probe:
        if probe.connect_ex((_HOST, port)) == 0:
            raise OSError(f"Port {port} is taken: something answers there already. Give another one with --port.")
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--workers", "1"]
    # No job workers: seven processes of 360 MB that only MLflow's own judges and prompt optimizers need.
    environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | os.environ
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--host", _HOST, "--port", str(port)], env=environment, stdout=log, stderr=log
        )
        try:
            address = f"http://{_HOST}:{port}"
            if not _answers(f"{address}/health", process):
                log.seek(0)
                said = log.read().decode(errors="replace").strip().splitlines()
                raise OSError(f"MLflow's server did not start. It said: {said[-1] if said else 'nothing'}")
            yield address, process.wait
        finally:
            process.terminate()
            process.wait()


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _STARTING
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return False
