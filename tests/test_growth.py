"""Work on what models write is linear in its size, whatever they write: tests/bench/growth.py has the figures."""

import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.growth import ON_STRUCTURES, ON_TEXT, STRUCTURES, TEXTS

from moa_dspy.values import as_text


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("work", ON_TEXT)
def test_no_text_stops_the_process(work: str, text: str) -> None:
    written = TEXTS[text](200_000)
    started = time.process_time()
    ON_TEXT[work](written)
    # Linear work takes hundredths of a second, and what takes the square of the length at least five.
    assert time.process_time() - started < 2


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("work", ON_STRUCTURES)
def test_four_times_the_structure_is_four_times_the_work(work: str, name: str) -> None:
    kind, build = STRUCTURES[name]
    few, many = (count_calls(ON_STRUCTURES[work], build(size), kind) for size in (4_000, 16_000))
    assert many <= 5 * few


def count_calls(work: Callable[[list[Any], Any], Any], values: list[Any], kind: Any) -> int:
    """How many functions are called."""
    calls = 0

    def see(frame: Any, event: str, argument: Any) -> None:
        nonlocal calls
        calls += 1

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        work(values, kind)
    finally:
        sys.setprofile(before)
    return calls


def test_deep_nesting_is_not_indented_to_a_hundred_times_its_length() -> None:
    value: list[Any] = []
    for depth in range(150):
        value = [value, depth]
    assert len(as_text(value)) < 2_000 and as_text([[1], 2]) == "[\n  [\n    1\n  ],\n  2\n]"
