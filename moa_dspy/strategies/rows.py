"""Which rows of different lists are one: by what they say, whatever their fields are called."""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from pydantic import BaseModel

from moa_dspy.strategies.annotations import parts_of, types_of_parts
from moa_dspy.strategies.answers import explaining_parts
from moa_dspy.strategies.clustering import Chains
from moa_dspy.strategies.equality import ABSTAIN, normalise_part, same

__all__ = ["Row", "Thing", "drop_own_numbers", "form_of_row", "leaves_of_row", "unite_rows"]

Path = tuple[Any, ...]
Row = dict[Path, Hashable]
"""What a row says: path -> form."""
Thing = dict[str, int]
"""The id of each list that holds the thing -> its place there."""

_TYPE: Final[Path] = ("",)
_MOST_ALIKE: Final = 64
"""Rows with one value in common from which on that value is taken to tell nothing."""
_MISREAD: Final = 0.7
"""How much two texts have in common, as difflib's ratio, if one may be a misreading of the other."""


def unite_rows(things: Sequence[Thing], rows: Mapping[str, Sequence[Row]], beside: Sequence[set[Any]]) -> list[Thing]:
    """Unite the things that differ in what a minority misread.

    Two are one if most of what both say agrees, and no other row of their lists says the same, so that it tells them
    from the others; or half of it, if they stand beside the same neighbour and the rest looks like a misreading. The
    best matches are united first; a row that goes with two rows of one list equally well is united with neither.

    Args:
        things: Equal rows, as `align` found them.
        rows: List id -> its rows.
        beside: For each thing, its neighbours in the lists that hold it.
    """
    leaves = [rows[id][place] for thing in things for id, place in list(thing.items())[:1]]
    matching = _Matching(things, leaves)
    levels: dict[tuple[float, int, int], list[_Pair]] = defaultdict(list)
    for one, other in matching.candidates(beside, len(rows)):
        pair = _compared(one, other, leaves)
        if pair and (pair.share > 0.5 or (beside[one] & beside[other] and pair.is_misread(leaves))):
            levels[pair.share, len(pair.agreeing), len(things[one]) + len(things[other])].append(pair)
    for _, equally_good in sorted(levels.items(), reverse=True):
        matching.unite_where_clear(equally_good)
    return [
        {id: place for number in numbers for id, place in things[number].items()}
        for numbers in matching.chains.among(range(len(things)))
    ]


def leaves_of_row(row: Any) -> Row:
    """What a row says: path -> form, without what explains or grades the rest."""
    found: Row = {_TYPE: type(row).__qualname__} if isinstance(row, BaseModel) else {}
    parts, declared = parts_of(row) or {}, types_of_parts(type(row)) or {}
    beside = explaining_parts(row, parts)
    for name, part in parts.items():
        if name in beside:
            continue
        if isinstance(part, (Mapping, BaseModel)):
            found.update({(name, *path): form for path, form in leaves_of_row(part).items()})
        else:
            found[(name,)] = normalise_part(part, declared.get(name, Any))
    return found


def form_of_row(row: Row) -> Hashable:
    """The form in which whole rows are compared."""
    return tuple(sorted(row.items(), key=lambda leaf: repr(leaf[0])))


def drop_own_numbers(rows: Mapping[str, list[Row]]) -> None:
    """Take out the fields in which every list counts 0, 1, 2, ... or 1, 2, 3, ..., unless the rest bears them out.

    A count is borne out if rows that are equal without it have the same number in all lists, as months have.
    """
    every = [row for given in rows.values() for row in given]
    full = [given for given in rows.values() if given]
    if len(every) <= len(full):  # one row a list counts nothing
        return
    paths = dict.fromkeys(path for row in every for path in row if path != _TYPE)
    counted = {path for path in paths if all(_counts_up([row.get(path) for row in given]) for given in full)}
    if not counted or any(row.keys() <= counted | {_TYPE} for row in every):
        return
    said: dict[Hashable, dict[str, Row]] = defaultdict(dict)
    for id, given in rows.items():
        seen: Counter[Hashable] = Counter()
        for row in given:
            rest = form_of_row({path: form for path, form in row.items() if path not in counted})
            said[rest, seen[rest]][id] = row
            seen[rest] += 1
    shared = [list(alike.values()) for alike in said.values() if len(alike) > 1]
    for path in counted:
        if not shared or any(len({row[path] for row in alike}) > 1 for alike in shared):
            for row in every:
                del row[path]


def _counts_up(column: Sequence[Hashable]) -> bool:
    texts = [str(form[1]) if isinstance(form, tuple) and form[0] is int else form for form in column]
    found = [re.fullmatch(r"(\D*)(\d{1,9})(\D*)", text) if isinstance(text, str) else None for text in texts]
    numbers = [int(match[2]) for match in found if match]
    if len(numbers) < len(column) or len({(match[1], match[3]) for match in found if match}) > 1:
        return False
    return numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@dataclass(frozen=True)
class _Pair:
    """Two things that may be one: what share of what both say agrees, and where they agree and differ."""

    one: int
    other: int
    agreeing: list[Path]
    differing: list[Path]

    @property
    def share(self) -> float:
        return len(self.agreeing) / (len(self.agreeing) + len(self.differing))

    def is_misread(self, leaves: Sequence[Row]) -> bool:
        return all(_may_be_one(leaves[self.one][path], leaves[self.other][path]) for path in self.differing)


class _Matching:
    """Things that become one, step by step."""

    def __init__(self, things: Sequence[Thing], leaves: Sequence[Row]) -> None:
        self.things = things
        self.leaves = leaves
        self.chains = Chains(len(things))
        self.lists = {number: set(thing) for number, thing in enumerate(things)}
        self.holders: dict[tuple[Path, Hashable], list[int]] = defaultdict(list)
        for number, row in enumerate(leaves):
            for leaf in row.items():
                self.holders[leaf].append(number)

    def candidates(self, beside: Sequence[set[Any]], number_of_lists: int) -> list[tuple[int, int]]:
        """Pairs that may be one thing: no list holds both, and they share a telling value or a neighbour."""
        by_neighbour: dict[Any, list[int]] = defaultdict(list)
        for number, neighbours in enumerate(beside):
            for neighbour in neighbours:
                by_neighbour[neighbour].append(number)
        found: dict[tuple[int, int], None] = {}
        # What more things share than there are readings of one thing tells none of them, and comparing all with all
        # of them would take the square of their number.
        for numbers in (*self.holders.values(), *by_neighbour.values()):
            incomplete = [number for number in numbers if len(self.things[number]) < number_of_lists]
            if len(incomplete) <= 2 * number_of_lists:
                for one, other in combinations(sorted(incomplete), 2):
                    if not self.things[one].keys() & self.things[other].keys():
                        found[one, other] = None
        return list(found)

    def unite_where_clear(self, pairs: Sequence[_Pair]) -> None:
        """Unite what the pairs link, but nothing that could as well go with another row of one list."""
        linked = Chains(len(self.things))
        homes: dict[int, None] = {}
        for pair in [pair for pair in pairs if self._tells_apart(pair)]:
            one, other = self.chains.find(pair.one), self.chains.find(pair.other)
            linked.link(one, other)
            homes.update({one: None, other: None})
        for group in linked.among(homes):
            lists = [id for home in group for id in self.lists[home]]
            if len(set(lists)) == len(lists):
                for home in group:
                    self.chains.link(group[0], home)
                self.lists[self.chains.find(group[0])] = set(lists)

    def _tells_apart(self, pair: _Pair) -> bool:
        """Whether what the two agree in is said by no other row of the lists that hold them."""
        a, b = self.leaves[pair.one], self.leaves[pair.other]
        rarest = min(pair.agreeing, key=lambda path: len(self._alike(path, a, b)))
        alike = self._alike(rarest, a, b)
        homes = {self.chains.find(pair.one), self.chains.find(pair.other)}
        lists = set().union(*(self.lists[home] for home in homes))
        return len(alike) <= _MOST_ALIKE and not any(
            lists.intersection(self.things[number])
            and all(self.leaves[number].get(path) in (a[path], b[path]) for path in pair.agreeing)
            for number in alike
            if self.chains.find(number) not in homes
        )

    def _alike(self, path: Path, a: Row, b: Row) -> list[int]:
        """The things that say at this path what one of the rows says, but no more than it takes to tell nothing."""
        return [*self.holders[path, a[path]][:_MOST_ALIKE], *self.holders[path, b[path]][:_MOST_ALIKE]]


def _compared(one: int, other: int, leaves: Sequence[Row]) -> _Pair | None:
    a, b = leaves[one], leaves[other]
    if a.get(_TYPE) != b.get(_TYPE):
        return None
    shared = [path for path in a if path != _TYPE and a[path] is not ABSTAIN and b.get(path, ABSTAIN) is not ABSTAIN]
    agreeing = [path for path in shared if same(a[path], b[path])]
    if not agreeing or 2 * len(agreeing) < len(shared):
        return None
    return _Pair(one, other, agreeing, [path for path in shared if path not in agreeing])


def _may_be_one(a: Hashable, b: Hashable) -> bool:
    """Whether one reader may have taken for a what another took for b: another number, or nearly the same text."""
    if isinstance(a, str) and isinstance(b, str):
        return difflib.SequenceMatcher(None, a[:200], b[:200], autojunk=False).ratio() >= _MISREAD
    return isinstance(a, tuple) and isinstance(b, tuple) and (a[0] is b[0] or {a[0], b[0]} == {int, float})
