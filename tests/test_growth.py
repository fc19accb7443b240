"""Work on what models write is linear in its size, whatever they write: tests/bench/growth.py has the figures."""

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from support.growth import ON_STRUCTURES, ON_TEXT, STRUCTURES, TEXTS

from moa_dspy import MoA, streaming
from moa_dspy.values import as_text


@pytest.mark.parametrize("work", ON_TEXT)
def test_no_text_stops_the_process(work: str) -> None:
    for name, write in TEXTS.items():
        written, started = write(200_000), time.process_time()
        ON_TEXT[work](written)
        # Linear work takes hundredths of a second, and what takes the square of the length at least five.
        assert time.process_time() - started < 2, name


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


def test_a_streamed_reply_is_not_read_anew_with_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def from_json(text: str, **options: Any) -> Any:
        read.append(len(text))
        return {"answer": text[12:]}

    monkeypatch.setattr(streaming, "from_json", from_json)
    moa = MoA("question -> answer", ["simulated/alice"], "simulated/judge")
    field = streaming._Field(dspy.streaming.StreamListener("answer"), moa)
    with dspy.context(adapter=dspy.JSONAdapter()):
        pieces = [field.read(chunk_of(text)) for text in ['{"answer": "', *["abcd"] * 20_000]]
    assert sum(read) < 300 * 80_000 and "".join(pieces) == field.sent and len(field.sent) > 79_000
    whole: Any = dspy.Prediction(answer="abcd" * 20_000)
    assert field.rest(whole).chunk == ("abcd" * 20_000)[len(field.sent) :]


def chunk_of(text: str) -> Any:
    """A piece of a reply, as LiteLLM gives it."""
    return SimpleNamespace(choices=[SimpleNamespace(delta=SimpleNamespace(content=text))])
