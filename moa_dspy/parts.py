"""The parts of a module, found fast enough for every call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dspy

__all__ = ["parts"]

# What a module holds beside its parts; the history alone can be thousands of entries long.
_NO_PARTS = frozenset({"history", "callbacks", "demos", "traces", "train"})


def parts(module: Any, *kinds: type, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The parts of these kinds, each once, with its path; what lies inside a part that is found is left out.

    Args:
        module: Where to look: a module, and lists, tuples and dicts in it, as `named_parameters()` does.
        *kinds: Which classes to look for.
        path: The module's own path.
        seen: Ids of what was looked into already.
    """
    seen = set() if seen is None else seen
    if id(module) in seen:
        return
    seen.add(id(module))
    if isinstance(module, kinds):
        yield path, module
        return
    for name, item in _items(module):
        if isinstance(item, _HOLDERS):
            yield from parts(item, *kinds, path=f"{path}.{name}", seen=seen)


_HOLDERS = (dspy.Module, list, tuple, dict)


def _items(holder: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(holder, dspy.Module):
        return ((name, item) for name, item in vars(holder).items() if name not in _NO_PARTS)
    return iter(holder.items()) if isinstance(holder, dict) else iter(enumerate(holder))
