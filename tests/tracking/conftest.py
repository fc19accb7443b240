"""Each test has a store of its own; the one real server is shared. All of MLflow's state is put back."""

from collections.abc import Iterator
from pathlib import Path

import dspy
import mlflow
import pytest
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.dspy.callback import MlflowCallback
from support.mlflow_server import mlflow_server
from support.mlflow_store import store as store
from support.mlflow_store import template as template
from support.mlflow_store import untracked as untracked


@pytest.fixture(autouse=True)
def without_mlflows_own() -> Iterator[None]:
    """Turn MLflow's own autolog off again, where a test turned it on."""
    yield
    if any(type(callback) is MlflowCallback for callback in dspy.settings.callbacks):
        mlflow_autolog(disable=True, silent=True)


@pytest.fixture(scope="session")
def server_url(template: Path) -> Iterator[str]:
    """The address of a real MLflow server on SQLite, one for all tests."""
    with mlflow_server(template.parent, template) as url:
        yield url


@pytest.fixture
def server(untracked: None, server_url: str, request: pytest.FixtureRequest) -> str:
    """The real server, with an experiment of the test's own; MLflow tracks into it."""
    mlflow.set_tracking_uri(server_url)
    mlflow.set_experiment(request.node.name)
    return server_url
