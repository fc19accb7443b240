import copy
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from typing import Annotated, Any, Literal, NamedTuple, NewType, TypedDict, TypeVar
from uuid import UUID

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from moa_dspy.ballots import ABSTAIN, Ballot, Tally, canonical, count, decided, equivalent, fields_to_vote_on, free_text
from moa_dspy.canonical import approximate, fold

NAN = float("nan")
REFUSAL = "I'm sorry, but I can't help with that."


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Grade(str, Enum):
    GOOD = "good"


class Level(IntEnum):
    ONE = 1


class Person(BaseModel):
    name: str
    age: float | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class Node(BaseModel):
    value: int
    children: list["Node"] = []


class Picky(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def explode(cls, n: int) -> int:
        raise KeyError(n)


@dataclass
class Point:
    x: float
    label: str = "here"
    note: str = field(default="", compare=False)


class Pair(NamedTuple):
    a: int
    b: int


class Row(TypedDict):
    title: str


class Strange:
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Strange()"


UserId = NewType("UserId", int)
T = TypeVar("T")
Text = TypeVar("Text", bound=str)


def same(a: object, b: object, annotation: Any = Any) -> bool:
    return equivalent(canonical(a, annotation), canonical(b, annotation))


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


@pytest.mark.parametrize(
    ("a", "b", "annotation"),
    [
        ("  Paris\n", "PARIS", str),
        ("Straße", "STRASSE", str),
        ("caf\u00e9", "cafe\u0301", str),
        ("a\u00a0 b", "a b", str),
        (True, "true", bool),
        ("A", "a", Literal["A", "B"]),
        (Color.RED, "red", Color),
        (1, 1.0, Any),
        (1.0, Decimal("1.0"), Any),
        (7, "7", int),
        (7, 7.0, int),
        (True, 1, int),
        (5, "5", str),
        (0.0, -0.0, float),
        (0.3, 0.1 + 0.2, float),
        (0.0, 1e-7, float),
        (Decimal(0), Decimal("1e-7"), Decimal),
        (float("inf"), "inf", float),
        (Decimal("2.50"), "2.5", Decimal),
        (Decimal("0.1"), 0.1, Any),
        (Decimal("1e400"), Decimal("1.0000001e400"), Decimal),
        (Fraction(1, 3), 1 / 3, Any),
        (date(2024, 5, 1), "2024-05-01", date),
        (
            datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
            datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
            datetime,
        ),
        (time(9, 30), "09:30", time),
        (timedelta(minutes=1), timedelta(seconds=60), timedelta),
        (UUID(int=1), str(UUID(int=1)), UUID),
        (b"x", "x", bytes),
        ([1, "A b"], [1.0, "a  B"], Any),
        ([1, 2], (1, 2), Any),
        (["1"], [1], list[int]),
        (Pair(1, 2), (1, 2), Any),
        ({3, 1, 2}, frozenset({1, 2, 3}), Any),
        ([3, 1, 2], [1, 2, 3], set[int]),
        ({1.0, 2.0}, {2.0, 1.0000001}, set[float]),
        ({"a": 1, "b": [None]}, {"b": [""], "A": 1}, Any),
        ({"x": 1.0}, {"x": 1.0000001}, dict[str, float]),
        (Person(name="Ada", age=36), {"name": "ADA", "age": 36.0000001}, Person),
        (Open.model_validate({"p": "X", "q": 1}), Open.model_validate({"q": 1, "p": "x"}), Open),
        (Point(1.0, note="one"), Point(1.0000001, note="two"), Point),
        (None, float("nan"), float | None),
        ("3", 3, int | None),
        (np.float64(1.5), 1.5, Any),
        (np.array([1, 2]), [1, 2], Any),
        (np.int64(3), 3, int),
        (Strange(), Strange(), Any),
    ],
)
def test_alike(a: object, b: object, annotation: Any) -> None:
    assert same(a, b, annotation)
    assert same(b, a, annotation)


@pytest.mark.parametrize(
    ("a", "b", "annotation"),
    [
        ("-5", "5", str),
        ("1/2", "12", str),
        ("x>=2", "x<=2", str),
        ("the end", "end", str),
        ("yes.", "yes", str),
        ("a b", "ab", str),
        (True, 1, Any),
        ("1", 1, Any),
        ("", "x", str),
        (1_000_000, 1_000_001, int),
        (1.0, 1.00001, float),
        (6.63e-34, 1.05e-34, float),
        (float("inf"), float("-inf"), float),
        (Decimal("inf"), 10**400, Any),
        (Decimal("1e400"), Decimal("2e400"), Decimal),
        ("m", "M", Literal["m", "M"]),
        (Level.ONE, 1, Any),
        (Color.RED, "Red", Color),
        (datetime(2024, 5, 1), datetime(2024, 5, 1, tzinfo=timezone.utc), datetime),
        (date(2024, 5, 1), datetime(2024, 5, 1), Any),
        ([1, 2], [2, 1], list[int]),
        ([1], [1, 1], list[int]),
        ([], None, Any),
        ([], {}, Any),
        ({1.0, 2.0}, {1.0, 3.0}, set[float]),
        ({1.0}, {1.0000001, 2.0}, set[float]),
        ({"a": 1}, {"a": 2}, Any),
        (Person(name="Ada"), Point(1.0), Any),
        (Open.model_validate({"p": 1}), Open.model_validate({"p": 2}), Open),
        (Point(1.0, "a"), Point(1.0, "b"), Point),
        (5, 5.5, int),
        ("five", 5, int),
    ],
)
def test_not_alike(a: object, b: object, annotation: Any) -> None:
    assert not same(a, b, annotation)
    assert not same(b, a, annotation)


@pytest.mark.parametrize(
    "value",
    [
        None,
        NAN,
        Decimal("nan"),
        Decimal("sNaN"),
        np.float64("nan"),
        "",
        " \n\t",
        REFUSAL,
        "I\u2019m sorry, but I cannot assist with that request.",
        "Sorry, I can't help you with this.",
        "I apologize, but I am unable to provide that.",
        "Unfortunately, I'm not able to answer.",
        "I cannot help with that.",
        "I can't help.",
        "As an AI language model, I have no opinion.",
    ],
)
def test_abstains(value: object) -> None:
    assert canonical(value, Any) is ABSTAIN


@pytest.mark.parametrize(
    "value",
    [
        "I",
        "A",
        "None",
        "Sorry by Justin Bieber",
        "I'm sorry",
        "I'm sorry, but I can't attend.",
        "I can't help falling in love",
        "I Can't Help Myself",
        "As an AI researcher, Turing asked this.",
        "He said: I cannot help you.",
        0,
        False,
        [],
        {},
        set(),
        [None],
        [REFUSAL],
        float("inf"),
    ],
)
def test_votes(value: object) -> None:
    assert canonical(value, Any) is not ABSTAIN


def test_a_declared_label_never_abstains() -> None:
    labels = Literal["", "I cannot help you.", "yes"]
    assert canonical("", labels) is not ABSTAIN
    assert canonical("I cannot help you.", labels) is not ABSTAIN
    assert canonical(REFUSAL, labels) is ABSTAIN


def test_what_cannot_be_read_as_declared_is_compared_by_its_own_type() -> None:
    assert same("Five", "five", int)
    assert same({"n": 1}, {"n": 1}, Picky)
    assert same(1, 1.0, "a name that is not resolved")
    assert same(1, 1.0, Annotated[Any, ["metadata that cannot be hashed"]])


def test_an_instant_outside_of_the_calendar_is_compared_as_it_is() -> None:
    edge = datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))
    assert same(edge, edge, datetime)


def test_zero_tolerance_asks_for_equal_numbers() -> None:
    assert not equivalent(canonical(0.3), canonical(0.1 + 0.2), tolerance=0)
    assert equivalent(canonical(1), canonical(Decimal("1.0")), tolerance=0)


def test_abstain_is_one_value_with_a_name() -> None:
    assert repr(ABSTAIN) == "ABSTAIN"
    assert pickle.loads(pickle.dumps(ABSTAIN)) is copy.deepcopy(ABSTAIN) is ABSTAIN


def test_folding_takes_case_and_space_only() -> None:
    assert fold("  The\tÉND,\n -5 ≠ ½ ") == "the énd, -5 ≠ ½"


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (str, True),
        (Any, True),
        (object, True),
        (list, True),
        (list[str], True),
        (dict[str, int], True),
        (str | None, True),
        (Annotated[str, Field(max_length=3)], True),
        (Person, True),
        (Point, True),
        (Row, True),
        (T, True),
        (Text, True),
        ("Unresolved", True),
        (int, False),
        (bool, False),
        (None, False),
        (Literal["a", "b"], False),
        (Color, False),
        (Grade, False),
        (list[Literal["a"]], False),
        (tuple[int, ...], False),
        (dict[int, list[date]], False),
        (Node, False),
        (Pair, False),
        (UserId, False),
        (bytes, False),
    ],
)
def test_free_text(annotation: Any, expected: bool) -> None:
    assert free_text(annotation) is expected


def test_approximate_types() -> None:
    assert [approximate(kind) for kind in (float, list[Decimal], Person, Any)] == [True] * 4
    assert [approximate(kind) for kind in (int, str, list[int], Color, Literal[1])] == [False] * 5


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


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"answer": str}, ("answer",)),
        ({"label": Literal["a", "b"], "explanation": str}, ("label",)),
        ({"title": str, "summary": list[str]}, ("title", "summary")),
        ({"n": int, "day": date}, ("n", "day")),
        ({"answer": str, "confidence": float}, ("answer",)),
        ({"label": bool, "label_confidence_score": float}, ("label",)),
        ({"confidence": float}, ("confidence",)),
        ({"confidence_interval": tuple[float, float]}, ("confidence_interval",)),
        ({}, ()),
    ],
)
def test_fields_to_vote_on(outputs: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert fields_to_vote_on(outputs) == expected


def test_exact_text_takes_every_letter_and_lets_no_text_abstain() -> None:
    values = {"a": "Ab", "b": "ab", "c": "", "d": "", "e": "I'm sorry, but I can't help with that."}
    ballots = [Ballot(voter, {"answer": value}) for voter, value in values.items()]
    tally = count(ballots, {"answer": str}, exact_text=True)
    assert [candidate.voters for candidate in tally.candidates] == [("c", "d"), ("a",), ("b",), ("e",)]
    assert tally.abstained == ()
