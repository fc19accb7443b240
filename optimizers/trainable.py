"""Who can be fine-tuned, and whether there is anything to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from moa_dspy.agent import Agent

__all__ = ["check_trainable", "refuse_nothing"]


def check_trainable(name: str, agent: Agent) -> None:
    """Refuse an agent whose LM cannot be trained.

    Raises:
        ValueError: Saying why.
    """
    lm: Any = agent.lm
    if lm is None:
        raise ValueError(
            f"Agent {name!r} has no LM of its own to train: its program brings its LMs, or DSPy's ambient one answers. "
            "Leave it out with agents=[...]."
        )
    provider = getattr(lm, "provider", None)
    if not getattr(provider, "finetunable", False):
        raise ValueError(
            f"The model {lm.model!r} of agent {name!r} cannot be trained: its provider ({type(provider).__name__}) "
            "does not fine-tune. Give dspy.LM(..., provider=...) one that does, or leave the agent out: agents=[...]."
        )


def refuse_nothing(prompts: Mapping[str, Sequence[Any]], examples: int, failures: Mapping[str, Sequence[str]]) -> None:
    """Refuse to train agents on nothing.

    Raises:
        ValueError: Naming them, and what each of all agents would have been trained on.
    """
    empty = [name for name, data in prompts.items() if not data]
    if empty:
        failed = "".join(f" {n} failed {len(failures[n])} times: {failures[n][-1]}." for n in empty if failures.get(n))
        counts = ", ".join(f"{name} {len(data)}" for name, data in prompts.items())
        raise ValueError(
            f"There is nothing to train {', '.join(empty)} on: of {examples} examples, so many answers are "
            f"good enough: {counts}.{failed} No job was started. Give more examples, a teacher, or agents=[...] "
            "without them."
        )
