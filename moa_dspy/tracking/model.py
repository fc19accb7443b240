"""Mixtures as MLflow models: logged without pickles and without secrets, loaded again, served."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dspy
import mlflow
from mlflow.artifacts import download_artifacts
from mlflow.models import ModelSignature, get_model_info, validate_schema
from mlflow.models.model import ModelInfo

from moa_dspy.moa import MoA
from moa_dspy.secrets import redact
from moa_dspy.serving.conversation import message_field
from moa_dspy.tracking.served import PROGRAM, ask_nobody, signature_of
from moa_dspy.tracking.store import address, check_store, describe
from moa_dspy.tracking.watch import links
from moa_dspy.values import to_jsonable

__all__ = ["load_model", "log_model"]

Row: TypeAlias = Mapping[str, Any] | dspy.Example

_KIND = "moa_dspy"  # among a model's metadata: what it is, and in which version of ours
_CODE = """from mlflow.models import set_model

from moa_dspy.tracking.served import {program}
{imports}
set_model({program}({types}))
"""


def log_model(
    moa: MoA,
    name: str,
    *,
    serve_as: Literal["rows", "chat"] = "rows",
    input_example: Row | Sequence[Row] | None = None,
    registered_model_name: str | None = None,
    pip_requirements: Sequence[str] | None = None,
    custom_types: Mapping[str, type] | None = None,
    code_paths: Sequence[str] | None = None,
) -> ModelInfo:
    """Log a mixture as an MLflow model: its JSON state and a few lines of code, no pickle and no secret.

    It is logged into the active run, or into the experiment if none is active; no model is asked. Served
    (`mlflow models serve`) or run in Spark (`mlflow.pyfunc.spark_udf`), it takes its keys from the environment
    there.

    Args:
        moa: The mixture.
        name: The model's name.
        serve_as: `"rows"` answers tables of the task's inputs, as `moa_dspy.tracking.served.MixtureProgram` says.
            `"chat"` answers chat payloads, streamed if asked, as MLflow's `ResponsesAgent`: for a task of one text
            input, a `system_prompt` and a `dspy.History` beside, and one text output.
        input_example: Inputs of the task, one row or several; stored and shown with the model.
        registered_model_name: Register it under this name too.
        pip_requirements: What to install where it is served, instead of the versions of moa-dspy, DSPy and LiteLLM
            that are installed here.
        custom_types: Your own classes for types of the signature, by name: they are imported where it is served.
        code_paths: Files and folders with the modules that they, and LMs of your own, come from.

    Returns:
        What MLflow knows of the model: `model_uri`, `signature`, ...

    Raises:
        TypeError: If `moa` is no mixture.
        ValueError: If it could not answer elsewhere: it has programs or a strategy of your own, LMs that no file
            holds, or agents that ask `dspy.settings.lm`; or if the example lacks inputs or has them of other types.
        ConnectionError: If the tracking server does not answer.

    Examples:
        ```python
        info = moa_dspy.log_model(moa, "capitals", input_example={"question": "What is the capital of Peru?"})
        moa = moa_dspy.load_model(info.model_uri)
        ```
    """
    if not isinstance(moa, MoA):
        raise TypeError(f"log_model takes a MoA, not {type(moa).__name__}. MLflow logs other programs: mlflow.dspy.")
    # Whatever is wrong is found before MLflow is told: a model that failed half way stays in its lists.
    _refuse_ambient(moa)
    types, options, served_by = custom_types or {}, dict[str, Any](), "MixtureProgram"
    if serve_as == "chat":
        served_by = "MixtureAgent"
        message_field(moa.signature)
        if [field.annotation for field in moa.signature.output_fields.values()] != [str]:
            raise ValueError(f"A chat wants one text back, not {moa.signature!r}. Log it with serve_as='rows'.")
    else:
        signature = signature_of(moa.signature)
        options = {"signature": signature, "input_example": _read_example(input_example, moa.signature, signature)}
    with tempfile.TemporaryDirectory() as folder, ask_nobody():
        program, code = Path(folder, f"{PROGRAM}.json"), Path(folder, "served_mixture.py")
        code.write_text(_write_code(served_by, types))
        moa.save(program)
        try:
            MoA.from_file(program, allow_unsafe_lm_state=True, custom_types=types)
        except (ValueError, ImportError) as error:
            reason = str(error).removeprefix(f"{program}: ")
            raise ValueError(f"This mixture cannot be logged as a model. {reason}") from error
        try:
            check_store()
        except Exception as error:
            raise ConnectionError(
                f"MLflow at {address()} does not answer, so the model was not logged: "
                f"{describe(error)} Start the server, or name another with mlflow.set_tracking_uri()."
            ) from error
        installed = [f"{package}=={version(package)}" for package in ("moa-dspy", "dspy", "litellm")]
        return mlflow.pyfunc.log_model(
            name=name,
            python_model=str(code),
            artifacts={PROGRAM: str(program)},
            metadata={_KIND: version("moa-dspy")},
            registered_model_name=registered_model_name,
            pip_requirements=installed if pip_requirements is None else list(pip_requirements),
            code_paths=None if code_paths is None else list(code_paths),
            # Else MLflow takes the caller's uv.lock and pyproject.toml for the model's, with all that stands in them.
            uv_project_path=folder,
            **options,
        )


def load_model(
    uri: str | Path, *, allow_unsafe_lm_state: bool = False, custom_types: Mapping[str, type] | None = None
) -> MoA:
    """The mixture that `log_model` logged. Keys come from the environment, and `dspy.settings` stays as it is.

    Its traces are linked to the model.

    Args:
        uri: `models:/NAME/VERSION`, `models:/NAME@ALIAS`, `models:/ID`, `runs:/RUN/NAME`, or a model's folder.
        allow_unsafe_lm_state: Whether to trust the model's addresses (`api_base`) and import the classes that it
            names; see `MoA.from_file`.
        custom_types: Your own classes for types of the signature, by name.

    Raises:
        ValueError: If the model is no mixture.
        mlflow.exceptions.MlflowException: If there is no such model.
    """
    info = get_model_info(str(uri))
    if _KIND not in (info.metadata or {}):
        raise ValueError(
            f"The model {redact(str(uri))} is no mixture ({', '.join(sorted(info.flavors))}): load_model loads "
            "what moa_dspy.log_model logged. Load this one with mlflow.pyfunc.load_model."
        )
    with tempfile.TemporaryDirectory() as folder:
        path = download_artifacts(artifact_uri=str(uri), dst_path=folder)
        program = Path(path, "artifacts", f"{PROGRAM}.json")
        moa = MoA.from_file(program, allow_unsafe_lm_state=allow_unsafe_lm_state, custom_types=custom_types)
    links[moa] = {"model_id": info.model_id}
    return moa


def _refuse_ambient(moa: MoA) -> None:
    asked = [agent for agent in moa.agents if agent is not moa.aggregator or moa.strategy.needs_aggregator]
    ambient = [agent.name for agent in asked if agent.asks_ambient_lm]
    if ambient:
        raise ValueError(
            f"{', '.join(ambient)}: without an LM of its own, an agent asks dspy.settings.lm, and where a model is "
            "served there is none. Give it one, then log the mixture."
        )


def _read_example(
    given: Row | Sequence[Row] | None, task: type[dspy.Signature], signature: ModelSignature
) -> list[dict[str, Any]] | None:
    if given is None:
        return None
    rows = [given] if isinstance(given, (Mapping, dspy.Example)) else given
    example = [{name: to_jsonable(row[name]) for name in task.input_fields if name in row} for row in rows]
    if not example:
        raise ValueError("The input example holds no row. Give inputs of the task, or leave it out.")
    try:
        for row in example:
            validate_schema([row], signature.inputs)
    except mlflow.MlflowException as error:
        raise ValueError(f"The input example does not fit the task: {error.message}") from error
    return example


def _write_code(program: str, types: Mapping[str, type]) -> str:
    """What MLflow runs where the model is served; it imports the classes of the user's own."""
    for name, type_ in types.items():
        if type_.__module__ == "__main__" or "." in type_.__qualname__:
            raise ValueError(
                f"No server can import {name}: it is {type_.__qualname__} of {type_.__module__}. Move it to the top of "
                "a module, and name its file in code_paths."
            )
    imports = "".join(f"from {type_.__module__} import {type_.__name__} as {name}\n" for name, type_ in types.items())
    return _CODE.format(program=program, imports=imports, types=", ".join(f"{name}={name}" for name in types))
