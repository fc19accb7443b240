"""What calibration rows can promise, and what not."""

from typing import Any

import numpy as np
import pytest

from moa_dspy.certainty import bound_error, count_rows_needed, is_kept, list_cuts
from moa_dspy.certainty import find_threshold as find_among


def find_threshold(confidences: Any, right: Any, max_error: float) -> float | None:
    return find_among(list_cuts(confidences, right), max_error)


def test_the_bound_is_clopper_and_pearsons() -> None:
    # With no error of n, the bound is 1 - 0.1 ** (1 / n).
    assert bound_error(0, 45) == pytest.approx(1 - 0.1 ** (1 / 45))
    bounds = [round(bound_error(*counts), 4) for counts in [(1, 10), (5, 50), (3, 3), (0, 0)]]
    assert bounds == [0.3368, 0.1776, 1.0, 1.0]
    assert is_kept(0, 22, 0.1) and not is_kept(0, 21, 0.1)


@pytest.mark.parametrize(
    ("right", "threshold"),
    [
        pytest.param([1] * 22, 0.79, id="as few as can be, all right"),
        pytest.param([1] * 21, None, id="one fewer"),
        pytest.param([1] * 37 + [0] + [1] * 5, 0.58, id="one wrong, where there are enough"),
        pytest.param([0] + [1] * 60, None, id="the surest is wrong: the first test fails, and no later one is made"),
        pytest.param([1] * 30 + [0] * 9, 0.71, id="it ends where the errors begin"),
    ],
)
def test_the_threshold_is_the_least_of_a_fixed_sequence(right: list[int], threshold: float | None) -> None:
    assert find_threshold([1 - 0.01 * place for place in range(len(right))], right, 0.1) == pytest.approx(threshold)


def test_equal_confidences_stand_or_fall_together() -> None:
    assert find_threshold([0.9] * 40 + [0.8] * 40, [1] * 40 + [1, 0] * 20, 0.1) == 0.9
    assert find_threshold([0.9] * 40, [1] * 20 + [0] * 20, 0.1) is None


def test_the_promise_is_kept_in_nine_of_ten_samples() -> None:
    random, broken = np.random.default_rng(0), 0
    for _ in range(300):
        sure = random.random(200)
        threshold = find_threshold(sure, random.random(200) < sure, 0.1)
        # Of answers above t, (1 - t) / 2 are wrong.
        broken += threshold is not None and (1 - threshold) / 2 > 0.1
    assert broken / 300 <= 0.1


def test_rows_needed_grow_with_the_promise_and_end_where_none_would_do() -> None:
    sure, right = [0.9] * 50 + [0.5] * 50, [1] * 48 + [0] * 2 + [0] * 50
    needed = [count_rows_needed(sure, right, promise) for promise in (0.2, 0.1, 0.05, 0.04)]
    assert needed == [22, 83, 1561, None]
