"""A real MLflow server on the loopback interface, and servers that are none."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

__all__ = ["broken_server", "free_port", "hanging_server", "migrated", "mlflow_server", "mortal_server"]


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
def mlflow_server(folder: Path, template: Path) -> Iterator[str]:
    """MLflow's server on a copy of a store, one for all workers: who comes first starts it, who leaves last ends it."""
    lock, told = FileLock(folder / "mlflow-server.lock"), folder / "mlflow-server.json"

    def count(users: int) -> Any:
        state = json.loads(told.read_text())
        state["users"] += users
        told.write_text(json.dumps(state))
        return state

    with lock:
        if not told.exists():
            process, url = _start(folder, Path(shutil.copy(template, folder / "server.db")))
            told.write_text(json.dumps({"url": url, "pid": process.pid, "users": 0}))
        url = count(+1)["url"]
    try:
        yield url
    finally:
        with lock:
            if (state := count(-1))["users"] == 0:
                os.kill(state["pid"], signal.SIGKILL)
                told.unlink()


@contextmanager
def mortal_server(url: str) -> Iterator[str]:
    """The server by another address, at which it is dead once the block has ended."""
    passed_on: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                pair = listening.accept()[0], socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])))
                passed_on.extend(pair)
                for source, sink in (pair, pair[::-1]):
                    threading.Thread(target=_pass_on, args=(source, sink), daemon=True).start()

    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listening:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for end in (listening, *passed_on):
            _shut(end)


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


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


# What `mlflow server` starts, without the command's own process, which imports all of MLflow once more.
_SERVE = """
import os, sys, uvicorn
from mlflow.server import constants as names
os.environ[names.BACKEND_STORE_URI_ENV_VAR] = f"sqlite:///{sys.argv[2]}"
os.environ[names.ARTIFACT_ROOT_ENV_VAR] = "mlflow-artifacts:/"
os.environ[names.ARTIFACTS_DESTINATION_ENV_VAR] = "server-artifacts"
os.environ[names.SERVE_ARTIFACTS_ENV_VAR] = "true"
uvicorn.run("mlflow.server.fastapi_app:app", port=int(sys.argv[1]))
"""


def _start(folder: Path, database: Path) -> "tuple[subprocess.Popen[bytes], str]":
    port, log = free_port(), folder / "server.log"
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-c", _SERVE, str(port), str(database)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                return process, f"http://127.0.0.1:{port}"
        except OSError:
            time.sleep(0.1)
    process.kill()
    raise AssertionError(f"MLflow's server does not answer after 120 s: {log.read_text()[-2000:]}")
