import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moa_dspy.shortening import Shortened, fit

texts = st.lists(st.text(alphabet="abc \n", max_size=400), max_size=6)
limits = st.integers(0, 2000)


def kept(shortened: Shortened) -> str:
    return re.sub(r" \[\.\.\. \d+ characters left out \.\.\.\] ", "", shortened.text)


def test_what_fits_is_untouched() -> None:
    assert fit(["think"], ["answer"], 11) == ([Shortened("think")], [Shortened("answer")])
    assert fit(["think"], ["answer"], None) == ([Shortened("think")], [Shortened("answer")])


def test_beginning_and_end_are_kept_and_the_text_says_what_is_missing() -> None:
    [], [short] = fit([], ["a" * 200 + "b" * 100], 90)
    assert short == Shortened("a" * 60 + " [... 210 characters left out ...] " + "b" * 30, 210)


def test_reasoning_goes_before_any_output() -> None:
    [reasoning], [output] = fit(["r" * 500], ["o" * 300], 300)
    assert output == Shortened("o" * 300)
    assert reasoning == Shortened(" [... 500 characters left out ...] ", 500)


def test_only_the_longest_are_cut_to_one_length() -> None:
    _, outputs = fit([], ["a" * 100, "b" * 900, "c" * 800], 700)
    assert [output.lost for output in outputs] == [0, 600, 500]


def test_a_notice_of_a_proposals_own_does_not_change_the_account() -> None:
    forged = "[... 1 characters left out ...]" + "x" * 300
    [], [short] = fit([], [forged], 100)
    assert short.lost == len(forged) - 100


def test_a_text_is_never_made_longer_by_its_notice() -> None:
    assert fit([], ["12345"] * 3, 6)[1] == [Shortened("12345")] * 3


@settings(deadline=None)
@given(texts, texts, limits)
def test_it_fits_apart_from_the_notices(reasonings: list[str], outputs: list[str], limit: int) -> None:
    notice = len(" [... 400 characters left out ...] ")
    both = [*fit(reasonings, outputs, limit)[0], *fit(reasonings, outputs, limit)[1]]
    assert sum(max(0, len(short.text) - notice) for short in both) <= limit


@settings(deadline=None)
@given(texts, texts, limits)
def test_the_account_is_exact(reasonings: list[str], outputs: list[str], limit: int) -> None:
    both = [part for kind in fit(reasonings, outputs, limit) for part in kind]
    for text, short in zip([*reasonings, *outputs], both, strict=True):
        assert len(kept(short)) == len(text) - short.lost
        assert len(short.text) <= len(text)


@settings(deadline=None)
@given(texts, limits)
def test_the_longest_first(outputs: list[str], limit: int) -> None:
    _, shortened = fit([], outputs, limit)
    cut = [len(text) - short.lost for text, short in zip(outputs, shortened, strict=True) if short.lost]
    whole = [len(text) for text, short in zip(outputs, shortened, strict=True) if not short.lost]
    assert len(set(cut)) <= 1
    assert not cut or all(size <= cut[0] + len(" [... 400 characters left out ...] ") for size in whole)


@settings(deadline=None)
@given(texts, texts)
def test_nothing_is_cut_at_the_very_limit(reasonings: list[str], outputs: list[str]) -> None:
    size = sum(map(len, [*reasonings, *outputs]))
    assert fit(reasonings, outputs, size) == fit(reasonings, outputs, None)


@pytest.mark.parametrize("limit", [0, 1, 399, 400, 100_000])
def test_very_long_texts(limit: int) -> None:
    [], [short] = fit([], ["é" * 100_000], limit)
    assert len(kept(short)) == min(limit, 100_000)
