import re
import unicodedata
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

import dspy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from moa_dspy.strategies.equality import ABSTAIN, cluster, fold, normalise, same

NAN = float("nan")
REFUSAL = "I'm sorry, but I can't help with that."
PATTERN = Annotated[str, Field(pattern="^[A-Za-z]+$")]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    ONE = 1


class Person(BaseModel):
    name: str
    age: float | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")


@dataclass
class Point:
    x: float
    label: str = "here"
    note: str = field(default="", compare=False)


class Strange:
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return "Strange()"


class Label(BaseModel):
    label: str
    confidence: float = 0.5
    reasoning: str = ""


class Airport(BaseModel):
    code: PATTERN


def tool_call(id: str, n: int) -> dspy.ToolCalls:
    return dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(id=id, name="f", args={"n": n})])


def is_same(a: object, b: object, annotation: Any = Any) -> bool:
    return same(normalise(a, annotation), normalise(b, annotation))


@pytest.mark.parametrize(
    ("a", "b", "annotation"),
    [
        ("  Paris\n", "PARIS", str),
        ("4\ufe0f2\u200b\u00ad\ufeff", "\u206042", str),
        (Label(label="spam", confidence=0.9, reasoning="x"), Label(label="SPAM"), Label),
        ([{"label": "spam", "confidence": 0.1}], [{"label": "spam", "confidence": 0.9}], Any),
        (dspy.Code(code="x = 1"), dspy.Code(code="x = 1"), dspy.Code),
        (tool_call("1", 5), tool_call("2", 5), dspy.ToolCalls),
        ("Straße", "STRASSE", str),
        ("A", "a", Literal["A", "B"]),
        (Color.RED, "red", Color),
        (1, 1.0, Any),
        (7, "7", int),
        (True, 1, int),
        (5, "5", str),
        (0.3, 0.1 + 0.2, float),
        (0.0, 1e-7, float),
        (float("inf"), "inf", float),
        (Decimal("2.50"), "2.5", Decimal),
        (Decimal("0.1"), 0.1, Any),
        (Fraction(1, 3), 1 / 3, Any),
        (
            datetime(2024, 5, 1, 12, tzinfo=timezone.utc),
            datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
            datetime,
        ),
        (time(9, 30), "09:30", time),
        ([1, "A b"], [1.0, "a  B"], Any),
        ({3, 1, 2}, frozenset({1, 2, 3}), Any),
        ([3, 1, 2], [1, 2, 3], set[int]),
        ({1.0, 2.0}, {2.0, 1.0000001}, set[float]),
        ({"a": 1, "b": [None]}, {"b": [""], "A": 1}, Any),
        (Person(name="Ada", age=36), {"name": "ADA", "age": 36.0000001}, Person),
        (Open.model_validate({"p": "X", "q": 1}), Open.model_validate({"q": 1, "p": "x"}), Open),
        (Point(1.0, note="one"), Point(1.0000001, note="two"), Point),
        (None, float("nan"), float | None),
        (np.float64(1.5), 1.5, Any),
        (np.array([1, 2]), [1, 2], Any),
        (Strange(), Strange(), Any),
    ],
)
def test_alike(a: object, b: object, annotation: Any) -> None:
    assert is_same(a, b, annotation)
    assert is_same(b, a, annotation)


@pytest.mark.parametrize(
    ("a", "b", "annotation"),
    [
        ("-5", "5", str),
        ("\u22125", "5", str),
        (Label(label="spam"), Label(label="ham"), Label),
        (dspy.Code(code="x = A"), dspy.Code(code="x = a"), dspy.Code),
        (dspy.Code(code="  x"), dspy.Code(code="x"), dspy.Code),
        (dspy.Image(url="https://x.org/A"), dspy.Image(url="https://x.org/a"), dspy.Image),
        (b"x", b"X", bytes),
        (Path("A"), Path("a"), Path),
        ("Ab", "AB", PATTERN),
        (Airport(code="Ab"), Airport(code="AB"), Airport),
        ([Airport(code="Ab")], [Airport(code="AB")], list[Airport]),
        (tool_call("1", 5), tool_call("1", 6), dspy.ToolCalls),
        ("1/2", "12", str),
        ("the end", "end", str),
        ("yes.", "yes", str),
        (True, 1, Any),
        ("1", 1, Any),
        (1_000_000, 1_000_001, int),
        (1.0, 1.00001, float),
        (6.63e-34, 1.05e-34, float),
        (Decimal("inf"), 10**400, Any),
        (Decimal("1e400"), Decimal("2e400"), Decimal),
        ("m", "M", Literal["m", "M"]),
        (Level.ONE, 1, Any),
        (datetime(2024, 5, 1), datetime(2024, 5, 1, tzinfo=timezone.utc), datetime),
        (date(2024, 5, 1), datetime(2024, 5, 1), Any),
        ([1, 2], [2, 1], list[int]),
        ([], None, Any),
        ({1.0, 2.0}, {1.0, 3.0}, set[float]),
        ({1.0}, {1.0000001, 2.0}, set[float]),
        (Person(name="Ada"), Point(1.0), Any),
        (Open.model_validate({"p": 1}), Open.model_validate({"p": 2}), Open),
        (Point(1.0, "a"), Point(1.0, "b"), Point),
    ],
)
def test_not_alike(a: object, b: object, annotation: Any) -> None:
    assert not is_same(a, b, annotation)
    assert not is_same(b, a, annotation)


ABSTENTIONS = f"""
    {REFUSAL}
    I\u2019m sorry, but I cannot assist with that request.
    Sorry, I can't help you with this.
    I apologize, but I am unable to provide that.
    Unfortunately, I'm not able to answer.
    I can't help.
    As an AI language model, I have no opinion.
"""
TEXTS = """
    A
    None
    Sorry by Justin Bieber
    I'm sorry
    I'm sorry, but I can't attend.
    I can't help falling in love
    I Can't Help Myself
    As an AI researcher, Turing asked this.
    He said: I cannot help you.
"""


@pytest.mark.parametrize("value", [None, NAN, Decimal("sNaN"), np.float64("nan"), "", " \n\t", "\u200b\ufeff"])
def test_what_says_nothing_abstains(value: object) -> None:
    assert normalise(value, Any) is ABSTAIN


def test_refusals_abstain_and_texts_that_sound_like_it_do_not() -> None:
    assert {normalise(text) for text in ABSTENTIONS.strip().splitlines()} == {ABSTAIN}
    assert ABSTAIN not in {normalise(text) for text in TEXTS.strip().splitlines()}


@pytest.mark.parametrize("value", [0, False, [], {}, set(), [None], [REFUSAL], float("inf")])
def test_what_is_empty_or_small_votes(value: object) -> None:
    assert normalise(value, Any) is not ABSTAIN


def test_a_declared_label_never_abstains() -> None:
    labels = Literal["", "I cannot help you.", "yes"]
    assert normalise("", labels) is not ABSTAIN
    assert normalise("I cannot help you.", labels) is not ABSTAIN
    assert normalise(REFUSAL, labels) is ABSTAIN


def test_what_cannot_be_read_as_declared_is_compared_by_its_own_type() -> None:
    assert is_same("Five", "five", int)
    assert is_same(1, 1.0, "a name that is not resolved")
    assert is_same(1, 1.0, Annotated[Any, ["metadata that cannot be hashed"]])


def test_exact_text_takes_every_character_and_lets_no_text_abstain() -> None:
    forms = [normalise(text, str, exact_text=True) for text in ("Ab", "ab", "ab\u200b", "", REFUSAL)]
    assert len(set(forms)) == 5 and ABSTAIN not in forms


def test_near_forms_are_found_in_chains_wherever_the_numbers_stand() -> None:
    chain = [1.0, 1.0000018, 2.0, 1.0000009, 1]
    assert cluster([normalise(x) for x in chain]) == [0, 0, 1, 0, 0]
    assert cluster([normalise(x) for x in chain], 0.0) == [0, 1, 2, 3, 0]
    assert cluster([normalise({"k": [x, "a"]}) for x in chain]) == [0, 0, 1, 0, 0]
    assert cluster([normalise({x, "a"}) for x in chain[:4]]) == [0, 0, 1, 0]
    assert cluster([normalise(x) for x in (6e-34, 1e-34)]) == [0, 1]
    assert cluster([normalise([x, y]) for x, y in ((1.0, 1.0), (1.0, 2.0), (1.0000001, 2.0))]) == [0, 1, 1]


numbers = st.sampled_from([0, 1, 2, 0.0, 1.0, 1.0000009, 1.0000018, 5e-7, Decimal("1.0000027"), 2.0, float("inf")])
forms = st.lists(numbers | st.tuples(numbers, st.sampled_from("xX")) | st.frozensets(numbers, max_size=1), max_size=8)


@given(forms)
def test_clusters_are_what_comparing_all_with_all_finds(values: list[Any]) -> None:
    found = [normalise(value) for value in values]
    homes = list(range(len(found)))
    for _ in found:
        homes = [min(h for h, other in zip(homes, found, strict=True) if same(form, other)) for form in found]
    known: dict[int, int] = {}
    assert cluster(found) == [known.setdefault(home, len(known)) for home in homes]


formula = st.text(alphabet="aAtTheE \t\n+-*/<>=.,()0'éß\u0301\u200b\ufe0f", max_size=8)


def reference(text: str) -> str:
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf" and c != "\ufe0f")
    folded = unicodedata.normalize("NFC", seen).casefold()
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", folded)).strip(" ")


@given(formula, formula)
def test_texts_are_one_answer_exactly_when_they_fold_to_one_text(a: str, b: str) -> None:
    for x, y in [(a, b), (a, a.upper()), (a, f" {a}\n"), (a, unicodedata.normalize("NFD", a)), (a, a.replace(" ", ""))]:
        assert (fold(x) == fold(y)) == (reference(x) == reference(y))


@given(
    st.text()
    | st.text(alphabet="aI\u0130\u0131\u00df\u017f\u03a3\u03c3\u03c2\u0390\u0301\u0345\u0323\u0307\u01f0\u0149 \t")
)
def test_folded_text_folds_to_itself(text: str) -> None:
    assert fold(fold(text)) == fold(text)
