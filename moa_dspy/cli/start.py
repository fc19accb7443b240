"""`moa-dspy presets`, `init` and `data`: what one needs to begin with models and data of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from moa_dspy.cli import options
from moa_dspy.cli.output import console, note, print_json, table

__all__ = ["DATA_HELP", "INIT_HELP", "PRESETS_HELP", "data", "init", "presets"]

PRESETS_HELP = """List the ready-made mixtures, for --preset NAME: what they are, their models and LM calls per answer.

[bold]--json[/bold] prints a list of name, about, calls and config.

[bold]Next[/bold]: moa-dspy ask "Why is the sky blue?" --preset balanced
"""

INIT_HELP = """Write a commented moa.yaml, the mixture for --config.

Without a model or a preset it takes one small model of each provider whose key is
in the environment; without any key, simulated models.

[bold]Examples[/bold]

\b
moa-dspy init
moa-dspy init --preset balanced --out balanced.yaml
moa-dspy init -p openai/gpt-5.4-mini -p anthropic/claude-haiku-4-5 \\
    -a anthropic/claude-sonnet-5-5 --strategy selection

[bold]Next[/bold]: moa-dspy ask "Why is the sky blue?" --config moa.yaml

Exit status: 0 written, 2 bad input.
"""

DATA_HELP = """Print data to try the other commands with.

sample: 120 questions of six kinds with gold answers and their kind, as JSONL.

[bold]Examples[/bold]

\b
moa-dspy data sample > questions.jsonl
moa-dspy eval questions.jsonl --by kind
"""

_SMALL_MODELS = {
    "OPENAI_API_KEY": "openai/gpt-5.4-mini",
    "ANTHROPIC_API_KEY": "anthropic/claude-haiku-4-5",
    "GEMINI_API_KEY": "gemini/gemini-3.8-flash",
    "MISTRAL_API_KEY": "mistral/mistral-small-2603",
}


def presets(as_json: options.Json = False, verbose: options.Verbose = None) -> None:
    """List the presets."""
    from moa_dspy.config import PRESETS

    if as_json:
        print_json(
            [
                {"name": name, "about": preset.about, "calls": preset.calls, "config": preset.config.model_dump()}
                for name, preset in PRESETS.items()
            ]
        )
        return
    rows = [(name, str(preset.calls), preset.about) for name, preset in PRESETS.items()]
    console().print(table(["preset", "calls", "what it is"], rows))


def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="sample.")],
    verbose: options.Verbose = None,
) -> None:
    """Print sample questions."""
    from moa_dspy.simulated.questions import bundled_questions

    if name != "sample":
        raise ValueError(f"There are no data {name!r}. Give: sample.")
    here = console()
    for question in bundled_questions():
        here.out(json.dumps(dict(question.items())))


def init(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = Path("moa.yaml"),
    preset: options.Preset = None,
    proposer: options.Proposers = None,
    aggregator: options.Aggregator = None,
    strategy: options.Strategy = None,
    force: options.Force = False,
    verbose: options.Verbose = None,
) -> None:
    """Write a config."""
    from moa_dspy.config import MoAConfig, ModelConfig

    if out.exists() and not force:
        raise ValueError(f"{out} exists already. Give another --out, or --force to overwrite it.")
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{out} is no .yaml file, and only those hold comments.")
    if preset is not None:
        config = MoAConfig.preset(cast(Any, preset))
    else:
        models: list[str | ModelConfig] = [model for key, model in _SMALL_MODELS.items() if os.environ.get(key)]
        judge = models[0] if models else proposer[0] if proposer else options.JUDGE
        config = MoAConfig(proposer_models=models or [*options.PANEL], aggregator_model=judge)
    given = {"proposer_models": proposer, "aggregator_model": aggregator, "aggregation_strategy": strategy}
    config = config.model_copy(update={name: value for name, value in given.items() if value})
    lines = []
    for line in config.to_yaml().splitlines():
        comment = _COMMENTS.get(line.partition(":")[0])
        lines += [line] if comment is None else ["", f"# {comment}", line]
    out.write_text("\n".join([_HEAD, *lines, ""]), encoding="utf-8")
    note(f'{out} is written. Next: moa-dspy ask "Why is the sky blue?" --config {out}')


_HEAD = """\
# A mixture, for --config of moa-dspy and for MoA.from_config. A model is a name, or a mapping:
#   - {model: openai/gpt-5.4-mini, temperature: 0.7, max_tokens: 2000}
# Keys are read from the environment (OPENAI_API_KEY, ...) and never stand here."""
_COMMENTS = {
    "proposer_models": "Who proposes, side by side; a model that stands here twice gives two answers.",
    "aggregator_model": "Who makes one answer of the proposals.",
    "num_proposals_per_model": "Samples of each proposer.",
    "aggregation_strategy": "synthesis, selection, voting or fusion; with options: {name: selection, rotations: 3}.",
    "use_specialized_prompts": "true: a prompt of its own for each proposer, which moa-dspy compile tunes.",
    "layers": "From 2 on: the later layers read what the layer before them proposed (Wang et al., 2024).",
    "limits": "What one answer may take.",
}
