"""The flavor of logged mixtures: how one stands in a folder that MLflow stores, serves and runs in Spark."""

from __future__ import annotations

import importlib.metadata
import inspect
from pathlib import Path
from typing import Any

import mlflow.pyfunc
from mlflow.models import Model

from moa_dspy.tracking import served_program
from moa_dspy.tracking.program import PROGRAM

__all__ = ["FLAVOR", "PROGRAM_PATH", "requirements", "save_model"]

FLAVOR = "moa_dspy"
PROGRAM_PATH = "artifacts/program.json"


def save_model(
    path: str, mlflow_model: Model, program: Path, validate_serving_input: bool = False, **options: Any
) -> None:
    """Write a model into a folder, as `mlflow.models.Model.log` asks a flavor to.

    Args:
        path: The folder.
        mlflow_model: What MLflow knows of the model.
        program: The mixture's file, in a folder of its own.
        validate_serving_input: For `Model.log`, which passes all on.
        **options: What `mlflow.pyfunc.save_model` takes.
    """
    mlflow_model.add_flavor(FLAVOR, version=_version("moa-dspy") or "unknown", program=PROGRAM_PATH)
    if "uv_project_path" in inspect.signature(mlflow.pyfunc.save_model).parameters:
        # Else MLflow takes the caller's uv.lock and pyproject.toml for the model's, with all that stands in them.
        options["uv_project_path"] = program.parent
    mlflow.pyfunc.save_model(
        path,
        mlflow_model=mlflow_model,
        python_model=served_program.__file__,
        artifacts={PROGRAM: str(program)},
        **options,
    )


def requirements() -> list[str]:
    """The packages that answer, in the versions installed here; MLflow adds itself."""
    versions = {name: _version(name) for name in ("moa-dspy", "dspy", "litellm")}
    found = {name: version for name, version in versions.items() if version or name == "moa-dspy"}
    return [f"{name}=={version}" if version else name for name, version in found.items()]


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a folder on the path
        return None
