"""`moa-dspy serve`, `mcp` and `ui`: mixtures as models of LiteLLM's proxy, as a tool of agents; MLflow's pages."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import HOST, Stopped, check_port, note

_STORES = ("sqlite", "postgresql", "mysql", "mssql", "file", "http", "https")


def serve(
    mixtures: Annotated[list[str], typer.Argument(metavar="FILE", help="A config, compiled or not, or NAME=FILE.")],
    limits: options.Limits,
    port: options.Port = 4000,
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the proxy's config, start nothing.")
    ] = None,
) -> None:
    r"""Serve mixtures as models, to whatever speaks OpenAI's or Anthropic's protocol.

    It starts LiteLLM's proxy for this machine only, until Ctrl-C. The model of moa.yaml is moa/moa; `name: fast` in
    it, or fast=moa.yaml, calls it moa/fast. A config without a signature answers conversations. pip install
    'moa-dspy\[serve]'

    [bold]Examples[/bold]
    moa-dspy serve moa.yaml
    moa-dspy serve fast=moa.yaml tuned.json --port 4001
    curl http://127.0.0.1:4000/v1/chat/completions -H 'Content-Type: application/json' \
        -d '{"model": "moa/fast", "messages": [{"role": "user", "content": "Hi"}]}'

    [bold]Next[/bold]: put it behind a proxy of your own with --write FOLDER, which writes what this starts.

    Exit status: 0 closed, 1 the proxy failed, 2 bad input.
    """
    # Of what the proxy needs, what nothing else brings.
    _require("apscheduler", "LiteLLM's proxy is not installed: pip install 'moa-dspy[serve]'")
    files = _by_name(mixtures)
    from moa_dspy.serving.litellm import MixtureLLM

    bounds = {name: value for name, value in asdict(limits).items() if value is not None}
    MixtureLLM(files, bounds)  # which says what is wrong with them
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        note(f"litellm --config {_write(write, files, bounds)} --host {HOST} --port {port}")
        return
    check_port(port)
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        key = os.environ.get("LITELLM_MASTER_KEY") or f"sk-{secrets.token_urlsafe(24)}"
        note(f"{', '.join(f'moa/{name}' for name in files)} at http://{HOST}:{port}/v1  Ctrl-C ends it.")
        if "LITELLM_MASTER_KEY" not in os.environ:
            note(f"The key, until it ends: {key}  To choose it, set LITELLM_MASTER_KEY.")
        config = str(_write(Path(folder), files, bounds))
        command = [sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", config, "--host", HOST]
        usual = {"LITELLM_MASTER_KEY": key, "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true", "LITELLM_LOG": "ERROR"}
        done = subprocess.run([*command, "--port", str(port)], env=usual | os.environ)
        if done.returncode:
            raise Stopped(f"LiteLLM's proxy ended with status {done.returncode}.")


def mcp(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A config or a compiled mixture.")],
    limits: options.Limits,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Over HTTP on this port of this machine.", show_default=False)
    ] = None,
) -> None:
    r"""Give other agents the tool `consult`: one question to the whole mixture.

    Without --port it speaks on stdin and stdout, as editors and assistants start their tools; with it, over HTTP on
    this machine, at /mcp. pip install 'moa-dspy\[mcp]'

    [bold]Examples[/bold]
    moa-dspy mcp moa.yaml
    moa-dspy mcp tuned.json --port 8000

    Exit status: 0 closed, 2 bad input.
    """
    _require("mcp", "MCP's SDK is not installed: pip install 'moa-dspy[mcp]'")
    moa = options.Who(config=path).mixture()
    limits.bound(moa, one_answer=True)
    from moa_dspy.serving.mcp import as_server

    server = as_server(moa, path.stem)
    if port is None:
        server.run("stdio")
    else:
        note(f"consult is at http://{HOST}:{port}/mcp  Ctrl-C ends it.")
        server.run("streamable-http", host=HOST, port=port)


def ui(
    store: Annotated[str | None, typer.Argument(metavar="STORE", help="sqlite:///mlflow.db, an address, ...")] = None,
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

    from moa_dspy.secrets import redact

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


def _require(module: str, message: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(message)


def _by_name(mixtures: list[str]) -> dict[str, Path]:
    from moa_dspy.config import MoAConfig

    files = dict[str, Path]()
    for given in mixtures:
        name, _, file = given.rpartition("=")
        name = name or MoAConfig.load(file).name or Path(file).stem
        if name in files:
            raise ValueError(f"Two mixtures would be called {name!r}. Name one: NAME=FILE.")
        files[name] = Path(file).resolve()
    return files


def _write(folder: Path, files: dict[str, Path], bounds: dict[str, Any]) -> Path:
    """The proxy's config, and beside it the module that it takes the mixtures from."""
    made = f"MixtureLLM({ {name: str(file) for name, file in files.items()}!r}, {bounds!r})"
    code = f"from moa_dspy.serving.litellm import MixtureLLM\n\nmixtures = {made}\n"
    (folder / "moa_mixtures.py").write_text(code, encoding="utf-8")
    settings = {
        "model_list": [{"model_name": f"moa/{name}", "litellm_params": {"model": f"moa/{name}"}} for name in files],
        "litellm_settings": {"custom_provider_map": [{"provider": "moa", "custom_handler": "moa_mixtures.mixtures"}]},
        "general_settings": {"cancel_on_disconnect": True},
        # A mixture that fails has asked its models as often as its config says, and the next question may do better.
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return path
