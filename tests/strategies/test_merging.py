from collections.abc import Callable
from enum import Enum
from itertools import permutations
from typing import Annotated, Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from moa_dspy.strategies.fusion import Merged, merge, merge_parts


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


class Dog(BaseModel):
    name: str


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


class NotAll(BaseModel):
    a: int = 0
    b: int = 0
    c: int = 0

    @model_validator(mode="after")
    def not_all(self) -> "NotAll":
        assert (self.a, self.b, self.c) != (1, 1, 1)
        return self


class Label(BaseModel):
    label: str
    confidence: float = 0.5
    reasoning: str = ""


Box = Annotated[list[int], Field(min_length=2, max_length=2)]


def opened(**fields: Any) -> Open:
    return Open(**fields)


def merged(*values: Any, kind: Any = Any, min_support: int = 1) -> Merged:
    """What proposals a, b, c, ... hold in the field `x`."""
    return merge(dict(zip("abcdefgh", values, strict=False)), kind, "x", min_support)


def table(*rows: str, columns: str = "thing size price") -> list[dict[str, Any]]:
    """Rows of a table: 'bolt 10 0.1'; digits are numbers."""
    return [
        {name: int(word) if word.isdigit() else word for name, word in zip(columns.split(), row.split(), strict=True)}
        for row in rows
    ]


@pytest.mark.parametrize(
    ("values", "kind", "value"),
    [
        pytest.param(["Paris", "PARIS", "PARIS"], str, "PARIS", id="text in the most frequent spelling"),
        pytest.param([0.3, 0.1 + 0.2, 5.0], float, 0.3, id="float, within the tolerance"),
        pytest.param([Color.RED, Color.BLUE, Color.RED], Color, Color.RED, id="enum"),
        pytest.param([(1, 2), (2, 1), (1, 2)], tuple[int, int], (1, 2), id="a pair is one value"),
        pytest.param([[1, 2], [2, 1], [1, 2]], list[int], [1, 2], id="a vector is one value"),
        pytest.param([[[1, 2], [3, 4]], [[1, 2], [3, 5]], [[1, 2], [3, 5]]], Any, [[1, 2], [3, 5]], id="a matrix"),
        pytest.param(
            [["a", "b"], ["b", "a"], ["a", "b"]],
            Annotated[list[str], Field(min_length=2, max_length=2)],
            ["a", "b"],
            id="a list of fixed length",
        ),
        pytest.param([None, 5, None], int | None, 5, id="None abstains"),
        pytest.param([None, None], int | None, None, id="None from all"),
        pytest.param(["", "  "], str, "", id="empty text from all"),
        pytest.param(["As an AI language model, I cannot say.", "42"], str, "42", id="a refusal abstains"),
        pytest.param([[], ["a"]], list[str], ["a"], id="an empty list and another"),
        pytest.param([{1}, {2}], set[int], {1, 2}, id="sets"),
        pytest.param([{"a": 1}, {"b": 2}], dict[str, int], {"a": 1, "b": 2}, id="dicts"),
        pytest.param(
            [
                Person(name="Ada", age=36, tags=["x"], home=Address(city="London")),
                Person(name="Ada", age=36, tags=["y"], home=Address(city="London", zip=7)),
                Person(name="Ada", age=37),
            ],
            Person | None,
            Person(name="Ada", age=36, tags=["x", "y"], home=Address(city="London", zip=7)),
            id="nested models",
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


# Lists are sequences.


@pytest.mark.parametrize(
    ("lists", "value"),
    [
        pytest.param([[1, 4, 5], [1, 2, 4, 5], [1, 2, 4, 5]], [1, 2, 4, 5], id="an order that all share"),
        pytest.param(["ad", "abd", "acd"], "abcd", id="what no list orders goes by declared order"),
        pytest.param(["xy", "yx", "yx", "z"], "zyx", id="the order of more lists"),
        pytest.param(["aba", "ba", "ba"], "aba", id="an item that comes again"),
        pytest.param(["aab", "ab"], "aab", id="an item twice"),
        pytest.param([[0.1 + 0.2, 7.0], [0.3, 0.4, 7.0]], [0.1 + 0.2, 0.4, 7.0], id="numbers within the tolerance"),
        pytest.param([["The  cat", "x"], ["the cat"]], ["The  cat", "x"], id="text in another case"),
    ],
)
def test_lists_are_merged_in_the_order_that_they_share(lists: list[Any], value: Any) -> None:
    assert merged(*map(list, lists)).value == list(value)


# Rows are the same by what they say.


@pytest.mark.parametrize(
    ("tables", "rows"),
    [
        pytest.param(
            [table("nut 2 9", "bolt 10 1"), table("nut 2 9", "bolt 10 1"), table("nut 3 9", "bolt 10 1")],
            table("nut 2 9", "bolt 10 1"),
            id="a misread number adds no row",
        ),
        pytest.param(
            [table("nut 2 9"), table("nub 2 9"), table("nut 2 9")], table("nut 2 9"), id="nor does a misread name"
        ),
        pytest.param(
            [table(nut, "bolt 1", columns="thing size") for nut in ("nut 2", "nut 2", "nut 3")],
            table("nut 2", "bolt 1", columns="thing size"),
            id="nor in rows of two fields, beside the same neighbours",
        ),
        pytest.param(
            [table("dev 10 12", "boss 12 15"), table("boss 12 15", "dev 16 18"), table("boss 12 15", "dev 16 18")],
            table("dev 10 12", "boss 12 15", "dev 16 18"),
            id="a name in common is not enough",
        ),
        pytest.param(
            [table("dr ada 1"), table("dr alan 2"), table("dr alan 2")],
            table("dr ada 1", "dr alan 2"),
            id="rows that differ in most are two",
        ),
        pytest.param(
            [table("lh fra 1", "lh fra 2"), table("lh fra 1", "lh fra 3"), table("lh fra 1")],
            table("lh fra 1", "lh fra 2", "lh fra 3"),
            id="what several rows of a list have in common tells none of them",
        ),
        pytest.param(
            [[{"k": 1, "l": ["x"]}], [{"k": 1, "l": ["y"]}]], [{"k": 1, "l": ["x", "y"]}], id="lists inside of rows"
        ),
        pytest.param(
            [[{"label": "x", "confidence": c, "reasoning": r}] for c, r in ((0.1, "p"), (0.9, "q"))],
            [{"label": "x", "confidence": 0.1, "reasoning": "p"}],
            id="explanations and grades identify nothing",
        ),
        pytest.param([[Cat(name="Tom")], [Dog(name="Tom")]], [Cat(name="Tom"), Dog(name="Tom")], id="two kinds"),
        pytest.param([[{}], [{}, {"a": None}]], [{}, {"a": None}], id="rows that say nothing"),
    ],
)
def test_rows_are_one_if_what_they_share_says_so(tables: list[Any], rows: list[Any]) -> None:
    assert (merged(*tables).value, merged(*tables).conflicts) == (rows, [])


@pytest.mark.parametrize("number", [str, int, lambda n: f"#{n}"])
def test_numbers_that_each_list_counts_itself_identify_nothing(number: Callable[[int], Any]) -> None:
    def rows(*amounts: int) -> list[dict[str, Any]]:
        return [{"id": number(place), "amount": amount} for place, amount in enumerate(amounts, 1)]

    assert [row["amount"] for row in merged(rows(10, 20, 30), rows(20, 30), rows(20, 30)).value] == [10, 20, 30]
    assert [row["amount"] for row in merged(rows(10, 20), rows(30, 40)).value] == [10, 20, 30, 40]
    assert [row["amount"] for row in merged(rows(10, 20, 10), rows(20, 10), rows(20, 10)).value] == [10, 20, 10]


def test_numbers_that_the_rows_bear_out_identify() -> None:
    def year(*sales: int) -> list[dict[str, int]]:
        return [{"month": month, "sold": sold} for month, sold in enumerate(sales, 1)]

    assert merged(year(5, 7, 9), year(5, 7, 9), year(5, 8, 9)).value == year(5, 7, 9)


def test_calls_of_tools_are_the_same_whoever_numbers_them() -> None:
    def call(id: str, n: int) -> dspy.ToolCalls:
        return dspy.ToolCalls(tool_calls=[dspy.ToolCalls.ToolCall(id=id, name="f", args={"n": n})])

    assert merged(call("x", 6), call("y", 5), call("z", 5), kind=dspy.ToolCalls).value == call("y", 5)


def test_min_support_drops_what_fewer_say() -> None:
    assert merged(["a", "b"], ["a"], ["a", "c"], min_support=2).value == ["a"]
    assert merged({"a": 1, "b": 2}, {"a": 1}, kind=dict[str, int], min_support=2).value == {"a": 1}
    assert merged({"a": ["x"]}, {"a": ["x", "y"]}, min_support=2).value == {"a": ["x"]}
    assert merged(None, 5, None, kind=int | None, min_support=2).value is None
    assert merged(["a"], min_support=2).value == []
    assert merged(7, min_support=2).value == 7


# What explains or grades follows.


def test_an_explanation_follows_the_answer_that_it_explains() -> None:
    labels = [Label(label=label, confidence=c, reasoning=r) for label, c, r in (("x", 0.9, "p"), ("y", 0.8, "q"))]
    assert merged(*labels, Label(label="Y", confidence=0.7, reasoning="r"), kind=Label).value == labels[1]
    answers = {"a": ("r1", "x"), "b": ("r2", "y"), "c": ("r3", "y")}
    outputs = {id: {"reasoning": r, "answer": x} for id, (r, x) in answers.items()}
    assert merge_parts(outputs, {"reasoning": str, "answer": str}).value == {"reasoning": "r2", "answer": "y"}


def test_an_explanation_of_what_is_in_conflict_is_in_conflict() -> None:
    parts = merge_parts({id: {"reasoning": id, "answer": id} for id in "ab"}, {"reasoning": str, "answer": str})
    assert parts.conflicts == ["reasoning", "answer"]
    assert merged(Label(label="x"), Label(label="y"), kind=Label).conflicts == [
        "x.label",
        "x.confidence",
        "x.reasoning",
    ]


@pytest.mark.parametrize(
    ("values", "kind", "conflicts"),
    [
        pytest.param(["Paris", "Rome"], str, ["x"], id="texts"),
        pytest.param([7, 7, 8, 9], int, ["x"], id="no majority, though one leads"),
        pytest.param([[1], {"a": 1}], Any, ["x"], id="a list and a dict"),
        pytest.param([[1, 2], [2, 3]], Box | None, ["x"], id="boxes"),
        pytest.param([Cat(name="Tom"), Dog(name="Tom")], Cat | Dog, ["x"], id="two kinds of models"),
        pytest.param([["a", "b"], ["c"]], Annotated[list[str], Field(max_length=2)], ["x"], id="a list too long"),
        pytest.param([Span(start=1, end=3), Span(start=2, end=3)], Span, ["x.start"], id="a part of a model"),
        pytest.param([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], ["x.b"], id="a part of a dict"),
        pytest.param([table("nut 2 9"), table("nut 3 9")], Any, ["x[0].size"], id="a part of a row"),
        pytest.param([dspy.Code(code="A"), dspy.Code(code="a")], dspy.Code, ["x"], id="code"),
        pytest.param([None, None], str, ["x"], id="None where the type has none"),
        pytest.param(["I'm sorry, but I can't help with that."] * 2, str, ["x"], id="refusals only"),
    ],
)
def test_what_is_left_to_a_model(values: list[Any], kind: Any, conflicts: list[str]) -> None:
    assert merged(*values, kind=kind).conflicts == conflicts


def test_parts_that_do_not_go_together_are_a_conflict() -> None:
    given = [NotAll(a=1, b=1), NotAll(a=1, c=1), NotAll(b=1, c=1)]
    assert merged(*given, kind=NotAll) == Merged(conflicts=["x"])


def test_models_with_aliases_lose_nothing() -> None:
    one, other = (Aliased.model_validate({"Size": 5, "Rank": 2, "tags": [tag]}) for tag in "xy")
    value = merged(one, other, kind=Aliased).value
    assert (value.size, value.rank, value.tags) == (5, 2, ["x", "y"])


# Elements.


def elements(*values: Any, kind: Any = Any) -> list[tuple[str, str, str]]:
    return [(e.statement, e.kind, "".join(e.supported_by)) for e in merged(*values, kind=kind).elements]


def test_elements_say_who_supports_them() -> None:
    assert elements("X", "x", kind=str) == [("x: X", "consensus", "ab")]
    assert elements(None, 5, None, kind=int | None) == [("x: 5", "unique", "b")]
    assert elements(7, 8, 7, kind=int) == [("x: 7", "majority", "ac")]
    assert elements(["p", "q"], ["p", "q", "r"], ["p"]) == [
        ("x: p", "consensus", "abc"),
        ("x: q", "union", "ab"),
        ("x: r", "unique", "b"),
    ]
    assert elements([{"k": 1}, {"k": 2}], [{"k": 1}], kind=list[dict[str, int]])[0][1:] == ("consensus", "ab")


# A model completes what is in conflict.


def test_a_models_answer_gets_back_what_it_was_not_asked_to_change() -> None:
    result = merged(
        Person(name="Ada", age=1, home=Address(city="Rome", zip=1)),
        Person(name="Ada", age=2, home=Address(city="Rome", zip=2)),
        kind=Person,
    )
    assert result.conflicts == ["x.age", "x.home.zip"]
    assert result.standing == {"name": "Ada", "tags": [], "home": {"city": "Rome"}}
    answer = Person(name="HACKED", age=2, tags=["new"], home=Address(city="Oslo", zip=9))
    assert result.completed_by(answer) == Person(name="Ada", age=2, home=Address(city="Rome", zip=9))


@pytest.mark.parametrize(
    ("values", "kind", "answer", "completed"),
    [
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], {"c": 3}, {"c": 3, "a": 1}),
        ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], dict[str, int], None, None),
        ([Span(start=1, end=5), Span(start=2, end=5)], Span, Span(start=7, end=8), Span(start=7, end=8)),
        (["Paris", "Rome"], str, "Oslo", "Oslo"),
        ([7, 7], int, 8, 7),
    ],
)
def test_answers_are_completed_where_they_fit(values: list[Any], kind: Any, answer: Any, completed: Any) -> None:
    assert merged(*values, kind=kind).completed_by(answer) == completed


# Properties.

json_like = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from(["x", "X", "y", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("kl"), inner),
    max_leaves=8,
)
few = st.sampled_from("abc")
people = st.builds(Label, label=few, confidence=st.sampled_from([0.1, 0.9]), reasoning=few) | st.builds(
    Person, name=few, age=st.integers(0, 2), tags=st.lists(few, max_size=2)
)
MASTER = table("nut 2 15", "bolt 5 25", "pin 7 15", "nail 2 90", "gear 9 30")


@st.composite
def readings(draw: st.DrawFn) -> list[list[dict[str, Any]]]:
    """What several readers make of one table: each leaves out rows, and misreads a number here and there."""
    lists = []
    for _ in range(draw(st.integers(1, 4))):
        rows = [dict(row) for row in MASTER if draw(st.integers(0, 6))]
        for row in rows:
            if not draw(st.integers(0, 6)):
                row[draw(st.sampled_from(["size", "price"]))] += draw(st.integers(1, 2))
        lists.append(rows)
    return lists


sequences = st.lists(st.sampled_from("xyz"), max_size=5) | st.lists(st.integers(0, 4), max_size=5)
proposals = (
    st.lists(json_like, min_size=1, max_size=4)
    | st.lists(st.lists(people, max_size=4), min_size=1, max_size=4)
    | readings()
    | st.lists(sequences, min_size=1, max_size=5)
)


def leaves(value: Any) -> set[str]:
    value = dict(value) if isinstance(value, BaseModel) else value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return {repr(value)} if parts is None else {leaf for part in parts for leaf in leaves(part)}


@settings(deadline=None, max_examples=100)
@given(proposals)
def test_every_leaf_of_a_merge_stands_in_some_proposal(values: list[Any]) -> None:
    result = merged(*values)
    assert result.conflicts or leaves(result.value) <= {leaf for value in values for leaf in leaves(value)}
    for element in result.elements:
        assert element.supported_by and set(element.supported_by) <= set("abcdefgh"[: len(values)])


@settings(deadline=None, max_examples=60)
@given(proposals, st.integers(1, 4))
def test_equal_proposals_give_themselves(values: list[Any], number: int) -> None:
    result = merged(*[values[0]] * number)
    assert (result.value, result.conflicts) == (values[0], [])


# Rows at random may go with others in several ways, and a further list may tell which: so rows are readings here.
@settings(deadline=None, max_examples=100)
@given(
    st.lists(json_like.filter(lambda value: "[{" not in repr(value)), min_size=1, max_size=4)
    | st.lists(sequences, min_size=1, max_size=5)
    | readings()
)
def test_a_further_proposal_that_is_the_result_does_not_change_it(values: list[Any]) -> None:
    result = merged(*values)
    if not result.conflicts:
        again = merged(*values, result.value)
        assert (again.value, again.conflicts) == (result.value, [])


def unordered(value: Any) -> str:
    """The value without what a tie may decide by declared order: order, spelling, and whose explanation it is."""
    if isinstance(value, BaseModel):
        value = dict(value)
    if isinstance(value, dict):
        return repr(sorted((k, unordered(v)) for k, v in value.items() if k not in ("confidence", "reasoning")))
    return repr(sorted(map(unordered, value))) if isinstance(value, list) else repr(value).lower()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(people, max_size=3), min_size=1, max_size=3)
    | readings()
    | st.lists(sequences, min_size=1, max_size=4)
)
def test_who_comes_first_decides_nothing_but_ties(values: list[Any]) -> None:
    results = [merged(*order) for order in permutations(values)]
    assert len({(unordered(result.value), len(result.conflicts)) for result in results}) == 1


@settings(deadline=None)
@given(st.lists(st.integers(), unique=True, max_size=8), st.lists(st.sets(st.integers(0, 7)), min_size=1, max_size=4))
def test_an_order_that_all_lists_share_is_kept(order: list[int], chosen: list[set[int]]) -> None:
    lists = [[str(item) for place, item in enumerate(order) if place in places] for places in chosen]
    value = merged(*lists).value
    for given_list in lists:
        assert [item for item in value if item in given_list] == given_list
