import copy
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa_dspy.ballots import ABSTAIN, Ballot, Tally, canonical, count, decided

NAN = float("nan")
ABSTENTIONS = [None, "", " \n", NAN, "I'm sorry, but I can't help with that."]
NEAR = [1.0, 1.0000009, 1.0000018, Decimal("1.0000027"), 1, 2.0, 0.0, 5e-7]
VOTES = [*NEAR, 2, True, "Paris", "paris ", "the Paris", "-1", "1", [1.0, "x"], [1.0000009, "X"], {"a": 1.0}, {}, []]

weights = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0])
formula = st.text(alphabet="aAtTheE \t\n+-*/<>=.,()0'éß\u0301", max_size=8)


@st.composite
def elections(draw: st.DrawFn, values: Sequence[object] = (*VOTES, *ABSTENTIONS), size: int = 7) -> list[Ballot]:
    cast = draw(st.lists(st.tuples(st.sampled_from(values), weights), max_size=size))
    return [Ballot(f"voter {i}", {"answer": value}, weight) for i, (value, weight) in enumerate(cast)]


def tally_of(ballots: Sequence[Ballot], annotation: Any = Any) -> Tally:
    return count(ballots, {"answer": annotation})


def partition(tally: Tally) -> dict[frozenset[str], float]:
    return {frozenset(candidate.voters): candidate.weight for candidate in tally.candidates}


def same_ballot(a: str, b: str) -> bool:
    return canonical(a, str) == canonical(b, str)


def reference(text: str) -> str:
    folded = unicodedata.normalize("NFC", text).casefold()
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", folded)).strip(" ")


@given(st.data(), elections())
def test_the_order_of_the_ballots_changes_neither_groups_nor_weights_nor_winner(
    data: st.DataObject, ballots: list[Ballot]
) -> None:
    tally, other = tally_of(ballots), tally_of(data.draw(st.permutations(ballots)))
    assert partition(other) == partition(tally)
    assert (set(other.abstained), other.weight) == (set(tally.abstained), tally.weight)
    if tally.winner and len(tally.tied) == 1:
        assert other.winner and set(other.winner.voters) == set(tally.winner.voters)


@given(elections())
def test_the_winner_is_a_ballot_that_was_cast_and_no_abstention(ballots: list[Ballot]) -> None:
    tally = tally_of(ballots)
    abstained = {ballot.voter for ballot in ballots if canonical(ballot.values["answer"]) is ABSTAIN}
    assert set(tally.abstained) == abstained
    for candidate in tally.candidates:
        cast = [ballot for ballot in ballots if ballot.voter in candidate.voters]
        heaviest = max(ballot.weight for ballot in cast)
        chosen = next(ballot for ballot in cast if ballot.weight == heaviest)
        assert candidate.values is chosen.values
        assert (candidate.representative, candidate.heaviest) == (chosen.voter, heaviest)
        assert candidate.voters == tuple(ballot.voter for ballot in cast)
        assert not abstained & set(candidate.voters)


@given(elections(), weights)
def test_one_more_abstention_lowers_agreement_by_its_weight(ballots: list[Ballot], weight: float) -> None:
    before = tally_of(ballots)
    after = tally_of([*ballots, Ballot("silent", {"answer": None}, weight)])
    assert (after.candidates, after.cast) == (before.candidates, before.cast + 1)
    if before.winner:
        assert after.agreement == pytest.approx(before.winner.weight / (before.weight + weight))


@given(elections())
def test_doubling_all_weights_changes_no_place(ballots: list[Ballot]) -> None:
    before = tally_of(ballots)
    after = tally_of([Ballot(ballot.voter, ballot.values, 2 * ballot.weight) for ballot in ballots])
    assert [c.voters for c in after.candidates] == [c.voters for c in before.candidates]
    assert (after.agreement, len(after.tied)) == (before.agreement, len(before.tied))


@given(elections(), st.sampled_from([*VOTES, *ABSTENTIONS]), st.integers(0, 7))
def test_a_voter_without_weight_changes_no_place(ballots: list[Ballot], value: object, place: int) -> None:
    ghost = Ballot("ghost", {"answer": value}, 0.0)
    before = [c for c in tally_of(ballots).candidates if c.weight]
    after = [c for c in tally_of([*ballots[:place], ghost, *ballots[place:]]).candidates if c.weight]
    assert [set(c.voters) - {"ghost"} for c in after] == [set(c.voters) - {"ghost"} for c in before]
    assert [(c.weight, c.values) for c in after] == [(c.weight, c.values) for c in before]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), max_size=8))
def test_places_follow_weight_then_heaviest_supporter_then_declared_order(cast: list[tuple[int, int]]) -> None:
    tally = tally_of([Ballot(f"{i}", {"answer": n}, w) for i, (n, w) in enumerate(cast)], int)

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
    tally = tally_of(ballots, annotation)
    if not decided(tally, sum(outstanding)):
        return
    assert tally.winner
    weighty = {ballot.voter for ballot in ballots if ballot.weight}
    for cast in product(values, repeat=len(outstanding)):
        late = [Ballot(f"late {i}", {"answer": v}, w) for i, (v, w) in enumerate(zip(cast, outstanding, strict=True))]
        final = tally_of([*late, *ballots], annotation)
        assert final.winner and set(tally.winner.voters) & weighty <= set(final.winner.voters)
        assert len(final.tied) == 1


@given(elections(["x", "y", "z", "w", None]), st.lists(weights, max_size=3))
def test_decided_holds_whatever_a_model_unites(ballots: list[Ballot], outstanding: list[float]) -> None:
    tally = tally_of(ballots, str)
    if tally.winner and decided(tally, sum(outstanding)):
        late = [Ballot(f"late {i}", {"answer": f"late {i}"}, w) for i, w in enumerate(outstanding)]
        everyone = [*ballots, *late]
        others = {ballot.voter for ballot in everyone} - set(tally.winner.voters)
        final = count(everyone, {"answer": str}, groups=[others])
        assert final.winner and final.winner.voters == tally.winner.voters


@given(formula, formula)
def test_texts_are_one_ballot_exactly_when_they_fold_to_one_text(a: str, b: str) -> None:
    for x, y in [(a, b), (a, a.upper()), (a, f" {a}\n"), (a, unicodedata.normalize("NFD", a)), (a, a.replace(" ", ""))]:
        assert same_ballot(x, y) == (reference(x) == reference(y))


@given(formula, st.integers(0, 8), st.sampled_from("+-*/<>=.,()'"))
def test_no_sign_or_operator_vanishes(text: str, place: int, sign: str) -> None:
    assert not same_ballot(text, text[:place] + sign + text[place:])


@given(st.lists(st.sampled_from(["a", "an", "the", "end", "x"]), max_size=5), st.integers(0, 5))
def test_no_article_vanishes(words: list[str], place: int) -> None:
    for article in ("a", "an", "The"):
        assert not same_ballot(" ".join(words), " ".join([*words[:place], article, *words[place:]]))


@given(
    st.text()
    | st.text(alphabet="aI\u0130\u0131\u00df\u017f\u03a3\u03c3\u03c2\u0390\u0301\u0345\u0323\u0307\u01f0\u0149 \t")
)
def test_canonical_text_is_its_own_canonical_form(text: str) -> None:
    form = canonical(text, str)
    assert form is ABSTAIN or canonical(form, str) == form


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(json_like, max_size=5))
def test_any_json_like_value_can_be_counted_and_goes_with_its_repetition(values: list[object]) -> None:
    once = [Ballot(f"{i} once", {"answer": value}) for i, value in enumerate(values)]
    again = [Ballot(f"{i} again", {"answer": copy.deepcopy(value)}) for i, value in enumerate(values)]
    tally = tally_of([*once, *again])
    together = [*(candidate.voters for candidate in tally.candidates), tally.abstained]
    assert sum(len(voters) for voters in together) == 2 * len(values)
    for voters in together:
        assert sorted(voter.split()[0] for voter in voters)[::2] == sorted(v.split()[0] for v in voters)[1::2]
