"""Votes, counted in code: which ballots say the same, which group leads, and whether it can still be overtaken."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_dspy.strategies.answers import INEXACT, may_hold
from moa_dspy.strategies.equality import ABSTAIN, TOLERANCE, cluster, normalise, same

__all__ = ["Ballot", "Candidate", "Tally", "count", "decided"]


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
        representative: The first voter, in declared order, of those who spell it as most of the weight does.
        values: The representative's, unchanged.
        heaviest: The highest weight of a single ballot.
    """

    voters: tuple[str, ...]
    weight: float
    values: Mapping[str, Any]
    representative: str
    heaviest: float


@dataclass(frozen=True)
class Tally:
    """The result of a count; a voter abstains if each of its fields does.

    Attributes:
        candidates: Best first: by weight, then by the heaviest single supporter, then by declared order.
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
        """The best candidate, which may be tied; None when nobody with a weight voted."""
        return self.candidates[0] if self.candidates and self.candidates[0].weight > 0 else None

    @property
    def agreement(self) -> float:
        """The winner's share of all weight, abstentions included; 0 without a winner."""
        return self.winner.weight / self.weight if self.winner else 0.0

    @property
    def tied(self) -> tuple[Candidate, ...]:
        """The candidates that share first place by weight and by heaviest supporter: one when there is no tie."""
        first = self.winner
        return tuple(c for c in self.candidates if first and (c.weight, c.heaviest) == (first.weight, first.heaviest))


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
    none; `groups` are voters whose ballots a model found to say the same. For the rest see `normalise` and `same`.

    Examples:
        >>> tally = count([Ballot("a", {"n": -5}), Ballot("b", {"n": 5}), Ballot("c", {"n": "5"})], {"n": int})
        >>> tally.winner.values, tally.winner.voters, round(tally.agreement, 2)
        ({'n': 5}, ('b', 'c'), 0.67)
    """
    forms: dict[str, Hashable] = {}
    for ballot in ballots:
        form = _form(ballot, annotations, exact_text=exact_text, convention=convention)
        if any(field is not ABSTAIN for field in form):
            forms[ballot.voter] = form
    speaking = [ballot for ballot in ballots if ballot.voter in forms]
    candidates = [_candidate(alike, annotations) for alike in _groups(speaking, forms, tolerance, groups)]
    return Tally(
        candidates=tuple(sorted(candidates, key=lambda candidate: (-candidate.weight, -candidate.heaviest))),
        abstained=tuple(ballot.voter for ballot in ballots if ballot.voter not in forms),
        weight=_sum(ballot.weight for ballot in ballots),
        may_merge=any(may_hold(kind, (str, *INEXACT) if tolerance else str) for kind in annotations.values()),
    )


def decided(tally: Tally, outstanding_weight: float) -> bool:
    """Whether no way of casting the outstanding ballots can change which candidate wins.

    The leader must stay strictly ahead; where candidates may yet be united, of all others together.
    """
    others = [candidate.weight for candidate in tally.candidates[1:]]
    rival = _sum(others) if tally.may_merge else max(others, default=0.0)
    return tally.winner is not None and tally.winner.weight > _sum([rival, outstanding_weight])


def _form(ballot: Ballot, annotations: Mapping[str, Any], **settings: Any) -> tuple[Hashable, ...]:
    return tuple(normalise(ballot.values.get(name), kind, **settings) for name, kind in annotations.items())


def _groups(
    ballots: Sequence[Ballot], forms: Mapping[str, Hashable], tolerance: float, groups: Sequence[Collection[str]]
) -> list[list[Ballot]]:
    weighty = [ballot.voter for ballot in ballots if ballot.weight > 0]
    number = dict(zip(weighty, cluster([forms[voter] for voter in weighty], tolerance), strict=True))
    for group in groups:
        joined = {number[voter] for voter in group if voter in number}
        number = {voter: min(joined) if own in joined else own for voter, own in number.items()}
    without = [voter for voter in forms if voter not in number]
    for voter, own in zip(without, cluster([forms[voter] for voter in without], tolerance), strict=True):
        near = [other for other in weighty if same(forms[voter], forms[other], tolerance=tolerance)]
        first = min(near, key=lambda other: repr(forms[other]), default=None)
        number[voter] = len(forms) + own if first is None else number[first]
    found: dict[int, list[Ballot]] = {own: [] for own in number.values()}
    for ballot in ballots:
        found[number[ballot.voter]].append(ballot)
    return list(found.values())


def _candidate(ballots: Sequence[Ballot], annotations: Mapping[str, Any]) -> Candidate:
    # Bxc3 is another move than bxc3, though counted as one: the spelling with the most weight is returned.
    spelling = [_form(ballot, annotations, exact_text=True) if len(ballots) > 1 else () for ballot in ballots]
    weights: dict[Hashable, list[float]] = defaultdict(list)
    for form, ballot in zip(spelling, ballots, strict=True):
        weights[form].append(ballot.weight)
    spoken = ballots[max(range(len(ballots)), key=lambda n: (_sum(weights[spelling[n]]), ballots[n].weight))]
    return Candidate(
        voters=tuple(ballot.voter for ballot in ballots),
        weight=_sum(ballot.weight for ballot in ballots),
        values=spoken.values,
        representative=spoken.voter,
        heaviest=_sum([max(ballot.weight for ballot in ballots)]),
    )


def _sum(weights: Iterable[float]) -> float:
    """The sum to 12 digits, so that 0.1 + 0.2 is 0.3."""
    return float(f"{math.fsum(weights):.12g}")
