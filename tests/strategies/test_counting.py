import itertools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa_dspy.strategies.equality import ABSTAIN, normalise
from moa_dspy.strategies.voting import Tally
from moa_dspy.strategies.voting import count as count_values

NAN = float("nan")
REFUSAL = "I'm sorry, but I can't help with that."


class Ballot(NamedTuple):
    voter: str
    values: Mapping[str, Any]
    weight: float = 1.0


def count(ballots: Sequence[Ballot], annotations: Mapping[str, Any], **options: Any) -> Tally:
    weights = {ballot.voter: ballot.weight for ballot in ballots}
    return count_values({ballot.voter: ballot.values for ballot in ballots}, annotations, weights=weights, **options)


def tally_of(
    values: Sequence[object], annotation: Any = Any, weights: Mapping[str, float] | None = None, **options: Any
) -> Tally:
    """Voters a, b, c, ... answer these values for one field."""
    ballots = [
        Ballot(name, {"answer": value}, (weights or {}).get(name, 1.0))
        for name, value in zip("abcdefghij", values, strict=False)
    ]
    return count(ballots, {"answer": annotation}, **options)


def groups_of(tally: Tally) -> list[str]:
    return ["".join(candidate.voters) for candidate in tally.candidates]


def test_a_count() -> None:
    ballots = [
        Ballot("a", {"answer": "Lyon"}),
        Ballot("b", {"answer": "PARIS"}),
        Ballot("c", {"answer": "Paris"}, 2.0),
        Ballot("d", {"answer": REFUSAL}),
        Ballot("e", {}),
    ]
    tally = count(ballots, {"answer": str})
    assert [(c.voters, c.weight, c.values, c.representative, c.heaviest) for c in tally.candidates] == [
        (("b", "c"), 3.0, {"answer": "Paris"}, "c", 2.0),
        (("a",), 1.0, {"answer": "Lyon"}, "a", 1.0),
    ]
    assert (tally.abstained, tally.weight, tally.agreement) == (("d", "e"), 6.0, 0.5)
    assert tally.winner is tally.candidates[0]
    assert tally.tied == (tally.winner,)


@pytest.mark.parametrize(
    ("values", "weights", "spelling"),
    [
        (["bxc3", "Bxc3", "Bxc3"], {}, "b"),
        (["paris", "Paris", "PARIS"], {}, "a"),
        (["bxc3", "Bxc3", "Bxc3"], {"a": 3.0}, "a"),
        (["x", "X", "X"], {"a": 2.0}, "a"),
        (["x", "X", "X"], {"a": 0.0, "b": 0.0, "c": 0.5}, "c"),
        ([0.3, 0.1 + 0.2, 0.1 + 0.2], {}, "b"),
    ],
)
def test_the_most_frequent_spelling_speaks_for_its_group(
    values: list[Any], weights: dict[str, float], spelling: str
) -> None:
    [candidate] = tally_of(values, weights=weights).candidates
    assert candidate.representative == spelling


@pytest.mark.parametrize(
    ("values", "weights"), [([], {}), ([None, "", NAN], {}), (["x", "y"], {"a": 0.0, "b": 0.0}), ([None], {"a": 0.0})]
)
def test_without_a_weighted_vote_there_is_no_winner(values: list[object], weights: dict[str, float]) -> None:
    tally = tally_of(values, weights=weights)
    assert (tally.winner, tally.tied, tally.agreement) == (None, (), 0.0)
    assert not tally.is_decided(0.0)


def test_half_of_all_weight_is_no_majority() -> None:
    assert tally_of(["x", "x", "y", None]).agreement == 0.5
    assert tally_of(["x", "x", "y", "y"], weights={"a": 0.1, "b": 0.2, "c": 0.15, "d": 0.15}).agreement == 0.5


def test_weights_that_differ_by_rounding_tie() -> None:
    tally = tally_of(["x", "y", "x"], weights={"a": 0.2, "b": 0.3, "c": 0.1})
    assert groups_of(tally) == ["b", "ac"]
    three = [f"{i}" for i in range(3)]
    assert len(tally_of(three, weights={"a": 0.3, "b": 0.1 + 0.2, "c": 0.3}).tied) == 3


def test_a_ballot_without_weight_unites_no_others() -> None:
    assert groups_of(tally_of([1.0, 1.0000018, 1.0000009], float, {"c": 0.0})) == ["ac", "b"]
    assert groups_of(tally_of([1.0, 1.0000009], float, {"a": 0.0, "b": 0.0})) == ["ab"]
    assert groups_of(tally_of(["x", "y", "z"], str, {"c": 0.0}, groups=["ac", "cb"])) == ["a", "b", "c"]


def test_a_ballot_without_weight_does_not_count_as_the_first_declared() -> None:
    assert groups_of(tally_of(["x", "y", "x"], str, {"a": 0.0})) == ["b", "ac"]


def test_groups_unite_what_a_model_finds_alike() -> None:
    tally = tally_of(["NYC", "Boston", "New York", None, "nyc"], str, groups=[["c", "a", "d"]])
    assert (groups_of(tally), tally.abstained) == (["ace", "b"], ("d",))


def test_decided_is_strict() -> None:
    tally = tally_of([1, 1, 1, 2], int)
    assert [tally.is_decided(weight) for weight in (0.0, 1.9, 2.0, float("inf"))] == [True, True, False, False]
    assert not tally_of([1, 2], int).is_decided(0.0)
    assert tally_of([1, 1, 1, 2, 3], int).is_decided(1.0)


def test_where_candidates_may_merge_the_others_count_together() -> None:
    assert not tally_of(["x", "x", "x", "y", "z"], str).is_decided(1.0)
    assert tally_of(["x", "x", "x", "x", "y", "z"], str).is_decided(1.0)
    assert not tally_of([1.0, 1.0, 1.0, 2.0, 3.0], float).is_decided(1.0)
    assert tally_of([1.0, 1.0, 1.0, 2.0, 3.0], float, tolerance=0.0).is_decided(1.0)


ABSTENTIONS = [None, "", " \n", NAN, "I'm sorry, but I can't help with that."]
NEAR = [1.0, 1.0000009, 1.0000018, Decimal("1.0000027"), 1, 2.0, 0.0, 5e-7]
VOTES = [*NEAR, 2, True, "Paris", "paris ", "the Paris", "-1", "1", [1.0, "x"], [1.0000009, "X"], {"a": 1.0}, {}, []]

weights = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0])


@st.composite
def elections(draw: st.DrawFn, values: Sequence[object] = (*VOTES, *ABSTENTIONS), size: int = 7) -> list[Ballot]:
    cast = draw(st.lists(st.tuples(st.sampled_from(values), weights), max_size=size))
    return [Ballot(f"voter {i}", {"answer": value}, weight) for i, (value, weight) in enumerate(cast)]


def counted(ballots: Sequence[Ballot], annotation: Any = Any) -> Tally:
    return count(ballots, {"answer": annotation})


def partition(tally: Tally) -> dict[frozenset[str], float]:
    return {frozenset(candidate.voters): candidate.weight for candidate in tally.candidates}


@given(st.data(), elections())
def test_the_order_of_the_ballots_changes_neither_groups_nor_weights_nor_winner(
    data: st.DataObject, ballots: list[Ballot]
) -> None:
    tally, other = counted(ballots), counted(data.draw(st.permutations(ballots)))
    assert partition(other) == partition(tally)
    assert (set(other.abstained), other.weight) == (set(tally.abstained), tally.weight)
    if tally.winner and len(tally.tied) == 1:
        assert other.winner and set(other.winner.voters) == set(tally.winner.voters)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_ballots_without_weight_are_grouped_in_any_order_alike(order: tuple[int, ...]) -> None:
    ballots = [Ballot(f"voter {i}", {"answer": 1.0 + i * 9e-7}, 0.0) for i in range(3)]
    bridged = [Ballot("low", {"answer": 1.0}), Ballot("high", {"answer": 1.0 + 18e-7})]
    assert partition(counted([ballots[i] for i in order])) == {frozenset({"voter 0", "voter 1", "voter 2"}): 0.0}
    between = [*bridged, ballots[1]]
    found = partition(counted([between[i] for i in order]))
    assert found == {frozenset({"low", "voter 1"}): 1.0, frozenset({"high"}): 1.0}


@given(elections())
def test_the_winner_is_a_ballot_that_was_cast_and_no_abstention(ballots: list[Ballot]) -> None:
    tally = counted(ballots)
    abstained = {ballot.voter for ballot in ballots if normalise(ballot.values["answer"]) is ABSTAIN}
    assert set(tally.abstained) == abstained
    for candidate in tally.candidates:
        cast = [ballot for ballot in ballots if ballot.voter in candidate.voters]
        [chosen] = [ballot for ballot in cast if ballot.voter == candidate.representative]
        assert candidate.values is chosen.values
        assert candidate.heaviest == max(ballot.weight for ballot in cast)
        assert candidate.voters == tuple(ballot.voter for ballot in cast)
        assert not abstained & set(candidate.voters)


@given(elections(), st.sampled_from([*VOTES, *ABSTENTIONS]), st.integers(0, 7))
def test_a_voter_without_weight_changes_no_place(ballots: list[Ballot], value: object, place: int) -> None:
    ghost = Ballot("ghost", {"answer": value}, 0.0)
    before = [c for c in counted(ballots).candidates if c.weight]
    after = [c for c in counted([*ballots[:place], ghost, *ballots[place:]]).candidates if c.weight]
    assert [set(c.voters) - {"ghost"} for c in after] == [set(c.voters) - {"ghost"} for c in before]
    assert [(c.weight, c.values) for c in after] == [(c.weight, c.values) for c in before]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=8))
def test_places_follow_weight_then_heaviest_supporter_then_declared_order(cast: list[tuple[int, int]]) -> None:
    tally = counted([Ballot(f"{i}", {"answer": n}, w) for i, (n, w) in enumerate(cast)], int)

    def key(n: int) -> tuple[int, int]:
        own = [w for m, w in cast if m == n]
        return -sum(own), -max(own)

    expected = sorted(dict(cast), key=key)  # a stable sort of a dict in order of first appearance
    assert [c.values["answer"] for c in tally.candidates] == expected
    assert [c.values["answer"] for c in tally.tied] == [n for n in expected if key(n) == key(expected[0])]


@settings(max_examples=200, deadline=None)  # a lead that is decided is rare
@given(st.data(), st.sampled_from([(int, [1, 2, 3, None]), (float, [1.0, 1.0000009, 1.0000018, 1.0000027, None])]))
def test_decided_holds_however_the_outstanding_ballots_are_cast(
    data: st.DataObject, case: tuple[type, list[object]]
) -> None:
    annotation, values = case
    ballots = data.draw(elections(values, 6))
    outstanding = data.draw(st.lists(weights, max_size=3))
    tally = counted(ballots, annotation)
    if not tally.is_decided(sum(outstanding)):
        return
    assert tally.winner
    weighty = {ballot.voter for ballot in ballots if ballot.weight}
    for cast in product(values, repeat=len(outstanding)):
        late = [Ballot(f"late {i}", {"answer": v}, w) for i, (v, w) in enumerate(zip(cast, outstanding, strict=True))]
        final = counted([*late, *ballots], annotation)
        assert final.winner and set(tally.winner.voters) & weighty <= set(final.winner.voters)
        assert len(final.tied) == 1
