import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from moa_dspy.uniting import lined_up


class Item(BaseModel):
    id: int | None = None
    name: str = ""


def united(*lists: Any, kind: Any = Any) -> list[dict[str, Any]]:
    return lined_up(dict(zip("abcdef", lists, strict=False)), kind)


def test_equal_items_are_one_in_order_of_first_appearance() -> None:
    assert united([3, 1], [2, 1], kind=int) == [{"a": 3}, {"a": 1, "b": 1}, {"b": 2}]


def test_an_item_counts_as_often_as_the_list_that_has_it_most_often() -> None:
    assert united(["x", "x"], ["x"], ["x", "x"], kind=str) == [{"a": "x", "b": "x", "c": "x"}, {"a": "x", "c": "x"}]


def test_text_is_the_same_in_another_case() -> None:
    assert united(["The  cat"], ["the cat", "cat"], kind=str) == [{"a": "The  cat", "b": "the cat"}, {"b": "cat"}]


def test_numbers_are_the_same_within_the_tolerance() -> None:
    assert united([0.1 + 0.2], [0.3, 0.4], kind=float) == [{"a": 0.1 + 0.2, "b": 0.3}, {"b": 0.4}]


@pytest.mark.parametrize("nothing", [None, "", float("nan")])
def test_items_that_say_nothing_are_alike_too(nothing: Any) -> None:
    assert [list(thing) for thing in united([nothing, 1], [nothing, 2])] == [["a", "b"], ["a"], ["b"]]


def test_structures_are_the_same_by_what_identifies_them() -> None:
    a, b, c = {"name": "x", "price": 1}, {"name": "X", "price": 2}, {"name": "y"}
    assert united([a], [c, b]) == [{"a": a, "b": b}, {"b": c}]


@pytest.mark.parametrize("empty", [{}, {"id": None}])
def test_what_does_not_identify_all_items_identifies_none(empty: dict[str, Any]) -> None:
    item, other = {**empty, "price": 1}, {**empty, "price": 2}
    assert united([item], [other]) == [{"a": item}, {"b": other}]
    assert united([item], [item, {"id": 7, "price": 1}]) == [{"a": item, "b": item}, {"b": {"id": 7, "price": 1}}]


def test_an_empty_id_gives_way_to_the_name() -> None:
    assert united([Item(name="x")], [Item(name="X")], kind=Item) == [{"a": Item(name="x"), "b": Item(name="X")}]


def test_what_two_items_of_one_list_share_identifies_none() -> None:
    ada, alan = {"title": "Dr", "last": "Lovelace"}, {"title": "Dr", "last": "Turing"}
    assert united([ada, alan], [alan]) == [{"a": ada}, {"a": alan, "b": alan}]


def test_sets_are_taken_in_one_order() -> None:
    assert united({"c", "a", "b"}, kind=str) == [{"a": "a"}, {"a": "b"}, {"a": "c"}]


def test_long_lists_take_no_time_to_speak_of() -> None:
    lists = [[{"name": f"n{number}"} for number in range(start, start + 300)] for start in range(0, 600, 100)]
    started = time.process_time()
    assert len(united(*lists)) == 800
    assert time.process_time() - started < 2


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from(["x", "X", "y", 1, 1.0, None])), min_size=1, max_size=4))
def test_every_item_of_every_list_has_its_one_place(lists: list[list[Any]]) -> None:
    things = united(*lists)
    for id, items in zip("abcdef", lists, strict=False):
        assert sorted(map(repr, items)) == sorted(repr(thing[id]) for thing in things if id in thing)
