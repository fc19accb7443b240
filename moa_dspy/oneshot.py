"""A mixture in one call."""

from __future__ import annotations

from typing import Any

import dspy

from moa_dspy.config import MoAConfig
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata, MoAPrediction

__all__ = ["arun_moa", "run_moa"]


def run_moa(
    query: str, system_prompt: str, config: MoAConfig | str, router: Any = None
) -> tuple[MoAPrediction, MoAMetadata]:
    """Ask a mixture one question.

    For more than one question, or an answer that is no text, build the mixture once: `MoA.from_config`.

    Args:
        query: The question.
        system_prompt: What all models are told: the instructions of `query -> answer`. Empty for DSPy's own.
        config: The mixture, or a preset's name.
        router: A `litellm.Router` or a `RouterConfig` for models named `router/GROUP`, instead of the config's own.

    Returns:
        The solution, whose `answer` is a text, and the account of the call.

    Raises:
        ValueError: If the config does not make a mixture, or a key is missing.
        MoAError: If no answer came of it; see `moa_dspy.errors`.

    Example:
        >>> config = MoAConfig(proposer_models=["simulated/alice", "simulated/bob"], aggregator_model="simulated/judge")
        >>> solution, metadata = run_moa("What is the capital of Turkey?", "Name the city only.", config)
        >>> solution.answer, metadata.num_proposers, len(metadata.all_proposals)
        ('Ankara', 2, 2)
    """
    solution: Any = _moa(system_prompt, config, router)(query=query)
    return solution, solution.metadata


async def arun_moa(
    query: str, system_prompt: str, config: MoAConfig | str, router: Any = None
) -> tuple[MoAPrediction, MoAMetadata]:
    """Ask a mixture one question, on the running event loop; see `run_moa`."""
    solution: Any = await _moa(system_prompt, config, router).acall(query=query)
    return solution, solution.metadata


def _moa(system_prompt: str, config: MoAConfig | str, router: Any) -> MoA:
    if isinstance(config, str):
        config = MoAConfig.preset(config)
    signature = dspy.make_signature("query -> answer", system_prompt.strip() or None)
    return MoA.from_config(signature, config, router)
