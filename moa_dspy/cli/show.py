"""`moa-dspy show`: what a mixture in a file is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import console, harmless, print_json

if TYPE_CHECKING:
    from moa_dspy.moa import MoA


def show(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A saved mixture or a config.")],
    demos: Annotated[bool, typer.Option("--demos", help="Show the demos too, not just how many there are.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show a mixture: its agents, models, prompts, demos and weights.

    FILE is what moa-dspy compile or MoA.save wrote, or a config in YAML or JSON. Nobody is asked.

    [bold]Examples[/bold]
    moa-dspy show moa.json
    moa-dspy show tuned.json --demos
    moa-dspy show moa.yaml --json

    [bold]--json[/bold] prints path, config (what MoAConfig takes), agents (name, model, layer) and prompts (name,
    instructions, demos).

    [bold]Next[/bold]: ask it with --config FILE; in Python MoA.from_config(None, FILE).

    Exit status: 0 shown, 2 bad input.
    """
    from moa_dspy.config import MoAConfig
    from moa_dspy.moa import MoA

    config = MoAConfig.load(path)
    moa = MoA.from_config(options.DEFAULT_TASK if config.signature is None else None, path)
    prompts: list[dict[str, Any]] = [{"name": name, **prompt} for name, prompt in prompts_of(moa).items()]
    if as_json:
        layers = [number for number, panel in enumerate(moa.panels, start=1) for _ in panel.agents]
        agents = [
            {"name": agent.name, "model": agent.model, "layer": layer}
            for agent, layer in zip(moa.agents, [*layers, None], strict=True)
        ]
        print_json({"path": path, "config": config.model_dump(), "agents": agents, "prompts": prompts})
        return
    shown = [(f"# {path}", "bold"), (config.to_yaml(), "")]
    for prompt in prompts:
        count = f" ({len(prompt['demos'])} demos)" if prompt["demos"] else ""
        shown += [(f"{prompt['name']}{count}", "bold"), (f"{prompt['instructions']}\n", "")]
        for number, demo in enumerate(prompt["demos"] if demos else [], start=1):
            lines = "\n".join(f"  {name}: {value}" for name, value in demo.items())
            shown += [(f"demo {number}", "dim"), (f"{lines}\n", "")]
    here = console()
    for text, style in shown:
        here.print(harmless(text, style), soft_wrap=not here.is_terminal)


def prompts_of(moa: MoA) -> dict[str, dict[str, Any]]:
    """Predictor -> its instructions and demos; without those of an aggregator that nobody is."""
    is_asked = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
    parts: list[tuple[str, Any]] = moa.named_predictors()
    return {
        name: {"instructions": part.signature.instructions, "demos": [dict(demo) for demo in part.demos]}
        for name, part in parts
        if is_asked or not name.startswith("aggregator.")
    }
