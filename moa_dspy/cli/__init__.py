"""The command line, `moa-dspy`.

DSPy takes seconds to import, so the commands import what they need when they are called: help is there at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated

import typer

from moa_dspy.cli import ask, compile, doctor, evaluate, options, output, run, serve, start

__all__ = ["app", "main"]

_HELP = """Mixture of Agents: several models propose in parallel, one answer comes out, with the whole account of how.

[bold]Begin[/bold], without a key: simulated models answer.
moa-dspy demo
moa-dspy ask "What is the capital of Scotland?"

[bold]Next[/bold]: moa-dspy init writes a config for your models; each command's --help has examples and says what \
comes after it.

Under --json, errors are JSON on stdout too: {"error": {"type", "message"}}. Exit status 2 is bad input.
"""

# Without rich's tracebacks: they would show what local variables hold, keys included.
app = typer.Typer(
    cls=output.Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS: dict[str, tuple[Callable[..., None], bool]] = {
    # name: the command, and whether it shows its help where it is given nothing
    "demo": (start.demo, False),
    "ask": (ask.ask, True),
    "chat": (ask.chat, False),
    "run": (run.run, True),
    "eval": (evaluate.evaluate, True),
    "diagnose": (evaluate.diagnose, True),
    "compile": (compile.compile_, True),
    "show": (doctor.show, True),
    "doctor": (doctor.doctor, False),
    "serve": (serve.serve, True),
    "mcp": (serve.mcp, True),
    "ui": (serve.ui, False),
    "init": (start.init, False),
    "presets": (start.presets, False),
    "data": (start.data, True),
}
for _name, (_command, _shows_help) in _COMMANDS.items():
    app.command(_name, no_args_is_help=_shows_help)(options.spread(_command))


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moa-dspy {version('moa-dspy')}")
        raise typer.Exit


@app.callback(help=_HELP)
def _main(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: options.Verbose = None,
) -> None:
    # LiteLLM would wait for newer prices from the network, and warn where there is none: the packaged ones serve.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "true")
