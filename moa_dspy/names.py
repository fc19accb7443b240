"""Agents' names: readable, unlike any attribute that a panel has, and Python identifiers."""

from __future__ import annotations

import re

import dspy

__all__ = ["checked_name", "identifier", "name_of"]


def name_of(lm: dspy.BaseLM | None, program: dspy.Module | None) -> str:
    """`openai/gpt-5-mini` -> `gpt_5_mini`, `ReAct` -> `react`."""
    return identifier(type(program).__name__ if lm is None else lm.model.rsplit("/", 1)[-1])


def checked_name(name: str) -> str:
    """The name, unchanged.

    Raises:
        ValueError: If it cannot be an attribute of a mixture.
    """
    if not name.isidentifier() or _is_taken(name):
        raise ValueError(
            f"{name!r} cannot name an agent: names become attributes of the mixture. Use a Python identifier that "
            f"is no attribute of a DSPy module, for example {identifier(name)!r}."
        )
    return name


def identifier(label: str) -> str:
    """The label as a name that an attribute of a panel may have."""
    name = re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_").lower() or "agent"
    name = f"m_{name}" if name[0].isdigit() else name
    return f"{name}_agent" if _is_taken(name) else name


_A_MODULE = dspy.Module()
_OF_A_PANEL = {"aforward", "agents", "ask", "forward", "layer", "limits", "names", "samples", "shared", "task"}


def _is_taken(name: str) -> bool:
    return name.startswith("_") or hasattr(_A_MODULE, name) or name in _OF_A_PANEL
