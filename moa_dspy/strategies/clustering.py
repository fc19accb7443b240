"""Which of many forms say the same, found without comparing all with all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Any

from moa_dspy.strategies.equality import TOLERANCE, as_float, is_number, same

__all__ = ["Chains", "cluster"]


def cluster(forms: Sequence[Hashable], tolerance: float = TOLERANCE) -> list[int]:
    """Number the forms: those that a chain of alike ones links share a number, in order of first appearance.

    Only forms with other than whole numbers can be alike without being equal. They are sorted number by number, so
    that only neighbours are compared.

    Example:
        >>> from moa_dspy.strategies.equality import normalise
        >>> cluster([normalise(x) for x in (0.3, "a", 0.1 + 0.2, "A")])
        [0, 1, 0, 1]
    """
    distinct = list(dict.fromkeys(forms))
    if len(distinct) == 1:
        return [0] * len(forms)
    chains = Chains(len(distinct))
    by_skeleton: dict[Hashable, list[tuple[int, list[float]]]] = {}
    for place, form in enumerate(distinct):
        numbers: list[tuple[Any, Any]] = []
        skeleton = _skeleton(form, numbers)
        by_skeleton.setdefault(skeleton, []).append((place, [as_float(number) for _, number in numbers]))
    for bucket in by_skeleton.values():
        for group in _near_groups(bucket, tolerance):
            for a, b in pairwise(group):
                if same(distinct[a], distinct[b], tolerance=tolerance):
                    chains.link(a, b)
            # As a rule one chain; what neighbours do not link may still be linked across them.
            for one, other in combinations(chains.among(group), 2):
                if any(same(distinct[a], distinct[b], tolerance=tolerance) for a in one for b in other):
                    chains.link(one[0], other[0])
    number_of_form = dict(zip(distinct, chains.numbers(), strict=True))
    return [number_of_form[form] for form in forms]


class Chains:
    """Items that links make one, directly or over others (union-find)."""

    def __init__(self, size: int) -> None:
        self._parent = list(range(size))

    def find(self, item: int) -> int:
        """The item that stands for this one's chain."""
        while self._parent[item] != item:
            self._parent[item] = item = self._parent[self._parent[item]]
        return item

    def link(self, a: int, b: int) -> None:
        """Make two chains one; the earlier item stands for it."""
        a, b = sorted((self.find(a), self.find(b)))
        self._parent[b] = a

    def among(self, items: Iterable[int]) -> list[list[int]]:
        """These items, chain by chain."""
        chains: dict[int, list[int]] = {}
        for item in items:
            chains.setdefault(self.find(item), []).append(item)
        return list(chains.values())

    def numbers(self) -> list[int]:
        """The number of each item's chain, in order of first appearance."""
        known: dict[int, int] = {}
        return [known.setdefault(self.find(item), len(known)) for item in range(len(self._parent))]


def _skeleton(form: Any, numbers: list[tuple[Any, Any]]) -> Hashable:
    """The form with its numbers taken out, into the list."""
    if isinstance(form, frozenset):
        inside: list[tuple[Any, Any]] = []
        for member in form:
            _skeleton(member, inside)
        # The members of a set have no order in which their numbers could be compared one by one.
        return set if inside else form
    if is_number(form):
        numbers.append(form)
        return float
    if not isinstance(form, tuple):
        return form
    return tuple([_skeleton(part, numbers) for part in form])


def _near_groups(bucket: list[tuple[int, list[float]]], tolerance: float) -> list[list[int]]:
    """Places whose numbers may be alike, one after the other sorted and cut where two neighbours are apart."""
    groups = [bucket]
    for column in range(len(bucket[0][1])):
        apart: list[list[tuple[int, list[float]]]] = []
        for group in groups:
            ordered = sorted(group, key=lambda item: item[1][column])
            run = [ordered[0]]
            for item in ordered[1:]:
                a, b = run[-1][1][column], item[1][column]
                if not _may_be_close(a, b, tolerance):
                    apart.append(run)
                    run = []
                run.append(item)
            apart.append(run)
        groups = [group for group in apart if len(group) > 1]
    return [[place for place, _ in group] for group in groups if len(group) > 1]


def _may_be_close(a: float, b: float, tolerance: float) -> bool:
    # A little more than `same` allows, for what a float cannot hold; around zero the tolerance itself counts.
    largest = max(abs(a), abs(b))
    return a == b or b - a <= tolerance * largest * 1.001 + 1e-15 * largest or largest <= tolerance
