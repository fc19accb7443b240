"""Votes, counted in code: which ballots say the same, which group leads, and whether it can still be overtaken."""

import math
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Final

from moa_dspy.canonical import ABSTAIN, TOLERANCE, approximate, canonical, equivalent, free_text

__all__ = [
    "ABSTAIN",
    "Ballot",
    "Candidate",
    "Tally",
    "canonical",
    "count",
    "decided",
    "equivalent",
    "fields_to_vote_on",
    "free_text",
]


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
        representative: The first voter, in declared order, of those with the highest weight.
        heaviest: That highest weight.
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
    groups: Iterable[Collection[str]] | None = None,
    exact_text: bool = False,
) -> Tally:
    """Count ballots, those that say the same as one candidate.

    Two ballots say the same when `equivalent` holds for every field in `annotations`, and so do ballots that a
    chain of equivalent ones links: which groups there are does not depend on the order of the ballots. Ballots
    without weight change neither the groups nor the order of the others; one that is near several stands alone.
    A ballot abstains when all of its fields do. Weights that differ only by rounding are equal.

    Args:
        ballots: In declared order, one per voter asked; a voter that failed gets one without values.
        annotations: The fields to compare and their declared types.
        tolerance: How far numbers may differ and be the same: see `equivalent`.
        groups: Voters whose ballots a model found to say the same, added to what the code finds. Abstentions in
            them stay abstentions.
        exact_text: Compare text letter by letter; see `canonical`.

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
    groups = list(groups or ())
    _check(ballots, tolerance, groups)
    members: dict[tuple[Hashable, ...], list[int]] = {}
    abstained = []
    for index, ballot in enumerate(ballots):
        form = tuple(
            [canonical(ballot.values.get(name), kind, exact_text=exact_text) for name, kind in annotations.items()]
        )
        if all(part is ABSTAIN for part in form):
            abstained.append(ballot.voter)
        else:
            members.setdefault(form, []).append(index)

    forms = list(members)
    weighty = [any(ballots[i].weight > 0 for i in members[form]) for form in forms]
    positions = {ballots[i].voter: place for place, form in enumerate(forms) for i in members[form]}
    links = [*_near(forms, tolerance), *_grouped(positions, groups)]
    united: dict[int, list[int]] = {}
    for form, home in zip(forms, _homes(weighty, links), strict=True):
        united.setdefault(home, []).extend(members[form])

    in_order = sorted(united.values(), key=lambda group: min((not ballots[i].weight, i) for i in group))
    candidates = [_candidate([ballots[i] for i in sorted(group)]) for group in in_order]
    ranked = sorted(zip(_places(candidates), candidates, strict=True), key=lambda placed: placed[0])
    return Tally(
        candidates=tuple(candidate for _, candidate in ranked),
        abstained=tuple(abstained),
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


def fields_to_vote_on(outputs: Mapping[str, Any]) -> tuple[str, ...]:
    """The outputs that ballots are compared by unless the caller names others.

    A label is voted on, its explanation is not: explanations never repeat word for word, and would make every
    ballot a candidate of its own. So fields that may hold free text are left out as long as others remain. A
    confidence is about the answer and not part of it, and is left out as long as others remain.

    Args:
        outputs: The names and declared types of a task's outputs.

    Returns:
        Names, in the order given; all of them when nothing sets some apart.

    Example:
        >>> fields_to_vote_on({"explanation": str, "label": bool, "confidence": float})
        ('label',)
        >>> fields_to_vote_on({"answer": str, "confidence": float})
        ('answer',)
    """
    answers = [name for name in outputs if not _CONFIDENCE.search(name)] or list(outputs)
    return tuple([name for name in answers if not free_text(outputs[name])] or answers)


_CONFIDENCE: Final = re.compile(r"(?:^|_)(?:confidence|certainty)(?:_(?:score|level))?$", re.IGNORECASE)


def _check(ballots: Sequence[Ballot], tolerance: float, groups: Iterable[Collection[str]]) -> None:
    if not (math.isfinite(tolerance) and tolerance >= 0):
        raise ValueError(f"tolerance is {tolerance}: it must be finite and at least 0.")
    voters = set()
    for ballot in ballots:
        if not (math.isfinite(ballot.weight) and ballot.weight >= 0):
            raise ValueError(
                f"The weight of {ballot.voter!r} is {ballot.weight}, so no sum of weights would mean anything: "
                "give a finite weight of at least 0."
            )
        if ballot.voter in voters:
            raise ValueError(f"{ballot.voter!r} has two ballots and would be counted twice: give each voter one.")
        voters.add(ballot.voter)
    if unknown := sorted({voter for group in groups for voter in group} - voters):
        raise ValueError(f"groups names {unknown}, who cast no ballot: name voters among {sorted(voters)}.")


def _near(forms: Sequence[Hashable], tolerance: float) -> Iterator[tuple[int, int]]:
    """Pairs of forms that only the tolerance makes alike; without approximate numbers there are none to look for."""
    rough = {place for place, form in enumerate(forms) if _rough(form)}
    for a in sorted(rough):
        for b, form in enumerate(forms):
            if (b > a or b not in rough) and equivalent(forms[a], form, tolerance=tolerance):
                yield a, b


def _rough(form: Hashable) -> bool:
    if isinstance(form, tuple) and form and form[0] is float:
        return True
    return isinstance(form, (tuple, frozenset)) and any(_rough(part) for part in form)


def _grouped(positions: Mapping[str, int], groups: Iterable[Collection[str]]) -> Iterator[tuple[int, int]]:
    for group in groups:
        yield from combinations(sorted({positions[voter] for voter in group if voter in positions}), 2)


def _homes(weighty: Sequence[bool], links: Sequence[tuple[int, int]]) -> list[int]:
    """The group of each item: what a chain of links connects shares one, but nothing weightless unites two others."""
    parent = list(range(len(weighty)))

    def find(item: int) -> int:
        while parent[item] != item:
            parent[item] = item = parent[parent[item]]
        return item

    near: dict[int, set[int]] = {}
    for a, b in links:
        if weighty[a] and weighty[b]:
            parent[find(a)] = find(b)
    for a, b in links:
        if weighty[a] != weighty[b]:
            light, heavy = (b, a) if weighty[a] else (a, b)
            near.setdefault(light, set()).add(find(heavy))
    settled = {light: home for light, (home, *others) in near.items() if not others}
    for a, b in links:
        if not (weighty[a] or weighty[b] or a in settled or b in settled):
            parent[find(a)] = find(b)
    for light, home in settled.items():
        parent[light] = home
    return [find(item) for item in range(len(weighty))]


def _candidate(ballots: Sequence[Ballot]) -> Candidate:
    best = max(ballots, key=lambda ballot: ballot.weight)
    return Candidate(
        voters=tuple([ballot.voter for ballot in ballots]),
        weight=math.fsum(ballot.weight for ballot in ballots),
        values=best.values,
        representative=best.voter,
        heaviest=best.weight,
    )


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
