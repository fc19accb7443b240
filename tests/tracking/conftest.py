"""Each test has a store of its own; the one real server is shared. All of MLflow's state is put back."""

import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

# Before MLflow is imported: it would send statistics of its use over the network.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow
import mlflow.tracing
import pytest
from support.mlflow_server import migrated, mlflow_server


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty, migrated database, to be copied."""
    return migrated(tmp_path_factory.mktemp("template") / "mlflow.db")


@pytest.fixture
def untracked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put back what a test does to MLflow: tracking URI, runs, experiment, environment, autolog."""
    environment = dict(os.environ)
    uri = mlflow.get_tracking_uri()
    registry = mlflow.get_registry_uri()
    yield
    _autolog_off()
    while mlflow.active_run():
        with suppress(mlflow.MlflowException):  # of a server that is gone
            mlflow.end_run()
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(registry if registry != uri else "")
    mlflow.tracing.reset()
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def store(untracked: None, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a SQLite store, `mlflow.db`, and `artifacts`; MLflow tracks into its experiment "mixtures"."""
    monkeypatch.chdir(tmp_path)  # where the artifacts of other experiments go
    database = Path(shutil.copy(template, tmp_path / "mlflow.db"))
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    mlflow.MlflowClient().create_experiment("mixtures", artifact_location=str(tmp_path / "artifacts"))
    mlflow.set_experiment("mixtures")
    return tmp_path


@pytest.fixture(scope="session")
def server_url(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow server on SQLite, one for all tests of a worker."""
    folder = tmp_path_factory.mktemp("server")
    database = Path(shutil.copy(template, folder / "server.db"))
    with mlflow_server(folder, database) as url:
        yield url


@pytest.fixture
def server(untracked: None, server_url: str, request: pytest.FixtureRequest) -> str:
    """The real server, with an experiment of the test's own; MLflow tracks into it."""
    mlflow.set_tracking_uri(server_url)
    mlflow.set_experiment(request.node.name)
    return server_url


def _autolog_off() -> None:
    import dspy
    from mlflow.dspy import autolog as mlflow_autolog
    from mlflow.dspy.callback import MlflowCallback

    from moa_dspy.tracking import autolog

    autolog(disable=True)  # what a command left on
    if any(isinstance(callback, MlflowCallback) for callback in dspy.settings.callbacks):
        mlflow_autolog(disable=True, silent=True)
