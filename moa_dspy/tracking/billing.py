"""What an LM call has cost so far, by its call id, inside of mixtures and outside."""

from __future__ import annotations

from typing import Any

import dspy

from moa_dspy.usage import LMCall, Meter, call_of

__all__ = ["billed"]


def billed(call_id: str, lm: Any, outputs: Any) -> LMCall | None:
    """The row of the call; None if nothing is known of it.

    Inside a mixture the agent's meter knows. Elsewhere the LM's history does: DSPy hands the list that it wrote
    there on to the callbacks, so that the call's own entry is found by identity, whoever else asks meanwhile.
    """
    for caller in reversed(dspy.settings.caller_modules or []):
        if isinstance(caller, Meter) and (row := caller.call(call_id)) is not None:
            return row
    history = list(getattr(lm, "history", ()))[-_RECENT:]
    entry = next((entry for entry in reversed(history) if outputs is not None and entry["outputs"] is outputs), None)
    return None if entry is None else call_of(entry, "program")


_RECENT = 1000
