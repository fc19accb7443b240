"""Lists laid side by side: which items of different lists are the same thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import Any

from pydantic import BaseModel

from moa_dspy.canonical import ABSTAIN, approximate, canonical, equivalent
from moa_dspy.values import to_json

__all__ = ["lined_up"]

_IDENTITY = ("id", "key", "name", "title")


def lined_up(lists: Mapping[str, Iterable[Any]], kind: Any) -> list[dict[str, Any]]:
    """The items of several lists, those that are the same thing together, in order of first appearance.

    Items are the same if they are equal as votes are, or, for structures, if they share the field that
    tells the items of each list apart (`id`, `key`, `name` or `title`). An item that a list holds twice
    counts twice.

    Args:
        lists: Proposal id -> its list.
        kind: The declared type of the items.

    Returns:
        For each thing, proposal id -> its item.

    Example:
        >>> lined_up({"a": ["x", "y"], "b": ["Y"]}, str)
        [{'a': 'x'}, {'a': 'y', 'b': 'Y'}]
    """
    ordered = {id: _in_order(items) for id, items in lists.items()}
    identity = _identity(list(ordered.values()))
    is_rough = identity is None and approximate(kind)
    things: dict[tuple[Hashable, int], dict[str, Any]] = {}
    for id, items in ordered.items():
        seen: Counter[Hashable] = Counter()
        for item in items:
            form = canonical(_part(item, identity)) if identity else canonical([item], list[kind])
            if is_rough:
                form = next((known for known, _ in things if equivalent(known, form)), form)
            things.setdefault((form, seen[form]), {})[id] = item
            seen[form] += 1
    return list(things.values())


def _identity(lists: Sequence[Sequence[Any]]) -> str | None:
    """The field, if any, that all items have and that tells the items of each list apart."""
    if not all(isinstance(item, (Mapping, BaseModel)) for items in lists for item in items):
        return None
    for name in _IDENTITY:
        keys = [[canonical(_part(item, name)) for item in items] for items in lists]
        if all(ABSTAIN not in row and len(set(row)) == len(row) for row in keys):
            return name
    return None


def _part(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def _in_order(items: Iterable[Any]) -> list[Any]:
    # The order of a set of texts differs between processes.
    return sorted(items, key=to_json) if isinstance(items, Set) else list(items)
