"""`moa-dspy serve`: mixtures as models of LiteLLM's proxy."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import HOST, Stopped, check_port, note


def serve(
    mixtures: Annotated[
        list[str], typer.Argument(metavar="FILE", help="A config or a compiled mixture, or NAME=FILE.")
    ],
    limits: options.Limits,
    port: options.Port = 4000,
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write the proxy's config there, and start nothing.")
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
    if importlib.util.find_spec("apscheduler") is None:  # of what the proxy needs, what nothing else brings
        raise ImportError("LiteLLM's proxy is not installed: pip install 'moa-dspy[serve]'")
    files = _by_name(mixtures)
    from moa_dspy.serving.litellm import PROVIDER, MixtureLLM

    bounds = {name: value for name, value in asdict(limits).items() if value is not None}
    MixtureLLM(files, bounds)  # which says what is wrong with them
    if write is not None:
        write.mkdir(parents=True, exist_ok=True)
        note(f"litellm --config {_write(write, PROVIDER, files, bounds)} --host {HOST} --port {port}")
        return
    check_port(port)
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        config = _write(Path(folder), PROVIDER, files, bounds)
        key = os.environ.get("LITELLM_MASTER_KEY") or f"sk-{secrets.token_urlsafe(24)}"
        note(f"{', '.join(f'{PROVIDER}/{name}' for name in files)} at http://{HOST}:{port}/v1  Ctrl-C ends it.")
        if "LITELLM_MASTER_KEY" not in os.environ:
            note(f"The key, until it ends: {key}  To choose it, set LITELLM_MASTER_KEY.")
        command = [sys.executable, "-m", "litellm.proxy.proxy_cli", "--config", str(config)]
        usual = {"LITELLM_MASTER_KEY": key, "LITELLM_DONT_SHOW_FEEDBACK_BOX": "true", "LITELLM_LOG": "ERROR"}
        done = subprocess.run([*command, "--host", HOST, "--port", str(port)], env=usual | os.environ)
        if done.returncode:
            raise Stopped(f"LiteLLM's proxy ended with status {done.returncode}.")


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


def _write(folder: Path, provider: str, files: dict[str, Path], bounds: dict[str, float]) -> Path:
    """The proxy's config, and beside it the module that it takes the mixtures from."""
    made = f"MixtureLLM({ {name: str(file) for name, file in files.items()}!r}, {bounds!r})"
    code = f"from moa_dspy.serving.litellm import MixtureLLM\n\nmixtures = {made}\n"
    (folder / "moa_mixtures.py").write_text(code, encoding="utf-8")
    models = [f"{provider}/{name}" for name in files]
    settings = {
        "model_list": [{"model_name": model, "litellm_params": {"model": model}} for model in models],
        "litellm_settings": {
            "custom_provider_map": [{"provider": provider, "custom_handler": "moa_mixtures.mixtures"}],
        },
        "general_settings": {"cancel_on_disconnect": True},
        # A mixture that fails has asked its models as often as its config says, and the next question may do better.
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return path
