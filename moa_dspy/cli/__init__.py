"""The command line, `moa-dspy`: one file a command.

DSPy takes seconds to import, so the commands import what they need when they are called: help is there at once.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from moa_dspy.cli import (
    ask,
    chat,
    compile,
    demo,
    diagnose,
    doctor,
    evaluate,
    mcp,
    options,
    output,
    run,
    serve,
    show,
    start,
    ui,
)

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
app.command("demo", help=demo.HELP)(demo.demo)
app.command("ask", help=ask.HELP, no_args_is_help=True)(ask.ask)
app.command("chat", help=chat.HELP)(chat.chat)
app.command("run", help=run.HELP, no_args_is_help=True)(run.run)
app.command("eval", help=evaluate.HELP, no_args_is_help=True)(evaluate.evaluate)
app.command("diagnose", help=diagnose.HELP, no_args_is_help=True)(diagnose.diagnose)
app.command("compile", help=compile.HELP, no_args_is_help=True)(compile.compile_)
app.command("show", help=show.HELP, no_args_is_help=True)(show.show)
app.command("doctor", help=doctor.HELP)(doctor.doctor)
app.command("serve", help=serve.HELP, no_args_is_help=True)(serve.serve)
app.command("mcp", help=mcp.HELP, no_args_is_help=True)(mcp.mcp)
app.command("ui", help=ui.HELP)(ui.ui)
app.command("init", help=start.INIT_HELP)(start.init)
app.command("presets", help=start.PRESETS_HELP)(start.presets)
app.command("data", help=start.DATA_HELP, no_args_is_help=True)(start.data)


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
    pass
