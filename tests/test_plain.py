import dataclasses
import datetime
import json
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from moa_dspy.values import as_text, to_json, to_jsonable


class Color(Enum):
    RED = "red"


class Person(BaseModel):
    name: str
    tags: set[str] = set()


@dataclasses.dataclass
class Point:
    x: int
    color: Color = Color.RED


class Opaque:
    pass


class Unfinished(dspy.Type):
    """A type of somebody's own that does not say how it is written."""


LOOP: list[Any] = [1]
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param({"b": 1, "a": [True, None, 1.5]}, {"b": 1, "a": [True, None, 1.5]}, id="plain already"),
        pytest.param({"c", "b", "a"}, ["a", "b", "c"], id="set"),
        pytest.param(frozenset({(2, "x"), (1, "y")}), [[1, "y"], [2, "x"]], id="set of tuples"),
        pytest.param(Color.RED, "red", id="enum"),
        pytest.param(Person(name="Ada", tags={"z", "y"}), {"name": "Ada", "tags": ["y", "z"]}, id="model"),
        pytest.param([Point(1)], [{"x": 1, "color": "red"}], id="dataclass"),
        pytest.param(RootModel[list[int]]([1]), [1], id="root model"),
        pytest.param({("a", 1): 2, 3: 4}, {"['a', 1]": 2, "3": 4}, id="keys of any type"),
        pytest.param(datetime.date(2020, 1, 2), "2020-01-02", id="date"),
        pytest.param(Decimal("1.50"), "1.50", id="decimal"),
        pytest.param(Path("a/b"), "a/b", id="path"),
        pytest.param(b"\xff", "b'\\xff'", id="bytes that are no text"),
        pytest.param(Fraction(1, 2), "1/2", id="fraction"),
        pytest.param(np.array([[1, 2]]), [[1, 2]], id="array"),
        pytest.param(np.float64(1.5), 1.5, id="numpy scalar"),
        pytest.param(dspy.Code(code="x = 1"), "x = 1", id="code"),
        pytest.param(dspy.Image(url="https://e.com/x.png"), "Image(url='https://e.com/x.png')", id="image"),
        pytest.param("\ud83d\ude00 \ud800!", "\N{GRINNING FACE} \N{REPLACEMENT CHARACTER}!", id="surrogates"),
        pytest.param("a\u2028b\u202e", "a\u2028b\u202e", id="odd but legal characters"),
        pytest.param(LOOP, "[1, [...]]", id="a loop"),
    ],
)
def test_every_value_has_a_plain_form(value: object, expected: object) -> None:
    assert to_jsonable(value) == expected
    assert type(to_jsonable(value)) is type(expected)


def test_no_address_in_memory_gets_into_the_plain_form() -> None:
    assert to_jsonable([Opaque(), lambda: 1]) == [f"<{__name__}.Opaque object>", f"<function {_name()}>"]


def _name() -> str:
    return "test_no_address_in_memory_gets_into_the_plain_form.<locals>.<lambda>"


def test_an_image_is_not_written_out_with_all_its_data() -> None:
    image = dspy.Image(url="data:image/png;base64," + "A" * 10_000)
    assert to_jsonable(image) == "Image(url=data:image/png;base64,<IMAGE_BASE_64_ENCODED(10000)>)"


def test_a_serializer_that_fails_leaves_the_repr() -> None:
    assert to_jsonable([Unfinished()]) == "[Unfinished()]"


def test_an_iterator_is_not_used_up() -> None:
    numbers = iter([1, 2])
    to_jsonable({"numbers": numbers})
    assert list(numbers) == [1, 2]


def test_json_is_the_same_for_equal_values() -> None:
    assert (
        to_json({"b": {2, 1}, "a": Color.RED}) == to_json({"a": Color.RED, "b": {1, 2}}) == '{"a": "red", "b": [1, 2]}'
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\\nb\nc", "a\\nb\nc"),
        (True, "True"),
        (None, "None"),
        ([], "[]"),
        (["one\ntwo"], '[\n  "one\ntwo"\n]'),
        ({"path": "C:\\new", "tex": "\\nabla"}, '{\n  "path": "C:\\\\new",\n  "tex": "\\\\nabla"\n}'),
        (["é \u4e2d"], '[\n  "é \u4e2d"\n]'),
    ],
)
def test_text_has_real_line_breaks_and_keeps_backslashes(value: object, text: str) -> None:
    assert as_text(value) == text


scalars = st.none() | st.booleans() | st.integers() | st.text()
data = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=6)


@settings(deadline=None)
@given(data)
def test_data_stays_what_it_is(value: object) -> None:
    assert json.loads(to_json(value)) == to_jsonable(value) == value
    if isinstance(value, (list, dict)):
        assert json.loads(as_text(value), strict=False) == value
