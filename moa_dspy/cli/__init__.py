"""The command line: `moa-dspy ask`, `run`, and what registers here beside them."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from moa_dspy.cli import ask, run

__all__ = ["app", "main"]

# Without rich's tracebacks: they would show what local variables hold, keys included.
app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False)
app.command("ask", help=ask.HELP, no_args_is_help=True)(ask.ask)
app.command("run", help=run.HELP, no_args_is_help=True)(run.run)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moa-dspy {version('moa-dspy')}")
        raise typer.Exit


@app.callback(
    help="""Mixture of Agents: several models propose in parallel, one answer comes out, with the whole account of how.

Begin without a key: [bold]moa-dspy ask "What is the capital of Scotland?"[/bold] (simulated models answer).
"""
)
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass
