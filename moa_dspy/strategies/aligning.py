"""Lists laid side by side: which items of different lists are the same thing, and in which order they come."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict, deque
from collections.abc import Hashable, Iterator, Mapping, Sequence
from itertools import combinations, count
from typing import Any, Final

from moa_dspy.strategies.equality import ABSTAIN, cluster, normalise, same

__all__ = ["align"]

Row = dict[tuple[Any, ...], Hashable]
"""What an item says: the path of each part -> its form. An item without parts is a row of one, without a path."""
Thing = dict[str, int]
"""The id of each list that holds the thing -> its place there."""

_MISREAD: Final = 0.7  # of two texts in common, as difflib's ratio, if one may be a misreading of the other
_RIVALS: Final = 8  # rows of each list with which a row is compared: made up ones could be a little like all others
_COLUMNS: Final = 64  # among which the own numbers of a list are looked for


def align(lists: Mapping[str, Sequence[Any]], kind: Any) -> list[dict[str, Any]]:
    """The items of several lists, those that are the same thing together, in the order that the lists share.

    Items are the same if they are equal as votes are. Rows (models, dicts) also if more than half of what both say
    agrees, whatever is called id, key, name or title; or half of it, if they stand beside the same neighbour and the
    rest looks like a misreading; and if neither is as much like another row of those lists. What a list numbers
    itself identifies nothing. An item that a list holds twice counts twice. Where the lists contradict each other's
    order, the order of more lists holds, then that of the first.
    """
    rows = {id: [dict(_said_by(normalise(item, kind))) for item in given] for id, given in lists.items()}
    _drop_own_numbers([given for given in rows.values() if given])
    things = _unite_misread(_equal_rows(rows), rows)
    return [{id: lists[id][thing[id]] for id in lists if id in thing} for thing in _in_shared_order(things, rows)]


def _said_by(form: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Hashable]]:
    if isinstance(form, tuple) and form[0] is dict:
        for name, part in form[2]:
            yield from _said_by(part, (*path, form[1], name))
    elif form is not ABSTAIN:
        yield path, form


def _drop_own_numbers(lists: Sequence[list[Row]]) -> None:
    """Take out the columns in which every list counts 0, 1, 2, ... or 1, 2, 3, ..., unless the rest bears them out."""
    if all(len(given) == 1 for given in lists) or any(len(row) < 2 for given in lists for row in given):
        return
    for column in list(lists[0][0])[:_COLUMNS]:
        if not all(_counts_up([row.get(column) for row in given]) for given in lists):
            continue
        numbers: dict[Hashable, dict[int, set[Hashable]]] = defaultdict(lambda: defaultdict(set))
        for number, given in enumerate(lists):
            for row in given:
                numbers[tuple(said for said in row.items() if said[0] != column)][number].add(row[column])
        # Rows that are equal but for the number may have the same one in all lists, as months have.
        shared = [list(by_list.values()) for by_list in numbers.values() if len(by_list) > 1]
        if not shared or any(found != alike[0] for alike in shared for found in alike):
            for row in [row for given in lists for row in given]:
                del row[column]


def _counts_up(column: Sequence[Hashable]) -> bool:
    texts = [str(form[1]) if isinstance(form, tuple) and form[0] is int else form for form in column]
    found = [re.fullmatch(r"\D*(\d{1,9})\D*", text) if isinstance(text, str) else None for text in texts]
    numbers = [int(match[1]) for match in found if match]
    return numbers in ([*range(len(column))], [*range(1, len(column) + 1)])


def _equal_rows(rows: Mapping[str, Sequence[Row]]) -> list[Thing]:
    """The things that equal rows are, in order of first appearance; a row that a list holds twice is two."""
    numbers = iter(cluster([tuple(row.items()) for given in rows.values() for row in given]))
    numbered = {id: [next(numbers) for _ in given] for id, given in rows.items()}
    longest = _occurrences(max(numbered.values(), key=len, default=[]))
    things: dict[tuple[int, int], Thing] = defaultdict(dict)
    for id, given in numbered.items():
        # In [2, 1] beside [1, 2, 1] the 1 is the second one.
        rest = iter(longest)
        embedded = [key for item in given if (key := next((one for one in rest if one[0] == item), None))]
        for place, key in enumerate(embedded if len(embedded) == len(given) else _occurrences(given)):
            things[key][id] = place
    return list(things.values())


def _occurrences(given: Sequence[int]) -> list[tuple[int, int]]:
    """Each item with the number of times that it stood there before."""
    seen: dict[int, Iterator[int]] = defaultdict(count)
    return [(item, next(seen[item])) for item in given]


def _unite_misread(things: Sequence[Thing], rows: Mapping[str, Sequence[Row]]) -> list[Thing]:
    """Unite the things that differ in what a minority misread, where no other row could be meant."""
    said = [next(rows[id][place] for id, place in thing.items()) for thing in things]
    # What stands before each thing and after it in the lists that hold it; None is an edge.
    beside: list[set[Any]] = [set() for _ in things]
    for order in _orders(things, rows).values():
        for before, number, after in zip([None, *order], order, [*order[1:], None], strict=False):
            beside[number] |= {(-1, before), (1, after)}
    likeness = _find_alike(said, len(rows))

    def is_clear(one: int, other: int) -> bool:
        rivals = [rival for rival, like in likeness[one].items() if rival != other and like >= likeness[one][other]]
        return not any(things[rival].keys() & things[other].keys() for rival in rivals)

    united = {number: {number} for number in range(len(things))}
    for one, others in likeness.items():
        for other, like in others.items():
            if one > other or like < 0.5 or things[one].keys() & things[other].keys():
                continue
            is_near = like > 0.5 or (beside[one] & beside[other] and _may_be_misread(said[one], said[other]))
            if is_near and is_clear(one, other) and is_clear(other, one):
                few, many = sorted((united[one], united[other]), key=len)
                many |= few
                united.update(dict.fromkeys(few, many))
    result = []
    for numbers in sorted(map(sorted, {id(group): group for group in united.values()}.values())):
        places = [place for number in numbers for place in things[number].items()]
        # A chain may lead back to another row of the same list.
        is_one = len(dict(places)) == len(places)
        result += [dict(places)] if is_one else [things[number] for number in numbers]
    return result


def _find_alike(said: Sequence[Row], number_of_lists: int) -> dict[int, dict[int, float]]:
    """For each row, those that say something telling that it says, and the share of what both say that agrees."""
    holders: dict[Any, list[int]] = defaultdict(list)
    for number, row in enumerate(said):
        for part in row.items():
            holders[part].append(number)
    alike: dict[int, dict[int, float]] = {number: {} for number in range(len(said))}
    for numbers in holders.values():
        # What more rows say than there are readings of one tells none of them, and comparing all with all of them
        # would take the square of their number.
        for one, other in combinations(numbers, 2) if len(numbers) <= 2 * number_of_lists else ():
            if other not in alike[one] and max(len(alike[one]), len(alike[other])) < _RIVALS * number_of_lists:
                a, b = said[one], said[other]
                shared = a.keys() & b.keys()
                alike[one][other] = alike[other][one] = sum(same(a[path], b[path]) for path in shared) / len(shared)
    return alike


def _may_be_misread(a: Row, b: Row) -> bool:
    """Whether what differs are other numbers, or nearly the same texts."""
    return all(same(a[path], b[path]) or _is_near(a[path], b[path]) for path in a.keys() & b.keys())


def _is_near(a: Hashable, b: Hashable) -> bool:
    if isinstance(a, str) and isinstance(b, str):
        return difflib.SequenceMatcher(None, a[:200], b[:200], autojunk=False).ratio() >= _MISREAD
    return isinstance(a, tuple) and isinstance(b, tuple) and (a[0] is b[0] or {a[0], b[0]} == {int, float})


def _orders(things: Sequence[Thing], rows: Mapping[str, Sequence[Row]]) -> dict[str, list[int]]:
    """For each list, the numbers of its things in its order."""
    orders = {id: [-1] * len(given) for id, given in rows.items()}
    for number, thing in enumerate(things):
        for id, place in thing.items():
            orders[id][place] = number
    return orders


def _in_shared_order(things: Sequence[Thing], rows: Mapping[str, Sequence[Row]]) -> list[Thing]:
    """The things one after the other: next is what stands first in every list that holds it, else in most of them."""
    left = {id: deque(order) for id, order in _orders(things, rows).items()}
    taken: dict[int, Thing] = {}
    while heads := Counter(order[0] for order in left.values() if order):
        ready = [number for number, first_in in heads.items() if first_in == len(things[number])]
        following = ready[0] if ready else max(heads, key=lambda number: 2 * heads[number] - len(things[number]))
        taken[following] = things[following]
        for order in left.values():
            while order and order[0] in taken:
                order.popleft()
    return list(taken.values())
