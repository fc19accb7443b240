"""A mixture in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dspy

from moa_dspy.config import MoAConfig, as_config
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata, MoAPrediction

__all__ = ["arun_moa", "run_moa"]


def run_moa(
    query: str, system_prompt: str, config: MoAConfig | str | Path, router: Any = None
) -> tuple[MoAPrediction, MoAMetadata]:
    """Ask a mixture one question.

    For more than one question build the mixture once: `MoA.from_config`.

    Args:
        query: The question.
        system_prompt: What all models are told: the instructions of `query -> answer`. Empty for DSPy's own, for
            those of the config's `signature`, and for a compiled mixture, which has its prompts.
        config: The mixture, a preset's name, or the path of a file: a config, or what `MoA.save` wrote.
        router: A `litellm.Router` for models named `router/GROUP`, instead of the config's own.

    Returns:
        The solution, whose `answer` is a text unless the config's `signature` says otherwise, and the account.

    Raises:
        ValueError: If the config does not make a mixture that takes one input, or a key is missing.
        MoAError: If no answer came of it; see `moa_dspy.errors`.

    Examples:
        >>> config = MoAConfig(proposer_models=["simulated/alice", "simulated/bob"], aggregator_model="simulated/judge")
        >>> solution, metadata = run_moa("What is the capital of Turkey?", "Name the city only.", config)
        >>> solution.answer, metadata.num_proposers, len(metadata.all_proposals)
        ('Ankara', 2, 2)
    """
    moa, name = _moa(system_prompt, config, router)
    solution: Any = moa(**{name: query})
    return solution, solution.metadata


async def arun_moa(
    query: str, system_prompt: str, config: MoAConfig | str | Path, router: Any = None
) -> tuple[MoAPrediction, MoAMetadata]:
    """Ask a mixture one question, on the running event loop; see `run_moa`."""
    moa, name = _moa(system_prompt, config, router)
    solution: Any = await moa.acall(**{name: query})
    return solution, solution.metadata


def _moa(system_prompt: str, config: MoAConfig | str | Path, router: Any) -> tuple[MoA, str]:
    """The mixture, and the name of its one input."""
    told, described = system_prompt.strip() or None, as_config(config)
    if described.signature is None:
        return MoA.from_config(dspy.make_signature("query -> answer", told), described, router), "query"
    if told is not None:
        raise ValueError(
            "The config has a signature, with instructions of its own, so that the system prompt would be ignored. "
            "Write it there and pass an empty one."
        )
    moa = MoA.from_config(None, config, router)
    if len(names := list(moa.signature.input_fields)) != 1:
        raise ValueError(f"The mixture takes {', '.join(names)}, and a query is one input. Use MoA.from_config.")
    return moa, names[0]
