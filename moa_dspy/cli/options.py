"""From the command line's options to a mixture."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import dspy

    from moa_dspy.moa import MoA

__all__ = [
    "SIMULATED",
    "SIMULATED_NOTE",
    "Aggregator",
    "Config",
    "Preset",
    "Proposers",
    "Signature",
    "Strategy",
    "is_simulated",
    "mixture",
]

_WHO = "Who answers"
Config = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="A mixture in YAML or JSON.", rich_help_panel=_WHO)
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A ready-made mixture: balanced, max_quality, budget, together_moa, moa_lite or self_moa.",
        rich_help_panel=_WHO,
    ),
]
Proposers = Annotated[
    list[str] | None,
    typer.Option(
        "--proposer", "-p", metavar="MODEL", help="A model that proposes; give it several times.", rich_help_panel=_WHO
    ),
]
Aggregator = Annotated[
    str | None,
    typer.Option(
        "--aggregator", "-a", metavar="MODEL", help="The model that makes one answer of them.", rich_help_panel=_WHO
    ),
]
Strategy = Annotated[
    str | None,
    typer.Option(
        "--strategy", "-s", metavar="NAME", help="synthesis, selection, voting or fusion.", rich_help_panel=_WHO
    ),
]
Signature = Annotated[
    str,
    typer.Option(
        metavar="SIGNATURE",
        help="The task: 'question -> answer: float', or module:Class importable from here.",
    ),
]

SIMULATED = "simulated/"
SIMULATED_NOTE = (
    "Simulated models answer: no key, no network, no cost, and no knowledge beyond a few kinds of questions. "
    "Name real ones with --proposer and --aggregator, --preset or --config."
)
_PANEL = [SIMULATED + name for name in ("alice", "bob", "carol", "dave")]
_JUDGE = SIMULATED + "judge"


def mixture(
    signature: str,
    config: Path | None,
    preset: str | None,
    proposers: list[str] | None,
    aggregator: str | None,
    strategy: str | None,
) -> MoA:
    """The mixture that the options describe; the simulated panel if they name no model.

    `--proposer`, `--aggregator` and `--strategy` replace what the config or the preset says.

    Raises:
        ValueError: If they describe none.
        OSError: If a file cannot be read.
    """
    from moa_dspy.config import MoAConfig
    from moa_dspy.moa import MoA

    if config is not None and preset is not None:
        raise ValueError("--config and --preset both say who answers. Give one of them.")
    parts = {"proposer_models": proposers, "aggregator_model": aggregator, "aggregation_strategy": strategy}
    given: dict[str, Any] = {name: value for name, value in parts.items() if value}
    if config is not None:
        described = MoAConfig.load(config).model_copy(update=given)
    elif preset is not None:
        described = MoAConfig.preset(preset).model_copy(update=given)
    elif proposers:
        described = MoAConfig(**given)
    elif aggregator:
        raise ValueError("--aggregator alone has nothing to judge: no proposers. Give --proposer MODEL, several times.")
    else:
        described = MoAConfig(**{"proposer_models": _PANEL, "aggregator_model": _JUDGE, **given})
    chosen = described.aggregation_strategy
    name = chosen if isinstance(chosen, str) else chosen["name"]
    if described.aggregator_model is None and name != "voting":
        raise ValueError(
            f"The strategy {name} needs a model that judges, and there is none: give --aggregator MODEL. "
            "Only --strategy voting does without."
        )
    return MoA.from_config(_signature(signature), described)


def is_simulated(config: Path | None, preset: str | None, proposers: list[str] | None) -> bool:
    """Whether the simulated panel answers, because nobody else was named."""
    return config is None and preset is None and not proposers


def _signature(text: str) -> type[dspy.Signature]:
    import dspy

    from moa_dspy.signatures import task_signature

    if "->" in text:
        try:
            return task_signature(text)
        except Exception as error:  # DSPy reads it with Python's own parser, whose errors are many
            said = str(error)
            raise ValueError(
                said if repr(text) in said else f"The signature {text!r} cannot be read: {said}."
            ) from error
    module, _, name = text.partition(":")
    if not name:
        raise ValueError(
            f"{text!r} is no signature. Write the task as 'question -> answer', or name a class as module:Class."
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"The signature {text} could not be imported ({error}). Start the command in the directory that holds "
            f"{module.partition('.')[0]}, and check the class's name."
        ) from error
    if not (isinstance(found, type) and issubclass(found, dspy.Signature)):
        raise ValueError(f"{text} is no dspy.Signature, but {found!r:.80}.")
    return found
