import math

import numpy as np
import pytest

from moa_dspy.evaluation import Interval, difference_interval, mean_interval, wilson


@pytest.mark.parametrize(
    ("right", "asked", "expected"),
    [
        # Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_intervals(right: int, asked: int, expected: tuple[float, float]) -> None:
    assert tuple(round(bound, 4) for bound in wilson(right, asked)) == expected


def test_the_bootstrap_of_a_mean_agrees_with_the_closed_form() -> None:
    scores = np.random.default_rng(1).normal(5.0, 2.0, size=400)
    half = 1.959964 * scores.std() / math.sqrt(400)
    assert mean_interval(scores) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=0.01)


def test_a_paired_difference_takes_out_what_the_questions_share() -> None:
    random = np.random.default_rng(2)
    hard = random.normal(0.0, 10.0, size=300)
    better, worse = hard + 1.0 + random.normal(0.0, 0.5, size=300), hard
    half = 1.959964 * (better - worse).std() / math.sqrt(300)
    center = float((better - worse).mean())
    assert difference_interval(better, worse) == pytest.approx((center - half, center + half), abs=0.005)


def test_the_seed_fixes_the_interval() -> None:
    scores = np.random.default_rng(4).random(30)
    assert mean_interval(scores, seed=5) == mean_interval(scores, seed=5) != mean_interval(scores, seed=6)
    assert mean_interval([0.5, 0.5, 0.5]) == Interval(0.5, 0.5)


def test_a_difference_is_one_on_the_same_questions() -> None:
    with pytest.raises(ValueError, match="2 scores against 1"):
        difference_interval([1.0, 2.0], [1.0])


@pytest.mark.parametrize("counts", [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_what_is_no_count(counts: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="right answers of"):
        wilson(*counts)


@pytest.mark.parametrize("scores", [[], [float("nan")], [float("inf"), 1.0]])
def test_the_bootstrap_refuses_scores_that_are_none(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="finite scores of at least one question"):
        mean_interval(scores)
