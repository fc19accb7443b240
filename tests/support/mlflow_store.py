"""An MLflow store for each test, and all of MLflow's state put back. Import the fixtures where they are used."""

import asyncio
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

# Before MLflow is imported: it would send statistics of its use over the network.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import httpx
import mlflow
import mlflow.tracing
import pytest
from filelock import FileLock
from mlflow.pyfunc import scoring_server

import moa_dspy

from .mlflow_server import migrated

__all__ = ["served", "store", "template", "untracked"]


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database, to be copied; made once for all workers, as it takes eight seconds."""
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    database = folder / "mlflow-template.db"
    with FileLock(folder / "mlflow-template.lock"):
        if not database.exists():
            migrated(folder / "mlflow-new.db").rename(database)
    return database


@pytest.fixture
def untracked() -> Iterator[None]:
    """Put back what a test does to MLflow: tracking URI, runs, experiment, environment, autolog."""
    environment = dict(os.environ)
    uri, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    yield
    moa_dspy.autolog(disable=True)
    while mlflow.active_run():
        with suppress(mlflow.MlflowException):  # of a server that is gone
            mlflow.end_run()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(registry if registry != uri else "")
    mlflow.tracing.reset()  # type: ignore[no-untyped-call]
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def store(untracked: None, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with an empty store `mlflow.db`; MLflow tracks into its experiment "mixtures"."""
    monkeypatch.chdir(tmp_path)
    database = shutil.copy(template, tmp_path / "mlflow.db")
    mlflow.set_tracking_uri(f"sqlite:///{database}")  # MLflow keeps a store by its address
    mlflow.MlflowClient().create_experiment("mixtures", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("mixtures")
    return tmp_path


def served(model: Any, body: Any) -> Any:
    """What `mlflow models serve` answers when this is posted to it."""

    async def post() -> Any:
        transport = httpx.ASGITransport(app=scoring_server.init(model))
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            return (await client.post("/invocations", json=body)).json()

    return asyncio.run(post())["predictions"]
