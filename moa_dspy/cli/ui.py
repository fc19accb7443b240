"""`moa-dspy ui`: MLflow's pages on what was tracked."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["HELP", "ui"]

HELP = """Open MLflow on what --mlflow tracked: runs, traces, prompts, cost per model.

Without STORE it is MLflow's own default: what MLFLOW_TRACKING_URI names, else
mlflow.db in this folder. A store gets a server of its own, for this machine
only, until Ctrl-C; of a server that runs already, the address is opened.

[bold]Examples[/bold]

\b
moa-dspy demo --mlflow && moa-dspy ui
moa-dspy ui sqlite:////data/mlflow.db --port 5050 --no-browser

Exit status: 0 closed, 1 the server failed, 2 bad input.
"""


def ui(
    store: Annotated[
        str | None, typer.Argument(metavar="STORE", help="Such as sqlite:///mlflow.db, or a server's address.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the server.")] = 5000,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open it in a browser.")] = True,
) -> None:
    """Open MLflow on what was tracked."""
    from moa_dspy.cli.console import FAILED, complain, note, refusing
    from moa_dspy.cli.mlflow_pages import address_of, serving

    with refusing():
        uri = address_of(store)
        server = serving(uri, port)
    try:
        with server as (address, wait):
            note(f"MLflow on {uri}: {address}  Ctrl-C ends it." if wait else f"MLflow: {address}")
            if browser:
                typer.launch(address)
            if wait:
                wait()
    except KeyboardInterrupt:
        pass
    except OSError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None
