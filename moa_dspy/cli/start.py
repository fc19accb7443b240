"""`moa-dspy demo`, `presets`, `data` and `init`: what one needs to begin."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from moa_dspy.cli import options
from moa_dspy.cli.evaluate import compare, save_plot, show_comparison
from moa_dspy.cli.output import console, note, print_json, table
from moa_dspy.cli.tracking import tracking

_SMALL_MODELS = {
    "openai": ("OPENAI_API_KEY", "openai/gpt-5.4-mini"),
    "anthropic": ("ANTHROPIC_API_KEY", "anthropic/claude-haiku-4-5"),
    "gemini": ("GEMINI_API_KEY", "gemini/gemini-3.8-flash"),
    "mistral": ("MISTRAL_API_KEY", "mistral/mistral-small-2603"),
    "groq": ("GROQ_API_KEY", "groq/openai/gpt-oss-120b"),
    "ollama": ("OLLAMA_HOST", "ollama_chat/llama3.2"),
}
_PROVIDERS = f"Whose small model proposes: {', '.join(_SMALL_MODELS)}"
_HEAD = """\
# A mixture, for --config of moa-dspy and for MoA.from_config. A model is a name, or a mapping:
#   - {model: openai/gpt-5.4-mini, temperature: 0.7, max_tokens: 2000}
#   - {model: openai/NAME, api_base: https://HOST/v1, api_key: os.environ/MY_KEY, prices: {input: 0.1, output: 0.4}}
# Keys are read from the environment (OPENAI_API_KEY, ...) and never stand here. What to do: moa-dspy doctor."""
_COMMENTS = {
    "proposer_models": "Who proposes, side by side; a model that stands here twice gives two answers.",
    "aggregator_model": "Who makes one answer of the proposals.",
    "num_proposals_per_model": "Samples of each proposer.",
    "aggregation_strategy": "synthesis, selection, voting or fusion; with options: {name: selection, rotations: 3}.",
    "use_specialized_prompts": "true: a prompt of its own for each proposer, which moa-dspy compile tunes.",
    "layers": "From 2 on: the later layers read what the layer before them proposed (Wang et al., 2024).",
    "limits": "What one answer may take.",
}

_NEXT = """\

Next
  one question       moa-dspy ask "What is the capital of Scotland?"
  real models        moa-dspy ask "Why is the sky blue?" --preset balanced
                     with OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY
  this table, yours  moa-dspy eval DATA.jsonl --config moa.yaml"""


def demo(
    plot: options.Plot = None,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    """See what a mixture does: models alone, the vote and four strategies compared.

    The models are simulated: no key, no network, no cost, and the same answers every time. The numbers show how
    mixing works and say nothing about real models.

    [bold]--json[/bold] prints what moa-dspy eval prints.

    [bold]Next[/bold]: your own question with [bold]moa-dspy ask[/bold], your own models with [bold]moa-dspy
    init[/bold], your own data with [bold]moa-dspy eval[/bold].

    Exit status: 0 done, 130 interrupted.
    """
    from moa_dspy.evaluation import check_plot, evaluate
    from moa_dspy.moa import MoA
    from moa_dspy.simulated.questions import bundled_questions

    if plot is not None:
        check_plot(plot)
    moa, questions = MoA(options.DEFAULT_TASK, options.PANEL, options.JUDGE), bundled_questions()
    with tracking(mlflow, moa, "demo", questions) as tracked:
        # One question at a time: simulated models do not wait, so threads would only lengthen the times.
        comparison, status = compare(
            "simulating", lambda update: evaluate(moa, questions, concurrency=1, on_progress=update)
        )
        if tracked is not None:
            tracked.log_comparison(comparison)
    save_plot(comparison, plot)
    if as_json:
        print_json(comparison.to_dict())
    else:
        here = console()
        here.print("120 bundled questions of six kinds: no key, no network, no cost.")
        show_comparison(here, comparison)
        here.print("\nWhy mixing helps: each model is good at other questions. Here by kind:\n")
        here.print(comparison.split_table("kind"))
        here.print(_NEXT, markup=False, soft_wrap=True)
    raise typer.Exit(status)


def presets(as_json: options.Json = False) -> None:
    """List the ready-made mixtures, for --preset NAME: what they are, their models and LM calls per answer.

    [bold]--json[/bold] prints a list of name, about, calls and config.

    [bold]Next[/bold]: moa-dspy ask "Why is the sky blue?" --preset balanced
    """
    from moa_dspy.config import PRESETS

    if as_json:
        told = [(name, one.about, one.calls, one.config.model_dump()) for name, one in PRESETS.items()]
        print_json([dict(zip(("name", "about", "calls", "config"), each, strict=True)) for each in told])
    else:
        rows = [(name, str(preset.calls), preset.about) for name, preset in PRESETS.items()]
        console().print(table(["preset", "calls", "what it is"], rows))


def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="sample.")],
) -> None:
    """Print data to try the other commands with.

    sample: 120 questions of six kinds with gold answers and their kind, as JSONL.

    [bold]Examples[/bold]
    moa-dspy data sample > questions.jsonl
    moa-dspy eval questions.jsonl --by kind
    """
    from moa_dspy.simulated.questions import bundled_questions

    if name != "sample":
        raise ValueError(f"There are no data {name!r}. Give: sample.")
    here = console()
    for question in bundled_questions():
        here.out(json.dumps(dict(question.items())))


def init(
    models: options.Models,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Where to write it.")] = Path("moa.yaml"),
    provider: Annotated[list[str] | None, typer.Option(metavar="NAME", help=f"{_PROVIDERS}; several.")] = None,
    force: options.Force = False,
) -> None:
    r"""Write a commented moa.yaml, the mixture for --config.

    Without a model or a preset it takes one small model of each provider that you name, or choose on a terminal, or
    whose key is in the environment; without any, simulated models.

    [bold]Examples[/bold]
    moa-dspy init
    moa-dspy init --provider openai --provider ollama
    moa-dspy init --preset balanced --out balanced.yaml
    moa-dspy init -p openai/gpt-5.4-mini -p anthropic/claude-haiku-4-5 \
        -a anthropic/claude-sonnet-5-5 --strategy selection

    [bold]Next[/bold]: moa-dspy doctor --config moa.yaml, then moa-dspy ask "Why is the sky blue?" -c moa.yaml

    Exit status: 0 written, 2 bad input.
    """
    from moa_dspy.config import MoAConfig

    if out.exists() and not force:
        raise ValueError(f"{out} exists already. Give another --out, or --force to overwrite it.")
    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"{out} is no .yaml file, and only those hold comments.")
    if models.preset is not None:
        config = MoAConfig.preset(cast(Any, models.preset))
    else:
        panel = models.proposer or [_SMALL_MODELS[name][1] for name in _ask_for_providers(provider)]
        config = MoAConfig(
            proposer_models=[*(panel or options.PANEL)], aggregator_model=panel[0] if panel else options.JUDGE
        )
    config = config.model_copy(update=models.named())
    lines = [_HEAD]
    for line in config.to_yaml().splitlines():
        comment = _COMMENTS.get(line.partition(":")[0])
        lines += [line] if comment is None else ["", f"# {comment}", line]
    out.write_text("\n".join([*lines, ""]), encoding="utf-8")
    is_simulated = all(str(model).startswith("simulated/") for model in config.proposer_models)
    whose = " Its models are simulated, as no provider was named and no key found." if is_simulated else ""
    note(f"{out} is written.{whose} Next: moa-dspy doctor --config {out}")


def _ask_for_providers(given: list[str] | None) -> list[str]:
    """The providers that were named, else chosen on a terminal, else those whose key is in the environment."""
    held = [name for name, (variable, _) in _SMALL_MODELS.items() if os.environ.get(variable)]
    if given is None and sys.stdin.isatty():
        for name, (variable, model) in _SMALL_MODELS.items():
            note(f"{name:10} {model:30} {variable} is {'set' if name in held else 'not set'}", style="")
        chosen = typer.prompt("Which of them (none: simulated models)", default=" ".join(held) or "none", err=True)
        given = [name for name in chosen.replace(",", " ").split() if name != "none"]
    for name in given or ():
        if name not in _SMALL_MODELS:
            raise ValueError(
                f"There is no provider {name!r} here. Give {', '.join(_SMALL_MODELS)}, or --proposer MODEL."
            )
    return held if given is None else given
