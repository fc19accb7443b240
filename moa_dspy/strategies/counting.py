"""Votes, counted in code: which ballots say the same, which group leads, and whether it can still be overtaken."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from moa_dspy.strategies.answers import approximate, free_text
from moa_dspy.strategies.equality import ABSTAIN, TOLERANCE, as_float, is_number, normalise, same

__all__ = ["Ballot", "Candidate", "Tally", "cluster", "count", "decided"]


@dataclass(frozen=True)
class Ballot:
    """What one voter, a proposal's id, answered; without values it abstains and stays in the denominator."""

    voter: str
    values: Mapping[str, Any]
    weight: float = 1.0


@dataclass(frozen=True)
class Candidate:
    """Ballots that say the same, counted as one.

    Attributes:
        voters: Who cast them, in declared order.
        weight: The sum of their weights.
        values: The representative's values, unchanged.
        representative: The first voter, in declared order, of those who spell it as most of the weight does.
        heaviest: The highest weight of a single ballot.
    """

    voters: tuple[str, ...]
    weight: float
    values: Mapping[str, Any]
    representative: str
    heaviest: float


@dataclass(frozen=True)
class Tally:
    """The result of a count.

    Attributes:
        candidates: Best first: by weight, then by the heaviest single supporter, then by declared order.
        abstained: Voters whose every field abstains, in declared order.
        weight: The weight of all ballots, abstentions included.
        may_merge: Whether a ballot to come (a number between two others) or a model (two wordings of one answer)
            may yet unite candidates that stand apart here.
    """

    candidates: tuple[Candidate, ...]
    abstained: tuple[str, ...]
    weight: float
    may_merge: bool

    @property
    def winner(self) -> Candidate | None:
        """The best candidate; None when nobody with a weight voted. See `tied` for whether it leads alone."""
        return self.candidates[0] if self.candidates and self.candidates[0].weight > 0 else None

    @property
    def agreement(self) -> float:
        """The winner's share of all weight, abstentions included: 0.0 to 1.0, and 0.0 without a winner."""
        return self.winner.weight / self.weight if self.winner else 0.0

    @property
    def majority(self) -> Candidate | None:
        """The candidate with more than half of all weight, abstentions included, if there is one."""
        return self.winner if self.winner and 2 * self.winner.weight > self.weight else None

    @property
    def tied(self) -> tuple[Candidate, ...]:
        """The candidates that share first place by weight and by heaviest supporter: one when there is no tie."""
        if not (first := self.winner):
            return ()
        return tuple(c for c in self.candidates if (c.weight, c.heaviest) == (first.weight, first.heaviest))


def count(
    ballots: Sequence[Ballot],
    annotations: Mapping[str, Any],
    *,
    tolerance: float = TOLERANCE,
    groups: Sequence[Collection[str]] = (),
    exact_text: bool = False,
    convention: Callable[[Any], Any] | None = None,
) -> Tally:
    """Count ballots, those that say the same as one candidate.

    Two ballots say the same when all fields in `annotations` do, and so do ballots that a chain of alike ones links:
    which groups there are does not depend on the order of the ballots. Ballots without weight join a group, and unite
    none. A ballot abstains when all of its fields do.

    Args:
        ballots: In declared order, one per voter asked; a voter that failed gets one without values.
        annotations: The fields to compare and their declared types.
        tolerance: How far numbers may differ and be the same: see `same`.
        groups: Voters whose ballots a model found to say the same, added to what the code finds.
        exact_text: Compare text letter by letter; see `normalise`.
        convention: What makes a value comparable first; see `normalise`.

    Examples:
        >>> tally = count([Ballot("a", {"n": -5}), Ballot("b", {"n": 5}), Ballot("c", {"n": "5"})], {"n": int})
        >>> tally.winner.values, tally.winner.voters, round(tally.agreement, 2)
        ({'n': 5}, ('b', 'c'), 0.67)
    """
    forms: dict[str, Hashable] = {}
    for ballot in ballots:
        fields = [
            normalise(ballot.values.get(name), kind, exact_text=exact_text, convention=convention)
            for name, kind in annotations.items()
        ]
        if any(field is not ABSTAIN for field in fields):
            forms[ballot.voter] = tuple(fields)
    speaking = [ballot for ballot in ballots if ballot.voter in forms]
    candidates = [_candidate(alike, annotations) for alike in _groups(speaking, forms, tolerance, groups)]
    return Tally(
        candidates=tuple(sorted(candidates, key=lambda candidate: (-candidate.weight, -candidate.heaviest))),
        abstained=tuple(ballot.voter for ballot in ballots if ballot.voter not in forms),
        weight=_sum(ballot.weight for ballot in ballots),
        may_merge=any(free_text(kind) or (tolerance > 0 and approximate(kind)) for kind in annotations.values()),
    )


def decided(tally: Tally, outstanding_weight: float) -> bool:
    """Whether no way of casting the outstanding ballots can change which candidate wins.

    The leader must stay strictly ahead. Where candidates may yet be united (`Tally.may_merge`) all others together
    must not reach it. It may still gain voters, and with them another representative that says the same.

    Examples:
        >>> tally = count([Ballot("a", {"ok": True}), Ballot("b", {"ok": True})], {"ok": bool})
        >>> decided(tally, 1.0), decided(tally, 2.0)
        (True, False)
    """
    others = [candidate.weight for candidate in tally.candidates[1:]]
    rival = _sum(others) if tally.may_merge else max(others, default=0.0)
    return tally.winner is not None and tally.winner.weight > _sum([rival, outstanding_weight])


def cluster(forms: Sequence[Hashable], tolerance: float = TOLERANCE) -> list[int]:
    """Number the forms: those that say the same share a number, in order of first appearance.

    Forms that differ in numbers only are sorted number by number, and cut where two neighbours are not the same.
    """
    if len(different := dict.fromkeys(forms)) < 2:
        return [0] * len(forms)
    by_text: dict[Hashable, list[tuple[Hashable, list[Any]]]] = defaultdict(list)
    for form in different:
        numbers: list[Any] = []
        by_text[_without_numbers(form, numbers)].append((form, numbers))
    leader: dict[Hashable, Hashable] = {}
    for alike in by_text.values():
        groups = [alike]
        for place in range(len(alike[0][1])):
            groups = [run for group in groups for run in _runs(group, place, tolerance)]
        leader.update({form: group[0][0] for group in groups for form, _ in group})
    known: dict[Hashable, int] = {}
    return [known.setdefault(leader[form], len(known)) for form in forms]


def _without_numbers(form: Hashable, numbers: list[Any]) -> Hashable:
    """The form with its numbers taken out, into the list."""
    if is_number(form):
        numbers.append(form)
        return float
    return tuple(_without_numbers(part, numbers) for part in form) if isinstance(form, tuple) else form


def _runs(group: list[tuple[Hashable, list[Any]]], place: int, tolerance: float) -> list[list[Any]]:
    """The group sorted by its numbers at this place, and cut where two neighbours are not the same."""
    if len(group) == 1:
        return [group]
    ordered = sorted(group, key=lambda item: as_float(item[1][place][1]))
    runs = [ordered[:1]]
    for (_, before), item in pairwise(ordered):
        if same(before[place], item[1][place], tolerance=tolerance):
            runs[-1].append(item)
        else:
            runs.append([item])
    return runs


def _groups(
    ballots: Sequence[Ballot], forms: Mapping[str, Hashable], tolerance: float, groups: Sequence[Collection[str]]
) -> list[list[Ballot]]:
    weighty = [ballot.voter for ballot in ballots if ballot.weight > 0]
    number = dict(zip(weighty, cluster([forms[voter] for voter in weighty], tolerance), strict=True))
    for group in groups:
        joined = {number[voter] for voter in group if voter in number}
        number = {voter: min(joined) if own in joined else own for voter, own in number.items()}
    # Who weighs nothing joins a group and never bridges two; who joins none is grouped with its like.
    alone = []
    for voter in [voter for voter in forms if voter not in number]:
        near = [other for other in weighty if same(forms[voter], forms[other], tolerance=tolerance)]
        if near:
            number[voter] = number[min(near, key=lambda other: _place(forms[other]))]
        else:
            alone.append(voter)
    apart = cluster([forms[voter] for voter in alone], tolerance)
    number.update({voter: len(forms) + own for voter, own in zip(alone, apart, strict=True)})
    found: dict[int, list[Ballot]] = {own: [] for own in number.values()}
    for ballot in ballots:
        found[number[ballot.voter]].append(ballot)
    return list(found.values())


def _place(form: Hashable) -> list[float]:
    """Where a form stands among those that differ in numbers only."""
    numbers: list[Any] = []
    _without_numbers(form, numbers)
    return [as_float(number[1]) for number in numbers]


def _candidate(ballots: Sequence[Ballot], annotations: Mapping[str, Any]) -> Candidate:
    spoken = _most_frequent(ballots, annotations)
    return Candidate(
        voters=tuple([ballot.voter for ballot in ballots]),
        weight=_sum(ballot.weight for ballot in ballots),
        values=spoken.values,
        representative=spoken.voter,
        heaviest=_sum([max(ballot.weight for ballot in ballots)]),
    )


def _most_frequent(ballots: Sequence[Ballot], annotations: Mapping[str, Any]) -> Ballot:
    """The first ballot of the spelling with the most weight: Bxc3 is another move than bxc3, though counted as one."""
    if len(ballots) == 1:
        return ballots[0]
    spelling = {
        ballot.voter: tuple(normalise(ballot.values.get(n), kind, exact_text=True) for n, kind in annotations.items())
        for ballot in ballots
    }
    weights: dict[Hashable, list[float]] = defaultdict(list)
    for ballot in ballots:
        weights[spelling[ballot.voter]].append(ballot.weight)
    return max(ballots, key=lambda ballot: (_sum(weights[spelling[ballot.voter]]), ballot.weight))


def _sum(weights: Iterable[float]) -> float:
    """The sum to 12 digits, so that 0.1 + 0.2 is 0.3."""
    return float(f"{math.fsum(weights):.12g}")
