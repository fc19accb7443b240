"""A task's types as MLflow's, and values as they stand in a table."""

import datetime
import decimal
import enum
from typing import Any, Literal

import dspy
import numpy as np
import pytest
from mlflow.types.schema import Array, DataType, Map, Object, Property
from pydantic import BaseModel

from moa_dspy.tracking.columns import Columns

NEEDED, OPTIONAL = True, False


class Mood(enum.Enum):
    GLAD = "glad"
    SAD = "sad"


class Item(BaseModel):
    name: str
    price: float | None = None


class Basket(BaseModel):
    items: list[Item]


class Tree(BaseModel):
    branches: list["Tree"] = []


def task(annotation: Any) -> Any:
    signature: Any = dspy.Signature
    return signature({"given": (annotation, dspy.InputField()), "answer": (annotation, dspy.OutputField())})


ITEM = Object([Property("name", DataType.string), Property("price", DataType.double, required=False)])


@pytest.mark.parametrize(
    ("annotation", "given", "needed", "answer"),
    [
        (str, DataType.string, NEEDED, DataType.string),
        (int, DataType.long, NEEDED, DataType.long),
        (float, DataType.double, NEEDED, DataType.double),
        (bool, DataType.boolean, NEEDED, DataType.boolean),
        (str | None, DataType.string, OPTIONAL, DataType.string),
        (Literal["a", "b"], DataType.string, NEEDED, DataType.string),
        (Literal[1, 2], DataType.long, NEEDED, DataType.long),
        (Mood, DataType.string, NEEDED, DataType.string),
        (datetime.date, DataType.string, NEEDED, DataType.string),
        (list[str], Array(DataType.string), NEEDED, Array(DataType.string)),
        (set[int] | None, Array(DataType.long), OPTIONAL, Array(DataType.long)),
        (list[list[int]], Array(Array(DataType.long)), NEEDED, DataType.string),
        (dict[str, float], Map(DataType.double), NEEDED, DataType.string),
        (Item, ITEM, NEEDED, DataType.string),
        (list[Item], Array(ITEM), NEEDED, DataType.string),
        (Basket, Object([Property("items", Array(ITEM))]), NEEDED, DataType.string),
        (list[str | None], DataType.string, NEEDED, DataType.string),
        (int | str, DataType.string, NEEDED, DataType.string),
        (tuple[int, str], DataType.string, NEEDED, DataType.string),
        (Tree, DataType.string, NEEDED, DataType.string),
        (Any, DataType.string, NEEDED, DataType.string),
    ],
    ids=str,
)
def test_types(annotation: Any, given: Any, needed: bool, answer: Any) -> None:
    signature = Columns(task(annotation)).signature
    [column], [outputs, _] = signature.inputs.inputs, signature.outputs.inputs
    assert (column.type, column.required) == (given, needed)
    assert outputs.type == Object([Property("answer", answer, required=False)])


def test_a_default_is_no_need() -> None:
    class Task(dspy.Signature):
        pages: int = dspy.InputField(default=1)
        answer: str = dspy.OutputField()

    assert Columns(Task).signature.inputs.inputs[0].required is False


def test_the_account_may_lack_everything() -> None:
    account: Any = Columns(task(str)).signature.outputs.inputs[1].type
    assert [part.name for part in account.properties if part.required] == []


@pytest.mark.parametrize(
    ("annotation", "cell", "value"),
    [
        (str, "5", "5"),
        (list[str], np.array(["a", "b"]), ["a", "b"]),
        (Item, {"name": "tea", "price": None}, {"name": "tea", "price": None}),
        (int | str, "5", 5),
        (int | str, "five", "five"),
        (tuple[int, str], '[1, "a"]', [1, "a"]),
    ],
    ids=str,
)
def test_what_a_row_gives(annotation: Any, cell: Any, value: Any) -> None:
    assert Columns(task(annotation)).given({"given": cell, "other": 1}) == {"given": value}


@pytest.mark.parametrize("nothing", [{}, {"given": None}, {"given": float("nan")}, {"given": np.float64("nan")}])
def test_what_a_row_lacks_is_left_out(nothing: dict[str, Any]) -> None:
    assert Columns(task(str)).given(nothing) == {}


@pytest.mark.parametrize(
    ("annotation", "value", "cell"),
    [
        (Mood, Mood.GLAD, "glad"),
        (datetime.date, datetime.date(2024, 2, 29), "2024-02-29"),
        (decimal.Decimal, decimal.Decimal("1.50"), "1.50"),
        (list[str], ["a"], ["a"]),
        (str | None, None, None),
        (Item, Item(name="té"), '{"name": "té", "price": null}'),
        (list[Item], [], "[]"),
        (Item | None, None, None),
    ],
    ids=str,
)
def test_outputs(annotation: Any, value: Any, cell: Any) -> None:
    assert Columns(task(annotation)).outputs({"answer": value}) == {"answer": cell}


def test_no_outputs() -> None:
    assert Columns(task(list[str])).outputs(None) == {"answer": None}


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        (int, 2**63, "more than 64 bits"),
        (list[int], [1, -(2**63) - 1], "more than 64 bits"),
        (float, float("inf"), "inf, which JSON cannot say"),
        (float, float("nan"), "nan, which JSON cannot say"),
    ],
    ids=str,
)
def test_numbers_that_no_table_holds(annotation: Any, value: Any, why: str) -> None:
    with pytest.raises(ValueError, match=f"The output answer is .*{why}"):
        Columns(task(annotation)).outputs({"answer": value})


def test_the_largest_numbers_are_held() -> None:
    assert Columns(task(int)).outputs({"answer": 2**63 - 1}) == {"answer": 2**63 - 1}
