"""Lists laid side by side: which items of different lists are the same thing, and in which order they come."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from moa_dspy.strategies.clustering import cluster
from moa_dspy.strategies.equality import normalise_part
from moa_dspy.strategies.rows import Thing, drop_own_numbers, form_of_row, leaves_of_row, unite_rows

__all__ = ["align"]


def align(lists: Mapping[str, Sequence[Any]], kind: Any) -> list[dict[str, Any]]:
    """The items of several lists, those that are the same thing together, in the order that the lists share.

    Items are the same if they are equal as votes are; rows (models, dicts) also if what they share says so, whatever
    is called id, key, name or title (see `unite_rows`). What a list numbers itself identifies nothing. An item that a
    list holds twice counts twice. Where the lists contradict each other's order, the order of more lists holds, then
    that of the first.

    Args:
        lists: Proposal id -> its list, in declared order.
        kind: The declared type of the items.

    Returns:
        For each thing, proposal id -> its item.

    Example:
        >>> align({"a": ["x", "z"], "b": ["X", "y", "z"]}, str)
        [{'a': 'x', 'b': 'X'}, {'b': 'y'}, {'a': 'z', 'b': 'z'}]
    """
    items = {id: list(given) for id, given in lists.items()}
    flat = [item for given in items.values() for item in given]
    rows = None
    if all(isinstance(item, (Mapping, BaseModel)) for item in flat):
        rows = {id: [leaves_of_row(item) for item in given] for id, given in items.items()}
        drop_own_numbers(rows)
        forms: dict[str, list[Hashable]] = {id: [form_of_row(row) for row in given] for id, given in rows.items()}
    else:
        forms = {id: [normalise_part(item, kind) for item in given] for id, given in items.items()}
    things = _equal_items(forms)
    if rows is not None:
        things = unite_rows(things, rows, _neighbours(things, rows))
    # A thing's items are in declared order, whatever it was united of.
    return [{id: items[id][places[id]] for id in items if id in places} for places in _in_shared_order(things, items)]


def _equal_items(forms: Mapping[str, Sequence[Hashable]]) -> list[Thing]:
    """The things that equal items are, in order of first appearance; an item that a list holds twice is two."""
    numbers = iter(cluster([form for given in forms.values() for form in given]))
    numbered = {id: [next(numbers) for _ in given] for id, given in forms.items()}
    longest = _occurrences(max(numbered.values(), key=len, default=[]))
    things: dict[tuple[int, int], Thing] = {}
    for id, given in numbered.items():
        # In [2, 1] beside [1, 2, 1] the 1 is the second one.
        rest = iter(longest)
        embedded = [next((key for key in rest if key[0] == item), None) for item in given]
        keys = _occurrences(given) if None in embedded else embedded
        for place, key in enumerate(keys):
            if key is not None:
                things.setdefault(key, {})[id] = place
    return list(things.values())


def _occurrences(given: Sequence[int]) -> list[tuple[int, int]]:
    """Each item with the number of times that it stood there before."""
    seen: Counter[int] = Counter()
    keys = []
    for item in given:
        keys.append((item, seen[item]))
        seen[item] += 1
    return keys


def _neighbours(things: Sequence[Thing], lists: Mapping[str, Sequence[Any]]) -> list[set[tuple[str, int]]]:
    """For each thing, what stands before it and after it in the lists that hold it; -1 is the edge of a list."""
    beside: list[set[tuple[str, int]]] = [set() for _ in things]
    for order in _orders(things, lists).values():
        for before, after in zip([-1, *order], [*order, -1], strict=True):
            if after >= 0:
                beside[after].add(("before", before))
            if before >= 0:
                beside[before].add(("after", after))
    return beside


def _orders(things: Sequence[Thing], lists: Mapping[str, Sequence[Any]]) -> dict[str, list[int]]:
    """For each list, the numbers of its things in its order."""
    orders = {id: [-1] * len(given) for id, given in lists.items()}
    for number, thing in enumerate(things):
        for id, place in thing.items():
            orders[id][place] = number
    return orders


def _in_shared_order(things: Sequence[Thing], lists: Mapping[str, Sequence[Any]]) -> list[Thing]:
    """The things one after the other: next is what stands first in every list that still holds it.

    Where there is none, the lists contradict each other, and what stands first in most is next. Ties go by the
    declared order of the lists.
    """
    left = {id: deque(order) for id, order in _orders(things, lists).items()}
    taken: dict[int, Thing] = {}
    while heads := Counter(order[0] for order in left.values() if order):
        ready = (number for number, first_in in heads.items() if first_in == len(things[number]))
        following = next(ready, None)
        if following is None:
            following = max(heads, key=lambda number: 2 * heads[number] - len(things[number]))
        taken[following] = things[following]
        for order in left.values():
            while order and order[0] in taken:
                order.popleft()
    return list(taken.values())
