"""Names that MLflow takes, without two becoming one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable

__all__ = ["metric_names", "prompt_names"]

_IN_METRICS = re.compile(r"[^\w.\- ]", re.ASCII)
_IN_PROMPTS = re.compile(r"[^A-Za-z0-9_.-]")
_LONGEST = 150  # MLflow takes 250 characters, and what is measured is appended


def metric_names(names: Iterable[str], taken: Collection[str] = ()) -> dict[str, str]:
    """Each name as it stands in metrics and parameters; a slash in it stays one.

    Args:
        names: Of agents or models.
        taken: What none may be called.

    Example:
        >>> metric_names(["openai/gpt-5", "a b:1", "a b_1"])
        {'openai/gpt-5': 'openai/gpt-5', 'a b:1': 'a b_1_2', 'a b_1': 'a b_1'}
    """
    return _apart(names, _valid_path, taken)


def prompt_names(names: Iterable[str]) -> dict[str, str]:
    """Each name as it stands in the Prompt Registry, and as a file's.

    Example:
        >>> prompt_names(["qa.proposers[0]", "qa.judge"])
        {'qa.proposers[0]': 'qa.proposers_0_', 'qa.judge': 'qa.judge'}
    """
    return _apart(names, lambda name: _IN_PROMPTS.sub("_", name), ())


def _valid_path(name: str) -> str:
    parts = (_IN_METRICS.sub("_", part).strip() for part in name.split("/"))
    return "/".join(part if part.strip(".") else "_" for part in parts)


def _apart(names: Iterable[str], valid: Callable[[str], str], taken: Collection[str]) -> dict[str, str]:
    wanted = {name: valid(name)[:_LONGEST] for name in names}
    used = {name.casefold() for name in taken}  # some databases do not tell a from A
    found: dict[str, str] = {}
    # Those that may stay as they are have the first choice.
    for name, base in sorted(wanted.items(), key=lambda pair: pair[0] != pair[1]):
        unique, number = base, 2
        while unique.casefold() in used:
            unique, number = f"{base}_{number}", number + 1
        used.add(unique.casefold())
        found[name] = unique
    return {name: found[name] for name in wanted}
