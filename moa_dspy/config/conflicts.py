"""Settings of a mixture that do not go together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from moa_dspy.config.entry import ModelConfig, entry
from moa_dspy.proposers import AGGREGATOR
from moa_dspy.secrets import KeyPath

if TYPE_CHECKING:
    from moa_dspy.config import MoAConfig

__all__ = ["conflicts"]


def conflicts(config: MoAConfig) -> Iterator[tuple[KeyPath, str]]:
    """What could not work, and where it stands; found before a model is made."""
    yield from _of_proposers(config)
    yield from _of_the_aggregator(config)


def _of_proposers(config: MoAConfig) -> Iterator[tuple[KeyPath, str]]:
    """What the proposers and the settings of the mixture have against each other."""
    names: set[str] = set()
    for index, proposer in enumerate(map(entry, config.proposer_models)):
        path = ("proposer_models", index)
        if proposer.name in {*names, AGGREGATOR}:
            taken = "the aggregator's" if proposer.name == AGGREGATOR else "another proposer's"
            yield (*path, "name"), f"{proposer.name!r} is {taken} name: their cost could not be told apart."
        names.update([proposer.name] if proposer.name else [])
        if proposer.instructions and not config.use_specialized_prompts:
            yield (
                (*path, "instructions"),
                "all proposers share one prompt: these have no effect. Set use_specialized_prompts: true or drop them.",
            )
        if proposer.temperature == 0 and config.num_proposals_per_model > 1:
            yield (
                (*path, "temperature"),
                f"at temperature 0 the {config.num_proposals_per_model} samples would be one answer paid for several "
                "times. Give a temperature above 0, or num_proposals_per_model: 1.",
            )
    asked = len(config.proposer_models) * config.num_proposals_per_model
    if config.limits.min_proposals > asked:
        text = f"only {asked} proposals are asked for, so every call would fail. Give {asked} or less."
        yield ("limits", "min_proposals"), text


def _of_the_aggregator(config: MoAConfig) -> Iterator[tuple[KeyPath, str]]:
    """The settings of a proposer that an aggregator has no use for."""
    judge = config.aggregator_model
    for name in ("name", "instructions"):
        if isinstance(judge, ModelConfig) and getattr(judge, name) is not None:
            yield (
                ("aggregator_model", name),
                f"the aggregator is called {AGGREGATOR!r}, its prompt is the strategy's: this has no effect. Drop it.",
            )
