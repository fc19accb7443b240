from datetime import date
from enum import Enum
from itertools import permutations
from typing import Annotated, Any, Literal, TypedDict

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, model_validator

from moa_dspy.merging import Merged, merge
from moa_dspy.results import Element


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Address(BaseModel):
    city: str
    zip: int | None = None


class Person(BaseModel):
    name: str
    age: int
    tags: list[str] = []
    home: Address | None = None


class Cat(BaseModel):
    name: str
    meows: bool


class Dog(BaseModel):
    name: str
    barks: int


class Aliased(BaseModel):
    size: int = Field(default=0, alias="Size")
    rank: int = Field(default=0, validation_alias=AliasChoices("Rank", "r"))
    tags: list[str] = []


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    tags: list[str]


class Span(BaseModel):
    start: int
    end: int

    @model_validator(mode="after")
    def ordered(self) -> "Span":
        assert self.start <= self.end
        return self


class Row(TypedDict):
    title: str
    sizes: list[int]


class Tags(RootModel[list[str]]):
    pass


class Book(RootModel[dict[str, Any]]):
    pass


def opened(**fields: Any) -> Open:
    return Open(**fields)


def merged(*values: Any, kind: Any = Any) -> Merged:
    """What proposals a, b, c, ... hold in the field `x`."""
    return merge(dict(zip("abcdef", values, strict=False)), kind, "x")


@pytest.mark.parametrize(
    ("values", "kind", "value"),
    [
        pytest.param(["Paris", "paris "], str, "Paris", id="text in another case"),
        pytest.param([True, True, False], bool, True, id="bool"),
        pytest.param([7, 7, 8, 9], int, 7, id="int, by plurality"),
        pytest.param([0.3, 0.1 + 0.2, 5.0], float, 0.3, id="float, within the tolerance"),
        pytest.param(["a", "b", "b"], Literal["a", "b"], "b", id="literal"),
        pytest.param([Color.RED, Color.BLUE, Color.RED], Color, Color.RED, id="enum"),
        pytest.param([date(2020, 1, 1), date(2020, 1, 1), date(2021, 1, 1)], date, date(2020, 1, 1), id="date"),
        pytest.param([7, 7, 8], Any, 7, id="numbers of no declared type"),
        pytest.param([7, 7.5, 7.5], int | float, 7.5, id="numbers of a union"),
        pytest.param([(1, 2), (2, 1), (1, 2)], tuple[int, int], (1, 2), id="a pair votes as a whole"),
        pytest.param([None, 5, None], int | None, 5, id="None abstains"),
        pytest.param([None, None], int | None, None, id="None from all"),
        pytest.param(["", "  "], str, "", id="empty text from all"),
        pytest.param(["As an AI language model, I cannot say.", "42"], str, "42", id="a refusal abstains"),
        pytest.param([[1, 2], [2, 3]], list[int], [1, 2, 3], id="lists"),
        pytest.param([[1, 1], [1]], list[int], [1, 1], id="lists with an item twice"),
        pytest.param([[], []], list[int], [], id="empty lists"),
        pytest.param([[], ["a"]], list[str], ["a"], id="an empty list and another"),
        pytest.param([{1}, {2}], set[int], {1, 2}, id="sets"),
        pytest.param([frozenset({1}), frozenset({2})], Any, frozenset({1, 2}), id="sets of no declared type"),
        pytest.param([(1,), (2, 1)], tuple[int, ...], (1, 2), id="tuples of any length"),
        pytest.param([{"a": 1}, {"b": 2}], dict[str, int], {"a": 1, "b": 2}, id="dicts"),
        pytest.param([{"a": [1]}, {"a": [2]}], dict[str, list[int]], {"a": [1, 2]}, id="dicts of lists"),
        pytest.param(
            [{"title": "T", "sizes": [1]}, {"title": "t", "sizes": [2]}],
            Row,
            {"title": "T", "sizes": [1, 2]},
            id="typed dict",
        ),
        pytest.param([Tags(["a"]), Tags(["b"])], Tags, Tags(["a", "b"]), id="root model"),
        pytest.param([Book({"a": 1}), Book({"b": 2})], Book, Book({"a": 1, "b": 2}), id="root model of a dict"),
        pytest.param(
            [Person(name="Ada", age=36, tags=["x"]), Person(name="ada", age=36, tags=["y"])],
            Person,
            Person(name="Ada", age=36, tags=["x", "y"]),
            id="model",
        ),
        pytest.param(
            [
                Person(name="Ada", age=36, home=Address(city="London")),
                Person(name="Ada", age=36, home=Address(city="London", zip=7)),
                Person(name="Ada", age=37),
            ],
            Person | None,
            Person(name="Ada", age=36, home=Address(city="London", zip=7)),
            id="nested model",
        ),
        pytest.param(
            [
                [Person(name="Ada", age=1, tags=["x"])],
                [Person(name="Al", age=2), Person(name="Ada", age=1, tags=["y"])],
            ],
            list[Person],
            [Person(name="Ada", age=1, tags=["x", "y"]), Person(name="Al", age=2)],
            id="list of models that share a name",
        ),
        pytest.param(
            [opened(tags=["x"], more=1), opened(tags=["y"], other=2)],
            Open,
            opened(tags=["x", "y"], more=1, other=2),
            id="extras",
        ),
    ],
)
def test_what_is_merged_in_code(values: list[Any], kind: Any, value: Any) -> None:
    result = merged(*values, kind=kind)
    assert (result.value, result.conflicts) == (value, [])
    assert type(result.value) is type(value)


def test_models_with_aliases_lose_nothing() -> None:
    one, other = (Aliased.model_validate({"Size": 5, "Rank": 2, "tags": [tag]}) for tag in "xy")
    value = merged(one, other, kind=Aliased).value
    assert (value.size, value.rank, value.tags) == (5, 2, ["x", "y"])


@pytest.mark.parametrize(
    ("values", "kind", "conflicts"),
    [
        pytest.param(["Paris", "Rome"], str, ["x"], id="texts"),
        pytest.param(["Paris", "Rome", "Paris"], str, ["x"], id="texts, though one leads"),
        pytest.param([7, 8], int, ["x"], id="a tied vote"),
        pytest.param([7, "many", 7], Any, ["x"], id="a number and a text"),
        pytest.param([[1], {"a": 1}], Any, ["x"], id="a list and a dict"),
        pytest.param([(1, "a"), (1, "b")], tuple[int, str], ["x"], id="pairs"),
        pytest.param([(1, 2), (2, 1)], tuple[int, int], ["x"], id="pairs in another order"),
        pytest.param(
            [Cat(name="Tom", meows=True), Dog(name="Tom", barks=2)], Cat | Dog, ["x"], id="two kinds of models"
        ),
        pytest.param([[1, 2], [3]], Annotated[list[int], Field(max_length=2)], ["x"], id="a union that is too long"),
        pytest.param([Span(start=1, end=3), Span(start=2, end=3)], Span, ["x.start"], id="a part of a model"),
        pytest.param([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], ["x.b"], id="a part of a dict"),
        pytest.param(
            [[{"id": 1, "v": 1}], [{"id": 1, "v": 2}]], list[dict[str, int]], ["x[0].v"], id="a part of an item"
        ),
        pytest.param([dspy.Code(code="1"), dspy.Code(code="2")], dspy.Code, ["x.code"], id="code"),
        pytest.param([None, None], str, ["x"], id="None where the type has none"),
        pytest.param(["I'm sorry, but I can't help with that."] * 2, str, ["x"], id="refusals only"),
    ],
)
def test_what_is_left_to_a_model(values: list[Any], kind: Any, conflicts: list[str]) -> None:
    assert merged(*values, kind=kind).conflicts == conflicts


def test_parts_that_do_not_go_together_are_a_conflict() -> None:
    spans = [Span(start=5, end=6), Span(start=5, end=5), Span(start=1, end=2), Span(start=0, end=2)]
    assert merged(*spans, kind=Span) == Merged(conflicts=["x"])


def elements(*values: Any, kind: Any = Any) -> list[tuple[str, str, str]]:
    return [(e.statement, e.kind, "".join(e.supported_by)) for e in merged(*values, kind=kind).elements]


def test_elements_say_who_supports_them() -> None:
    assert elements("X", "x", kind=str) == [("x: X", "consensus", "ab")]
    assert elements("X", kind=str) == [("x: X", "unique", "a")]
    assert elements(None, 5, None, kind=int | None) == [("x: 5", "unique", "b")]
    assert elements(7, 8, 7, kind=int) == [("x: 7", "majority", "ac")]
    assert elements([1, 2], [2, 3, 1], [1], kind=list[int]) == [
        ("x: 1", "consensus", "abc"),
        ("x: 2", "union", "ab"),
        ("x: 3", "unique", "b"),
    ]
    assert elements({"k": 1}, {"k": 1, "l": [2]}, kind=dict[str, Any]) == [
        ("x.k: 1", "consensus", "ab"),
        ("x.l: [\n  2\n]", "unique", "b"),
    ]


def test_no_element_speaks_of_what_is_in_conflict() -> None:
    assert elements([{"id": 1, "v": 1}, {"id": 2, "v": 0}], [{"id": 1, "v": 2}], kind=list[dict[str, int]]) == [
        ('x: {\n  "id": 2,\n  "v": 0\n}', "unique", "a")
    ]


def test_what_needs_no_model_stands() -> None:
    result = merged(
        Person(name="Ada", age=1, home=Address(city="Rome", zip=1)),
        Person(name="Ada", age=2, home=Address(city="Rome", zip=2)),
        kind=Person,
    )
    assert result.conflicts == ["x.age", "x.home.zip"]
    assert result.standing == {"name": "Ada", "tags": [], "home": {"city": "Rome"}}


def test_a_models_answer_gets_back_what_it_was_not_asked_to_change() -> None:
    result = merged(
        Person(name="Ada", age=1, home=Address(city="Rome", zip=1)),
        Person(name="Ada", age=2, home=Address(city="Rome", zip=2)),
        kind=Person,
    )
    answer = Person(name="HACKED", age=2, tags=["new"], home=Address(city="Oslo", zip=9))
    assert result.completed_by(answer) == Person(name="Ada", age=2, home=Address(city="Rome", zip=9))


@pytest.mark.parametrize(
    ("values", "kind", "answer", "completed"),
    [
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], {"b": 2}, {"b": 2, "a": 1}),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], {"c": 3}, {"c": 3, "a": 1}),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], None, None),
        ([Span(start=1, end=5), Span(start=2, end=5)], Span, Span(start=7, end=8), Span(start=7, end=8)),
        ([Book({"a": 1, "b": 1}), Book({"a": 1, "b": 2})], Book, Book({"b": 3}), Book({"b": 3})),
        (["Paris", "Rome"], str, "Oslo", "Oslo"),
        ([7, 7], int, 8, 7),
    ],
)
def test_answers_are_completed_where_they_fit(values: list[Any], kind: Any, answer: Any, completed: Any) -> None:
    assert merged(*values, kind=kind).completed_by(answer) == completed


def test_the_value_that_all_agree_on_is_the_first_ones_object() -> None:
    values = [Person(name="Ada", age=1), Person(name="ada", age=1)]
    assert merged(*values, kind=Person).value is values[0]


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["x", "y", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("kl"), inner),
    max_leaves=5,
)


def leaves(value: Any) -> set[str]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {repr(value)} if not isinstance(value, (dict, list)) else {leaf for part in parts for leaf in leaves(part)}


@settings(deadline=None)
@given(json_like, st.integers(1, 4))
def test_the_unanimous_value_is_the_value(value: Any, number: int) -> None:
    assert merged(*[value] * number).value == value
    assert merged(*[value] * number).conflicts == []


@settings(deadline=None)
@given(st.lists(json_like, min_size=1, max_size=4))
def test_nothing_is_invented(values: list[Any]) -> None:
    result = merged(*values)
    assert result.conflicts or leaves(result.value) <= {leaf for value in values for leaf in leaves(value)}


@settings(deadline=None)
@given(st.lists(json_like, min_size=1, max_size=4))
def test_elements_are_supported_by_proposals_there_are(values: list[Any]) -> None:
    for element in merged(*values).elements:
        assert element.supported_by and set(element.supported_by) <= set("abcdef"[: len(values)])


def unordered(value: Any) -> Any:
    if isinstance(value, list):
        return sorted(map(repr, map(unordered, value)))
    return {key: unordered(value[key]) for key in sorted(value)} if isinstance(value, dict) else value


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from("xyz")) | st.booleans(), min_size=1, max_size=3))
def test_who_comes_first_changes_no_more_than_the_order(values: list[Any]) -> None:
    results = [merged(*order) for order in permutations(values)]
    assert len({(repr(unordered(result.value)), tuple(result.conflicts)) for result in results}) == 1


def test_merged_elements_are_plain_data() -> None:
    assert merged(Color.RED, Color.RED, kind=Color).elements == [
        Element(statement="x: red", kind="consensus", supported_by=["a", "b"])
    ]
