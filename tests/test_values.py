import math
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from pydantic import BaseModel

from moa_dspy.signatures import task_signature
from moa_dspy.values import as_text, hash_of, to_json, to_jsonable, typed_outputs


class Mood(Enum):
    GOOD = "good"


class Point(BaseModel):
    x: float
    tags: set[str] = set()


@dataclass
class Pair:
    left: int
    right: Any


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (math.nan, None),
        ({"a": [math.inf, 1.5]}, {"a": [None, 1.5]}),
        ({"b", "a"}, ["a", "b"]),
        (Mood.GOOD, "good"),
        (Point(x=math.nan, tags={"b", "a"}), {"x": None, "tags": ["a", "b"]}),
        (Pair(1, Pair(2, date(2026, 1, 2))), {"left": 1, "right": {"left": 2, "right": "2026-01-02"}}),
        (Decimal("1.10"), "1.10"),
        (Path("a/b"), "a/b"),
        (np.float64(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        ({1: "\ud800"}, {"1": "\ufffd"}),
    ],
)
def test_every_value_has_a_json_form(value: Any, expected: Any) -> None:
    assert to_jsonable(value) == expected


def test_what_has_none_is_named_without_its_address() -> None:
    assert "0x" not in to_json({"it": object()}) and hash_of(object()) == hash_of(object())


def test_a_structure_that_holds_itself_is_named() -> None:
    ring: list[Any] = []
    ring.append(ring)
    assert to_jsonable(ring) == "[[...]]"


def test_text_for_readers_has_real_line_breaks() -> None:
    assert as_text("a\nb") == "a\nb"
    assert as_text({"code": "x\ny", "path": "c:\\new"}) == '{\n  "code": "x\ny",\n  "path": "c:\\\\new"\n}'


def test_outputs_are_typed_as_the_task_says() -> None:
    task = task_signature("question -> answer: int, sure: bool")
    assert typed_outputs(dspy.Prediction(answer="7", sure="yes", more=1), task) == {"answer": 7, "sure": True}
