import json

import pytest
from rich.console import Console
from rich.table import Table
from support.comparisons import comparison

from moa_dspy.evaluation import Comparison, Row, System, difference_interval, mean_interval, wilson
from moa_dspy.evaluation.scores import Kind

KINDS: dict[str, Kind] = {"judge": "aggregator", "synthesis": "strategy", "oracle": "oracle"}
RIGHT = {
    "a": [1, 0, 1, 0, 1, 0, 0, 0],
    "judge": [1, 1, 1, 0, 0, 0, 1, 0],
    "synthesis": [1, 1, 1, 1, 1, 0, 1, 0],
    "oracle": [1, 1, 1, 1, 1, 1, 1, 0],
}


def shown(table: Table, width: int = 80) -> list[str]:
    console = Console(width=width, file=None, record=True, color_system=None)
    with console.capture() as captured:
        console.print(table)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_a_row_sums_a_system_up() -> None:
    row = comparison(RIGHT, KINDS, {"synthesis": 0.03}).row("synthesis")
    assert row.cost_usd == pytest.approx(0.03) and row.tokens == 330
    assert row == Row(
        name="synthesis",
        kind="strategy",
        score=0.75,
        interval=wilson(6, 8),
        difference=0.25,
        difference_interval=difference_interval(RIGHT["synthesis"], RIGHT["judge"]),
        calls=3.0,
        prompt_tokens=300.0,
        completion_tokens=30.0,
        cost_usd=row.cost_usd,
        seconds=1.5,
        failures=0,
        fallbacks=0,
        cached=0,
    )


def test_scores_that_are_no_counts_have_a_bootstrap_interval() -> None:
    made = comparison({"a": [0.5, 1.0, 0.25]})
    assert "0.58" in "".join(shown(made.table(80)))
    assert made.row("a").interval == pytest.approx(mean_interval([0.5, 1.0, 0.25]))


def test_what_the_cache_answered_is_left_out() -> None:
    row = comparison({"a": [1, -1, -1]}, cached=True).row("a")
    assert (row.failures, row.calls, row.tokens, row.cost_usd, row.seconds, row.cached) == (2, 1, None, None, None, 3)


def test_a_price_that_is_not_known_is_not_nothing() -> None:
    made = comparison({"a": [1, 1]})
    assert made.row("a").cost_usd is None
    answer = made.questions[0].answers["a"]
    assert answer.calls is not None
    answer.calls[0].cost_usd = 0.5
    assert made.__class__(made.systems, made.questions, 2, "exact").row("a").cost_usd == 0.5


def test_it_splits_by_kind_of_question() -> None:
    made = comparison(RIGHT, KINDS, groups=["x", "y"])
    parts = made.split("kind")
    assert {name: part.scores("judge").tolist() for name, part in parts.items()} == {
        "x": [1, 1, 0, 1],
        "y": [1, 0, 0, 0],
    }
    assert list(made.split(lambda example: len(example.question))) == [2]
    assert [line.split() for line in shown(made.split_table("kind"))[2:]] == [
        ["questions", "4", "4"],
        ["a", "75", "0"],
        ["judge", "75", "25"],
        ["synthesis", "100", "50"],
    ]


def test_the_results_are_strict_json() -> None:
    plain = json.loads(json.dumps(comparison(RIGHT, KINDS).to_dict(), allow_nan=False))
    assert plain["rows"][0] | {"interval": 0, "difference_interval": 0} == {
        "name": "a",
        "kind": "proposer",
        "score": 0.375,
        "interval": 0,
        "difference": -0.125,
        "difference_interval": 0,
        "calls": 1,
        "prompt_tokens": 100,
        "completion_tokens": 10,
        "cost_usd": None,
        "seconds": 0.5,
        "failures": 0,
        "fallbacks": 0,
        "cached": 0,
        "tokens": 110,
    }
    assert {key: plain[key] for key in ("simulated", "questions", "planned", "metric", "score", "best_single")} == {
        "simulated": False,
        "questions": 8,
        "planned": 8,
        "metric": "exact",
        "score": "accuracy",
        "best_single": "judge",
    }


def test_before_a_question_is_finished_there_is_no_row() -> None:
    made = Comparison([System("a", "proposer")], [], 5, "exact")
    assert (made.rows, made.to_dict()["best_single"]) == ([], None)


def test_the_table_shows_every_system_against_the_best() -> None:
    made = comparison(RIGHT, KINDS, {"a": 0.00123, "judge": 0.02, "synthesis": 1.5})
    assert [line.split() for line in shown(made.table(80))] == [
        ["acc.", "%", "95%", "gain", "95%", "calls", "tokens", "USD", "time"],
        ["─" * len(shown(made.table(80))[1])],
        ["alone"],
        ["a", "37.5", "14-69", "-12.5", "-50.0", "to", "25.0", "1", "110", "0.0012", "500", "ms"],
        ["judge", "50.0", "22-78", "best", "2", "220", "0.020", "1.0", "s"],
        ["mixed"],
        ["synthesis", "75.0", "41-93", "+25.0", "0.0", "to", "62.5", "3", "330", "1.500", "1.5", "s"],
        ["bound"],
        ["oracle", "87.5", "53-98", "+37.5", "12.5", "to", "75.0", "-", "-", "-", "-"],
    ]
    assert "13.7-69.4" in "".join(shown(made.table(120), 120))
    assert [line.split() for line in str(made).splitlines()] == [line.split() for line in shown(made.table(80))]


def test_long_names_give_way_to_the_numbers_and_are_whole() -> None:
    name = "a_model_with_a_very_[long]_name_indeed"
    lines = shown(comparison({name: [1, 0, 1]}, costs={name: 0.0021}).table(80))
    assert max(map(len, lines)) <= 80 and lines[3].endswith(" 0.0021  500 ms")
    assert "".join(line.split()[0] for line in lines[3:]) == name
