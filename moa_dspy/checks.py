"""What a mixture refuses: a call before anything is paid for, a verdict before it becomes an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.adapters.utils import annotation_allows_none

from moa_dspy.strategies import Verdict

__all__ = ["checked_inputs", "refuse_below_one", "unfit"]

logger = logging.getLogger(__name__)


def refuse_below_one(**numbers: int) -> None:
    """Refuse numbers that leave nobody to ask.

    Raises:
        ValueError: Naming the first that is no whole number from 1.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r} leaves nobody to ask. Give a whole number from 1.")


def checked_inputs(task: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The task's inputs; others, as a dataset may have them, are left out with a warning.

    Raises:
        ValueError: If inputs are missing, or settings are given that would have no effect.
    """
    fields = task.input_fields
    missing = [
        name
        for name, field in fields.items()
        if name not in inputs and field.is_required() and not annotation_allows_none(field.annotation)
    ]
    if missing:
        raise ValueError(
            f"The input {', '.join(missing)} is missing, so the proposers would answer another question. "
            f"Given: {', '.join(inputs) or 'none'}; the task's inputs: {', '.join(fields)}."
        )
    ours = [name for name in ("config", "demos", "lm", "signature") if name in inputs and name not in fields]
    if ours:
        raise ValueError(
            f"`{ours[0]}` cannot be given per call: every agent has its own. Set it on an Agent, or under "
            "dspy.context(...)."
        )
    unknown = [name for name in inputs if name not in fields]
    if unknown:
        logger.warning("%s: no inputs of the task, left out. Its inputs: %s.", ", ".join(unknown), ", ".join(fields))
    return {name: value for name, value in inputs.items() if name in fields}


def unfit(verdict: Any, task: type[dspy.Signature]) -> TypeError | None:
    """What is wrong with what a strategy decided."""
    if not isinstance(verdict, Verdict):
        return TypeError(f"The strategy decided on {verdict!r:.200}, which is no Verdict.")
    lacking = [name for name in task.output_fields if name not in verdict.outputs]
    return (
        TypeError(f"The strategy's verdict lacks {', '.join(lacking)}, which the task asks for.") if lacking else None
    )
