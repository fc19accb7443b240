from datetime import date
from enum import Enum
from typing import Annotated, Any, Literal

import dspy
import pytest
from pydantic import BaseModel, Field

from moa_dspy.signatures import task_signature
from moa_dspy.values import IncompleteProposal, typed_outputs, validated


class Color(Enum):
    RED = "red"


class Person(BaseModel):
    name: str
    age: int = 0


class Opaque:
    pass


class Unhashable:
    __hash__ = None  # type: ignore[assignment]


def task(annotation: Any, **field: Any) -> type[dspy.Signature]:
    return task_signature("q -> y").delete("y").append("x", dspy.OutputField(**field), annotation)


def typed(value: Any, annotation: Any) -> Any:
    return typed_outputs(dspy.Prediction(x=value), task(annotation))["x"]


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        ("7", int, 7),
        (7, float, 7.0),
        (7, str, "7"),
        ("yes", bool, True),
        ("red", Color, Color.RED),
        ("a", Literal["a", "b"], "a"),
        ("2020-01-02", date, date(2020, 1, 2)),
        ({"name": "Ada"}, Person, Person(name="Ada")),
        ([{"name": "Ada"}], list[Person], [Person(name="Ada")]),
        (["7"], list[Annotated[int, Unhashable()]], [7]),
        (None, str | None, None),
        (None, str, None),
        ([], list[int], []),
        ("x = 1", dspy.Code, dspy.Code(code="x = 1")),
    ],
)
def test_outputs_are_typed_as_the_task_says(value: Any, annotation: Any, expected: Any) -> None:
    assert typed(value, annotation) == expected
    assert type(typed(value, annotation)) is type(expected)


@pytest.mark.parametrize(
    ("value", "annotation"), [("seven", int), ("c", Literal["a", "b"]), ({"age": 1}, Person), ([1, "x"], list[int])]
)
def test_an_output_of_another_type_makes_no_proposal(value: Any, annotation: Any) -> None:
    with pytest.raises(IncompleteProposal, match=r"^The output x is no .*: "):
        typed(value, annotation)


def test_a_value_of_the_declared_type_is_taken_as_it_is() -> None:
    image = dspy.Image(url="https://e.com/x.png")
    assert typed(image, dspy.Image) is image


def test_what_pydantic_does_not_know_is_checked_by_its_class() -> None:
    thing = Opaque()
    assert validated([thing], list[Opaque])[0] is thing
    with pytest.raises(ValueError, match="instance of Opaque"):
        validated([1], list[Opaque])


def test_a_missing_output_is_named() -> None:
    with pytest.raises(IncompleteProposal, match=r"^The prediction lacks x, y; it has z\.$"):
        typed_outputs(dspy.Prediction(z=1), task_signature("q -> x, y"))


def test_a_missing_output_takes_its_default() -> None:
    assert typed_outputs(dspy.Prediction(), task(int, default=3)) == {"x": 3}
    assert typed_outputs(dspy.Prediction(), task(list[int], default_factory=list)) == {"x": []}
    assert typed_outputs(dspy.Prediction(), task(str | None)) == {"x": None}


def test_other_outputs_of_a_program_are_left_out_and_the_order_is_the_tasks() -> None:
    signature = task_signature("q -> x, y")
    assert list(typed_outputs(dspy.Prediction(trajectory=1, y="b", x="a"), signature).items()) == [
        ("x", "a"),
        ("y", "b"),
    ]


@pytest.mark.parametrize("returned", [None, "text", {"x": 1}])
def test_a_program_that_returns_no_prediction_makes_no_proposal(returned: Any) -> None:
    with pytest.raises(IncompleteProposal, match=f"^The program returned {type(returned).__name__}; .* outputs x.$"):
        typed_outputs(returned, task(int))


def test_constraints_hold_where_they_are_asked_for() -> None:
    assert validated([1], Annotated[list[int], Field(max_length=1)]) == [1]
    with pytest.raises(ValueError, match="at most 1 item"):
        validated([1, 2], Annotated[list[int], Field(max_length=1)])
