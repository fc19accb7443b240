import copy
from collections.abc import Mapping, Sequence
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa_dspy.strategies.counting import Ballot, Tally, count, decided
from moa_dspy.strategies.equality import ABSTAIN, normalise

NAN = float("nan")
REFUSAL = "I'm sorry, but I can't help with that."


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


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        pytest.param(["A", "A", "A", "B"], "A", id="a label that is an article"),
        pytest.param(["-5", "5", "5"], "5", id="signs in text"),
        pytest.param(["1/2", "12", "12"], "12", id="operators in text"),
        pytest.param([False, True, True], True, id="bools"),
        pytest.param([-5, 5, 5], 5, id="ints"),
        pytest.param([["a"], ["a", "b"], ["a", "b"]], ["a", "b"], id="lists"),
        pytest.param([{"n": 1}, {"n": 2}, {"n": 2}], {"n": 2}, id="dicts"),
    ],
)
def test_what_dspy_majority_gets_wrong(votes: list[object], winner: object) -> None:
    leading = tally_of(votes, type(winner)).winner
    assert leading is not None
    assert leading.values == {"answer": winner}


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
    assert (tally.abstained, tally.cast, tally.weight, tally.agreement) == (("d", "e"), 5, 6.0, 0.5)
    assert tally.majority is None
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


def test_only_the_annotated_fields_are_compared_and_the_values_are_the_ballots_own() -> None:
    values = {"label": True, "why": "because"}
    tally = count([Ballot("a", values), Ballot("b", {"label": True, "why": "so"})], {"label": bool})
    assert groups_of(tally) == ["ab"]
    assert tally.candidates[0].values is values


def test_a_ballot_abstains_when_all_its_fields_do() -> None:
    ballots = [Ballot("a", {"x": None, "y": 1}), Ballot("b", {"x": None, "y": None}), Ballot("c", {"y": 1})]
    tally = count(ballots, {"x": str, "y": int})
    assert (groups_of(tally), tally.abstained) == (["ac"], ("b",))


@pytest.mark.parametrize(
    ("values", "weights"), [([], {}), ([None, "", NAN], {}), (["x", "y"], {"a": 0.0, "b": 0.0}), ([None], {"a": 0.0})]
)
def test_without_a_weighted_vote_there_is_no_winner(values: list[object], weights: dict[str, float]) -> None:
    tally = tally_of(values, weights=weights)
    assert (tally.winner, tally.majority, tally.tied, tally.agreement) == (None, None, (), 0.0)
    assert not decided(tally, 0.0)


def test_a_majority_is_more_than_half_of_all_weight() -> None:
    assert tally_of(["x", "x", "y", None]).majority is None
    assert tally_of(["x", "x", "y"]).majority is not None
    assert tally_of(["x", "x", "y", "y"], weights={"a": 0.1, "b": 0.2, "c": 0.15, "d": 0.15}).majority is None


def test_ties_go_to_the_heaviest_supporter_then_to_declared_order() -> None:
    tally = tally_of(["x", "x", "y", "z"], weights={"c": 2.0})
    assert (groups_of(tally), len(tally.tied)) == (["c", "ab", "d"], 1)
    tally = tally_of(["y", "x", "z", "z"], weights={"c": 0.4, "d": 0.6})
    assert (groups_of(tally), tally.tied) == (["a", "b", "cd"], tally.candidates[:2])


def test_weights_that_differ_by_rounding_tie() -> None:
    tally = tally_of(["x", "y", "x"], weights={"a": 0.2, "b": 0.3, "c": 0.1})
    assert groups_of(tally) == ["b", "ac"]
    three = [f"{i}" for i in range(3)]
    assert len(tally_of(three, weights={"a": 0.3, "b": 0.1 + 0.2, "c": 0.3}).tied) == 3


def test_near_numbers_are_linked_in_chains() -> None:
    chain = [1.0, 1.0000018, 2.0, 1.0000009]
    assert groups_of(tally_of(chain, float)) == ["abd", "c"]
    assert groups_of(tally_of(chain, float, tolerance=0.0)) == ["a", "b", "c", "d"]


def test_a_ballot_without_weight_unites_no_others() -> None:
    chain = [1.0, 1.0000018, 1.0000009]
    assert groups_of(tally_of(chain, float, {"c": 0.0})) == ["a", "b", "c"]
    assert groups_of(tally_of([1.0, 2.0, 1.0000009], float, {"c": 0.0})) == ["ac", "b"]
    assert groups_of(tally_of([1.0, 1.0000009], float, {"a": 0.0, "b": 0.0})) == ["ab"]
    assert groups_of(tally_of([1.0, 1.0000016, 1.0000008], float, {"b": 0.0, "c": 0.0})) == ["ac", "b"]
    assert groups_of(tally_of(["x", "y", "z"], str, {"c": 0.0}, groups=["ac", "cb"])) == ["a", "b", "c"]


def test_a_ballot_without_weight_does_not_count_as_the_first_declared() -> None:
    assert groups_of(tally_of(["x", "y", "x"], str, {"a": 0.0})) == ["b", "ac"]


def test_groups_unite_what_a_model_finds_alike() -> None:
    tally = tally_of(["NYC", "Boston", "New York", None, "nyc"], str, groups=[["c", "a", "d"]])
    assert (groups_of(tally), tally.abstained) == (["ace", "b"], ("d",))


def test_decided_is_strict() -> None:
    tally = tally_of([1, 1, 1, 2], int)
    assert [decided(tally, weight) for weight in (0.0, 1.9, 2.0, float("inf"))] == [True, True, False, False]
    assert not decided(tally_of([1, 2], int), 0.0)
    assert decided(tally_of([1, 1, 1, 2, 3], int), 1.0)


def test_where_candidates_may_merge_the_others_count_together() -> None:
    assert not decided(tally_of(["x", "x", "x", "y", "z"], str), 1.0)
    assert decided(tally_of(["x", "x", "x", "x", "y", "z"], str), 1.0)
    assert not decided(tally_of([1.0, 1.0, 1.0, 2.0, 3.0], float), 1.0)
    assert decided(tally_of([1.0, 1.0, 1.0, 2.0, 3.0], float, tolerance=0.0), 1.0)


@pytest.mark.parametrize("weight", [-1.0, NAN, float("inf")])
def test_a_weight_that_is_no_weight_names_the_voter(weight: float) -> None:
    with pytest.raises(ValueError, match="weight of 'b'"):
        count([Ballot("a", {}), Ballot("b", {}, weight)], {})


def test_other_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="'a' has two ballots"):
        count([Ballot("a", {}), Ballot("a", {})], {})
    with pytest.raises(ValueError, match="'z'"):
        tally_of(["x"], groups=[["a", "z"]])
    with pytest.raises(ValueError, match="tolerance"):
        tally_of([1.0], tolerance=NAN)
    with pytest.raises(ValueError, match="outstanding_weight"):
        decided(tally_of([1]), -1.0)


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


@given(elections(), weights)
def test_one_more_abstention_lowers_agreement_by_its_weight(ballots: list[Ballot], weight: float) -> None:
    before = counted(ballots)
    after = counted([*ballots, Ballot("silent", {"answer": None}, weight)])
    assert (after.candidates, after.cast) == (before.candidates, before.cast + 1)
    if before.winner:
        assert after.agreement == pytest.approx(before.winner.weight / (before.weight + weight))


@given(elections())
def test_doubling_all_weights_changes_no_place(ballots: list[Ballot]) -> None:
    before = counted(ballots)
    after = counted([Ballot(ballot.voter, ballot.values, 2 * ballot.weight) for ballot in ballots])
    assert [c.voters for c in after.candidates] == [c.voters for c in before.candidates]
    assert (after.agreement, len(after.tied)) == (before.agreement, len(before.tied))


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


@settings(max_examples=400, deadline=None)  # a lead that is decided is rare
@given(st.data(), st.sampled_from([(int, [1, 2, 3, None]), (float, [1.0, 1.0000009, 1.0000018, 1.0000027, None])]))
def test_decided_holds_however_the_outstanding_ballots_are_cast(
    data: st.DataObject, case: tuple[type, list[object]]
) -> None:
    annotation, values = case
    ballots = data.draw(elections(values, 6))
    outstanding = data.draw(st.lists(weights, max_size=3))
    tally = counted(ballots, annotation)
    if not decided(tally, sum(outstanding)):
        return
    assert tally.winner
    weighty = {ballot.voter for ballot in ballots if ballot.weight}
    for cast in product(values, repeat=len(outstanding)):
        late = [Ballot(f"late {i}", {"answer": v}, w) for i, (v, w) in enumerate(zip(cast, outstanding, strict=True))]
        final = counted([*late, *ballots], annotation)
        assert final.winner and set(tally.winner.voters) & weighty <= set(final.winner.voters)
        assert len(final.tied) == 1


@given(elections(["x", "y", "z", "w", None]), st.lists(weights, max_size=3))
def test_decided_holds_whatever_a_model_unites(ballots: list[Ballot], outstanding: list[float]) -> None:
    tally = counted(ballots, str)
    if tally.winner and decided(tally, sum(outstanding)):
        late = [Ballot(f"late {i}", {"answer": f"late {i}"}, w) for i, w in enumerate(outstanding)]
        everyone = [*ballots, *late]
        others = {ballot.voter for ballot in everyone} - set(tally.winner.voters)
        final = count(everyone, {"answer": str}, groups=[others])
        assert final.winner and final.winner.voters == tally.winner.voters


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_like, max_size=5))
def test_any_json_like_value_can_be_counted_and_goes_with_its_repetition(values: list[object]) -> None:
    once = [Ballot(f"{i} once", {"answer": value}) for i, value in enumerate(values)]
    again = [Ballot(f"{i} again", {"answer": copy.deepcopy(value)}) for i, value in enumerate(values)]
    tally = counted([*once, *again])
    together = [*(candidate.voters for candidate in tally.candidates), tally.abstained]
    assert sum(len(voters) for voters in together) == 2 * len(values)
    for voters in together:
        assert sorted(voter.split()[0] for voter in voters)[::2] == sorted(v.split()[0] for v in voters)[1::2]
