"""The options that commands share, and the mixture and the questions that they describe."""

from __future__ import annotations

import os
import pkgutil
import random
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from moa_dspy.cli.output import console, harmless, note, print_json, set_verbosity

if TYPE_CHECKING:
    import dspy

    from moa_dspy.moa import MoA
    from moa_dspy.recording import Estimate

__all__ = [
    "DEFAULT_TASK",
    "JUDGE",
    "PANEL",
    "Aggregator",
    "Concurrency",
    "Config",
    "DryRun",
    "Force",
    "Json",
    "Limit",
    "MaxCalls",
    "MaxCost",
    "Metric",
    "Mlflow",
    "Plot",
    "Preset",
    "Proposers",
    "Seed",
    "Signature",
    "Strategies",
    "Strategy",
    "Timeout",
    "Verbose",
    "draw",
    "limit",
    "mixture",
    "read_examples",
    "tell_estimate",
]

T = TypeVar("T")
STRATEGIES = ["synthesis", "selection", "voting", "fusion"]
_who = partial(typer.Option, rich_help_panel="Who answers")
_name = partial(typer.Option, "--strategy", "-s", metavar="NAME", autocompletion=lambda: STRATEGIES)
_verbose = partial(typer.Option, callback=set_verbosity, expose_value=False, is_eager=True, show_default=False)

Config = Annotated[
    Path | None, _who("--config", "-c", metavar="FILE", help="A mixture in YAML or JSON, or a compiled one.")
]
Preset = Annotated[
    str | None,
    _who(metavar="NAME", help="Ready-made: balanced, max_quality, budget, together_moa, moa_lite or self_moa."),
]
Proposers = Annotated[
    list[str] | None, _who("--proposer", "-p", metavar="MODEL", help="A model that proposes; give it several times.")
]
Aggregator = Annotated[
    str | None, _who("--aggregator", "-a", metavar="MODEL", help="The model that makes one answer of them.")
]
Strategy = Annotated[str | None, _name(help="synthesis, selection, voting or fusion.", rich_help_panel="Who answers")]
Strategies = Annotated[list[str] | None, _name(help="synthesis, selection, voting, fusion; several times, else all.")]
Signature = Annotated[
    str | None,
    typer.Option(
        metavar="SIGNATURE",
        help="The task: 'question -> answer: float', or module:Class importable from here. By default the config's "
        "own, else 'question -> answer'.",
    ),
]
Metric = Annotated[str, typer.Option("--metric", "-m", help="exact, contains, or module:function.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Use a sample of so many rows, drawn by --seed.")]
Concurrency = Annotated[int, typer.Option(min=1, help="Questions under way at once; each asks all proposers at once.")]
Seed = Annotated[int, typer.Option(min=0, help="Of all that is drawn.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Plot quality against cost: .html, .svg, .png, .pdf.")]
MaxCost = Annotated[
    float | None, typer.Option("--max-cost-usd", min=0.0, metavar="USD", help="Stop before it costs more.")
]
Timeout = Annotated[
    float | None, typer.Option(min=0.001, metavar="SECONDS", help="What one answer may take; by default the config's.")
]
MaxCalls = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop before it makes more LM calls.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it may cost, and spend nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]
Mlflow = Annotated[
    bool,
    typer.Option("--mlflow", help="Track it with MLflow: in mlflow.db here, or where MLFLOW_TRACKING_URI says."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else, on stdout.")]
Verbose = Annotated[
    bool | None, _verbose("--verbose/--quiet", "-v/-q", help="On stderr: what DSPy says too, or errors alone.")
]

DEFAULT_TASK = "question -> answer"
_SIMULATED_NOTE = (
    "Simulated models answer: no key, no network, no cost, and no knowledge beyond a few kinds of questions. "
    "Name real ones with --proposer and --aggregator, --preset or --config."
)
PANEL, JUDGE = [f"simulated/{name}" for name in ("alice", "bob", "carol", "dave")], "simulated/judge"


def mixture(
    signature: str | None = None,
    config: Path | None = None,
    preset: str | None = None,
    proposers: list[str] | None = None,
    aggregator: str | None = None,
    strategy: str | list[str] | None = None,
    *,
    default: str = DEFAULT_TASK,
) -> MoA:
    """The mixture that the options describe; the simulated panel if they name no model.

    `--proposer`, `--aggregator` and `--strategy` replace what the config or the preset says. Where several strategies
    are compared, only a vote alone says something of the mixture: it needs no aggregator. `default` is the task where
    neither the options nor the config name one.

    Raises:
        ValueError: If they describe none.
        OSError: If a file cannot be read.
    """
    from moa_dspy.config import MoAConfig
    from moa_dspy.moa import MoA

    if config is not None and preset is not None:
        raise ValueError("--config and --preset both say who answers. Give one of them.")
    if isinstance(strategy, list):
        strategy = "voting" if strategy == ["voting"] and not _is_compiled(config) else None
    options = {"proposer_models": proposers, "aggregator_model": aggregator, "aggregation_strategy": strategy}
    given: dict[str, Any] = {name: value for name, value in options.items() if value}
    if given and _is_compiled(config):
        raise ValueError(
            f"{config} is a compiled mixture: its prompts were tuned for its models and its strategy. Leave out "
            "--proposer, --aggregator and --strategy, or give the config that it was compiled from."
        )
    is_simulated = config is None and preset is None and not proposers
    if is_simulated and aggregator:
        raise ValueError("--aggregator alone has nothing to judge: no proposers. Give --proposer MODEL, several times.")
    if config is not None:
        described = MoAConfig.load(config)
    elif preset is not None:
        described = MoAConfig.preset(cast(Any, preset))
    else:
        described = MoAConfig(
            **{**({"proposer_models": PANEL, "aggregator_model": JUDGE} if is_simulated else {}), **given}
        )
    described = described.model_copy(update=given)
    chosen = described.aggregation_strategy
    name = chosen if isinstance(chosen, str) else chosen["name"]
    if described.aggregator_model is None and name != "voting":
        raise ValueError(
            f"The strategy {name} needs a model that judges, and there is none: give --aggregator MODEL. "
            "Only --strategy voting does without."
        )
    task = None if signature is None and described.signature is not None else _read_signature(signature or default)
    moa = MoA.from_config(task, config if config is not None and not given else described)
    if is_simulated:
        note(_SIMULATED_NOTE)
    return moa


def limit(moa: MoA, **limits: float | None) -> None:
    """Give the mixture these limits of one answer, where they are not None.

    Raises:
        ValueError: If they make no sense beside the config's.
    """
    from moa_dspy.limits import Limits

    given = {name: value for name, value in limits.items() if value is not None}
    if not given:
        return
    moa.limits = Limits.of({**moa.limits.model_dump(), **given})
    for panel in moa.panels:
        panel.limits = moa.limits


def read_examples(path: Path, moa: MoA, metric: str, limit: int | None, seed: int) -> list[dspy.Example]:
    """The questions of a file with their gold outputs, or a sample of them in the file's order.

    Raises:
        ValueError: If rows are malformed, or lack what the metric compares with; the message names them.
        OSError: If the file cannot be read.
    """
    from moa_dspy.evaluation import METRICS
    from moa_dspy.recording import read_questions

    questions = read_questions(path, moa.signature)
    if metric.partition(":")[0] in METRICS:
        wanted = list(questions[0].gold) or list(moa.signature.output_fields)
        for number, question in enumerate(questions, start=1):
            if missing := [name for name in wanted if name not in question.gold]:
                raise ValueError(
                    f"Row {number} of {path} has no gold value for {', '.join(missing)}, so nothing could be right or "
                    "wrong. Add it, or give a metric of your own: --metric module:function."
                )
    return draw([question.example for question in questions], limit, seed)


def tell_estimate(estimate: Estimate, as_json: bool) -> None:
    """What `--dry-run` prints."""
    if as_json:
        print_json(asdict(estimate))
    else:
        console().print(harmless(estimate), soft_wrap=True)


def draw(rows: list[T], limit: int | None, seed: int) -> list[T]:
    """The rows, or a sample of so many in their order."""
    if limit is None or limit >= len(rows):
        return rows
    return [rows[index] for index in sorted(random.Random(seed).sample(range(len(rows)), limit))]


def _is_compiled(config: Path | None) -> bool:
    """Whether a file holds prompts beside the mixture's settings."""
    from moa_dspy.config import SAVED
    from moa_dspy.files import read_data

    return config is not None and config.suffix == ".json" and SAVED in read_data(config)


def _read_signature(text: str) -> type[dspy.Signature]:
    from moa_dspy.signatures import task_signature

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return task_signature(text if "->" in text else pkgutil.resolve_name(text))
    except Exception as error:  # DSPy reads it with Python's own parser, whose errors are many
        raise ValueError(
            f"The signature {text!r} cannot be read: {error}. Write the task as 'question -> answer: float', or name a "
            "class that can be imported from here as module:Class."
        ) from error
