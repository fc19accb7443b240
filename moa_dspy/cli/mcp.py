"""`moa-dspy mcp`: a mixture as a tool for other agents."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import note


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
    if importlib.util.find_spec("mcp") is None:
        raise ImportError("MCP's SDK is not installed: pip install 'moa-dspy[mcp]'")
    moa = options.Who(config=path).mixture()
    limits.bound(moa, one_answer=True)
    from moa_dspy.serving.mcp import as_server

    server = as_server(moa, path.stem)
    if port is None:
        server.run("stdio")
    else:
        note(f"consult is at http://127.0.0.1:{port}/mcp  Ctrl-C ends it.")
        server.run("streamable-http", host="127.0.0.1", port=port)
