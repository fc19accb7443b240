"""Votes, counted in code: which ballots say the same, which group leads, and whether it can still be overtaken."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_dspy.strategies.annotations import approximate, free_text
from moa_dspy.strategies.clustering import Chains, cluster
from moa_dspy.strategies.equality import ABSTAIN, TOLERANCE, normalise, same

__all__ = ["Ballot", "Candidate", "Tally", "count", "decided"]


@dataclass(frozen=True)
class Ballot:
    """What one voter answered.

    Attributes:
        voter: A proposal's id; no two ballots share one.
        values: Its outputs, typed. Empty for a voter that failed: it abstains and stays in the denominator.
        weight: What the vote counts, finite and at least 0.
    """

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
        cast: The number of ballots, abstentions included.
        weight: The weight of all ballots, abstentions included.
        may_merge: Whether a ballot to come (a number between two others) or a model (two wordings of one answer)
            may yet unite candidates that stand apart here.
    """

    candidates: tuple[Candidate, ...]
    abstained: tuple[str, ...]
    cast: int
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
        winner = self.winner
        return winner if winner and _more(2 * winner.weight, self.weight) else None

    @property
    def tied(self) -> tuple[Candidate, ...]:
        """The candidates that share first place by weight and by heaviest supporter: one when there is no tie."""
        places = _places(self.candidates)
        return tuple(c for c, place in zip(self.candidates, places, strict=True) if place == places[0] and self.winner)


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

    Two ballots say the same when `same` holds for every field in `annotations`, and so do ballots that a chain of
    alike ones links: which groups there are does not depend on the order of the ballots. Ballots without weight
    change neither the groups nor the order of the others; one that is near several stands alone. A ballot abstains
    when all of its fields do. Weights that differ only by rounding are equal.

    Args:
        ballots: In declared order, one per voter asked; a voter that failed gets one without values.
        annotations: The fields to compare and their declared types.
        tolerance: How far numbers may differ and be the same: see `same`.
        groups: Voters whose ballots a model found to say the same, added to what the code finds. Abstentions in
            them stay abstentions.
        exact_text: Compare text letter by letter; see `normalise`.
        convention: What makes a value comparable first; see `normalise`.

    Returns:
        The tally. Its candidates' values are those of ballots, the very objects.

    Raises:
        ValueError: A weight or the tolerance is negative or not finite, a voter has two ballots, or a group names
            a voter that has none.

    Example:
        >>> tally = count([Ballot("a", {"n": -5}), Ballot("b", {"n": 5}), Ballot("c", {"n": "5"})], {"n": int})
        >>> tally.winner.values, tally.winner.voters, round(tally.agreement, 2)
        ({'n': 5}, ('b', 'c'), 0.67)
    """
    _check(ballots, tolerance, groups)
    forms = [
        tuple(
            normalise(ballot.values.get(name), kind, exact_text=exact_text, convention=convention)
            for name, kind in annotations.items()
        )
        for ballot in ballots
    ]
    places = [place for place, form in enumerate(forms) if any(part is not ABSTAIN for part in form)]
    speaking = [ballots[place] for place in places]
    candidates = [
        _candidate([speaking[item] for item in group], annotations)
        for group in _groups(speaking, [forms[place] for place in places], tolerance, groups)
    ]
    ranked = sorted(zip(_places(candidates), candidates, strict=True), key=lambda placed: placed[0])
    heard = {ballot.voter for ballot in speaking}
    return Tally(
        candidates=tuple(candidate for _, candidate in ranked),
        abstained=tuple(ballot.voter for ballot in ballots if ballot.voter not in heard),
        cast=len(ballots),
        weight=math.fsum(ballot.weight for ballot in ballots),
        may_merge=any(free_text(a) or (tolerance > 0 and approximate(a)) for a in annotations.values()),
    )


def decided(tally: Tally, outstanding_weight: float) -> bool:
    """Whether no way of casting the outstanding ballots can change which candidate wins.

    The leader must stay strictly ahead, so a tie that a tie-break would have to settle is not decided. Where
    candidates may yet be united (`Tally.may_merge`) all others together must not reach the leader. The leader may
    still gain voters, and with them another representative that says the same.

    Args:
        tally: The count of the ballots that are in; their values are of the declared types.
        outstanding_weight: The sum of the weights of the ballots that are not, at least 0.

    Raises:
        ValueError: The outstanding weight is negative or NaN.

    Example:
        >>> tally = count([Ballot("a", {"ok": True}), Ballot("b", {"ok": True})], {"ok": bool})
        >>> decided(tally, 1.0), decided(tally, 2.0)
        (True, False)
    """
    if not outstanding_weight >= 0:
        raise ValueError(f"outstanding_weight is {outstanding_weight}: it must be a sum of weights, at least 0.")
    if tally.winner is None:
        return False
    others = [candidate.weight for candidate in tally.candidates[1:]]
    rival = math.fsum(others) if tally.may_merge else max(others, default=0.0)
    return _more(tally.winner.weight, math.fsum([rival, outstanding_weight]))


def _check(ballots: Sequence[Ballot], tolerance: float, groups: Sequence[Collection[str]]) -> None:
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}: it must be finite and at least 0.")
    for ballot in ballots:
        if not (math.isfinite(ballot.weight) and ballot.weight >= 0):
            raise ValueError(
                f"The weight of {ballot.voter!r} is {ballot.weight}, so no sum of weights would mean anything: "
                "give a finite weight of at least 0."
            )
    voters = Counter(ballot.voter for ballot in ballots)
    if twice := [voter for voter, number in voters.items() if number > 1]:
        raise ValueError(f"{twice[0]!r} has two ballots and would be counted twice: give each voter one.")
    if unknown := sorted({voter for group in groups for voter in group} - voters.keys()):
        raise ValueError(f"groups names {unknown}, who cast no ballot: name voters among {sorted(voters)}.")


def _groups(
    ballots: Sequence[Ballot], forms: Sequence[Hashable], tolerance: float, groups: Sequence[Collection[str]]
) -> list[list[int]]:
    """Places of ballots that say the same, in declared order; groups too, those with a weight first."""
    chains = Chains(len(ballots))
    together = [{place for place, ballot in enumerate(ballots) if ballot.voter in group} for group in groups]
    weighty = [place for place, ballot in enumerate(ballots) if ballot.weight > 0]
    light = [place for place, ballot in enumerate(ballots) if not ballot.weight > 0]

    def link(places: list[int]) -> None:
        first: dict[int, int] = {}
        for place, number in zip(places, cluster([forms[place] for place in places], tolerance), strict=True):
            chains.link(place, first.setdefault(number, place))
        for group in together:
            members = sorted(group.intersection(places))
            for place in members[1:]:
                chains.link(members[0], place)

    link(weighty)
    # What has no weight joins others, and unites none: it is linked last, to the one group that it is near.
    homes = {place: _homes(place, weighty, forms, tolerance, together, chains) for place in light}
    link([place for place, near in homes.items() if len(near) != 1])
    for place, near in homes.items():
        if len(near) == 1:
            chains.link(place, next(iter(near)))
    found = [sorted(group) for group in chains.among(range(len(ballots)))]
    return sorted(found, key=lambda group: min((not ballots[place].weight, place) for place in group))


def _homes(
    place: int,
    weighty: Sequence[int],
    forms: Sequence[Hashable],
    tolerance: float,
    together: Sequence[set[int]],
    chains: Chains,
) -> set[int]:
    near = {other for other in weighty if same(forms[place], forms[other], tolerance=tolerance)}
    near.update(other for group in together if place in group for other in group.intersection(weighty))
    return {chains.find(other) for other in near}


def _candidate(ballots: Sequence[Ballot], annotations: Mapping[str, Any]) -> Candidate:
    spoken = _most_frequent(ballots, annotations)
    return Candidate(
        voters=tuple([ballot.voter for ballot in ballots]),
        weight=math.fsum(ballot.weight for ballot in ballots),
        values=spoken.values,
        representative=spoken.voter,
        heaviest=max(ballot.weight for ballot in ballots),
    )


def _most_frequent(ballots: Sequence[Ballot], annotations: Mapping[str, Any]) -> Ballot:
    """The first ballot of the spelling with the most weight; of several such, with the heaviest ballot, then the first.

    Bxc3 is another move than bxc3, though a vote counts them as one: it must not be the rarer one that is returned.
    """
    if len(ballots) == 1:
        return ballots[0]
    spellings: dict[Hashable, list[Ballot]] = {}
    for ballot in ballots:
        form = tuple(normalise(ballot.values.get(name), kind, exact_text=True) for name, kind in annotations.items())
        spellings.setdefault(form, []).append(ballot)
    alike = list(spellings.values())
    ranks = zip(
        _ranks([math.fsum(ballot.weight for ballot in group) for group in alike]),
        _ranks([max(ballot.weight for ballot in group) for group in alike]),
        strict=True,
    )
    _, _, group = min((*rank, place) for place, rank in enumerate(ranks))
    return max(alike[group], key=lambda ballot: ballot.weight)


def _places(candidates: Sequence[Candidate]) -> list[tuple[int, int]]:
    by_weight = _ranks([candidate.weight for candidate in candidates])
    by_heaviest = _ranks([candidate.heaviest for candidate in candidates])
    return list(zip(by_weight, by_heaviest, strict=True))


def _ranks(weights: Sequence[float]) -> list[int]:
    """0 for the largest; weights that differ only by rounding share a rank, which sorting by weight would not see."""
    ranks: dict[float, int] = {}
    previous, rank = math.inf, -1
    for weight in sorted(set(weights), reverse=True):
        rank += _more(previous, weight)
        ranks[weight] = rank
        previous = weight
    return [ranks[weight] for weight in weights]


def _more(a: float, b: float) -> bool:
    return a > b and not math.isclose(a, b)
