"""`moa-dspy show`: what a saved mixture is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from moa_dspy.saving.saved_moa import SavedMoA

__all__ = ["HELP", "show_file"]

HELP = """Show a saved mixture: its agents, models, prompts, demos and weights.

The file is read only: nothing is built, imported or asked.

[bold]Examples[/bold]
moa-dspy show moa.json
moa-dspy show moa.json --demos
moa-dspy show moa.json --json

[bold]Next[/bold]: in Python MoA.from_file("moa.json").

Exit status: 0 shown, 2 bad input.
"""


def show_file(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What moa-dspy compile or MoA.save wrote.")],
    demos: Annotated[bool, typer.Option("--demos", help="Show the demos too, not just how many there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show a saved mixture."""
    from rich.console import Console

    from moa_dspy.cli.console import refusing
    from moa_dspy.saving.saved_moa import describe

    with refusing():
        saved = describe(path)
    if as_json:
        typer.echo(saved.model_dump_json(indent=2))
    else:
        _show(Console(), saved, demos)


def _show(console: Console, saved: SavedMoA, demos: bool) -> None:
    from rich.text import Text

    from moa_dspy.cli.console import clean

    layers = f", {saved.layers} layers" if saved.layers > 1 else ""
    samples = f", {saved.num_proposals_per_model} samples each" if saved.num_proposals_per_model > 1 else ""
    kind = "a prompt per agent" if saved.use_specialized_prompts else "one prompt for all proposers"
    console.print(Text(f"{saved.path}: {saved.signature}", "bold"), soft_wrap=True)
    console.print(Text(f"{saved.strategy}{layers}{samples}, {kind}", "dim"), soft_wrap=True)
    told = {n: value for n, value in saved.options.items() if value and n != "weights" and value != _DEFAULTS.get(n)}
    if told:
        console.print(Text(f"options: {', '.join(f'{n}={v}' for n, v in told.items())}", "dim"), soft_wrap=True)
    console.print()
    console.print(_agents(saved))
    for prompt in saved.prompts:
        if _is_counted(saved) and prompt.name.startswith("aggregator."):
            continue
        count = f" ({len(prompt.demos)} demos)" if prompt.demos else ""
        console.print(Text(f"\n{prompt.name}{count}", "bold"), soft_wrap=True)
        console.print(Text(clean(prompt.instructions)), soft_wrap=True)
        for number, demo in enumerate(prompt.demos if demos else (), start=1):
            console.print(Text(f"demo {number}", "dim"))
            for name, value in demo.items():
                console.print(Text(clean(f"  {name}: {value}")), soft_wrap=True)


def _agents(saved: SavedMoA) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    weighted = any(agent.weight is not None for agent in saved.agents)
    for heading in ("agent", *(["layer"] if saved.layers > 1 else []), "model", *(["weight"] if weighted else [])):
        table.add_column(heading, no_wrap=True)
    table.add_column("settings")
    for agent in saved.agents:
        settings = ", ".join(f"{n}={value}" for n, value in agent.settings.items() if value != _DEFAULTS.get(n))
        row = [agent.name]
        row += [str(agent.layer or "-")] if saved.layers > 1 else []
        nobody = _is_counted(saved) and agent.name == _JUDGE
        row += ["none: votes are counted" if nobody else agent.program or agent.model or "DSPy's own (settings.lm)"]
        row += ["-" if agent.weight is None else f"{agent.weight:.3g}"] if weighted else []
        table.add_row(*row, settings)
    return table


def _is_counted(saved: SavedMoA) -> bool:
    """Whether it votes without an aggregator, whose prompts are then never used."""
    return saved.strategy == "voting" and all(agent.model is None for agent in saved.agents if agent.name == _JUDGE)


_JUDGE = "aggregator"
# What every LM and every strategy has is not told.
_DEFAULTS = {"model_type": "chat", "num_retries": 3, "cache": True, "latency": 0.0, "tolerance": 1e-6}
