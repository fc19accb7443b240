"""A real MLflow server on the loopback interface, and servers that are none."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["broken_server", "free_port", "hanging_server", "migrated", "mlflow_server"]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def migrated(database: Path) -> Path:
    """A SQLite store with all of MLflow's tables: eight seconds of migrations, so make one and copy it."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    make: Any = SqlAlchemyStore
    store = make(f"sqlite:///{database}", str(database.parent / "artifacts"))
    store.engine.dispose()
    return database


@contextmanager
def mlflow_server(folder: Path, database: Path | None = None) -> Iterator[str]:
    """`mlflow server` in a process of its own, at this address, with a SQLite store in the folder."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{database or folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "server-artifacts")]
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_for(f"{url}/health", process, folder / "server.log")
            yield url
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=10)


@contextmanager
def hanging_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def broken_server(status: int = 500) -> Iterator[str]:
    """Answers every request with this status."""
    answer = f"HTTP/1.1 {status} Broken\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()

    def serve() -> None:
        while True:
            try:
                client, _ = listening.accept()
            except OSError:
                return
            with client:
                client.settimeout(5)
                try:
                    client.recv(65536)
                    client.sendall(answer)
                except OSError:
                    pass

    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, f"mlflow server ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"mlflow server does not answer after {seconds:g} s: {log.read_text()[-2000:]}")
