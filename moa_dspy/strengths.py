"""Starting prompts for specialized proposers, by model family; an optimizer tunes them from here."""

from __future__ import annotations

import re

__all__ = ["starting_instructions"]

_BY_FAMILY = {
    r"\bo[134]\b|gpt-5|-r1\b|reasoner|thinking|qwq|magistral": (
        "Reason the task through from first principles, then check the result by a second route before you answer."
    ),
    r"coder|code|codestral|devstral": (
        "Treat the task as a procedure: trace it exactly, one operation at a time, and report what it yields."
    ),
    r"claude": "Read the inputs closely, notice what they do not say, and answer exactly what is asked.",
    r"gemini": "Recall what is known about the subject, take in all of the inputs, and answer from both.",
    r"deepseek|qwen|phi|grok": "Work the task out step by step, and verify every number and every claim on the way.",
    r"gpt|llama|mistral|mixtral|gemma|command|nova": (
        "Plan the answer in a few steps, carry them out one by one, and keep strictly to the requested form."
    ),
}


def starting_instructions(model: str | None) -> str | None:
    """What a model of this family is told first; None for a family without an entry.

    Starting points by common experience, not measured: compile the mixture to replace them.
    """
    for family, instructions in _BY_FAMILY.items():
        if re.search(family, model or "", re.IGNORECASE):
            return instructions
    return None
