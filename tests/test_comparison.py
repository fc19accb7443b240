import json

import dspy
import pytest
from rich.console import Console
from rich.table import Table
from support.comparisons import comparison

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.comparison_row import Row
from moa_dspy.evaluation.comparison_table import split_table
from moa_dspy.evaluation.intervals import difference_interval, mean_interval, wilson
from moa_dspy.evaluation.records import Answer, Kind, Record, Spent, System
from moa_dspy.usage import LMCall

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
    row = comparison(RIGHT, KINDS, {"synthesis": 0.02}).row("synthesis")
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
        cost_usd=0.02,
        seconds=1.5,
        failures=0,
        fallbacks=0,
        cached=0,
    )


def test_the_best_single_model_may_be_the_aggregators_and_is_no_mixture() -> None:
    assert comparison(RIGHT, KINDS).best_single == "judge"
    assert comparison(RIGHT, KINDS).row("judge").difference_interval is None
    assert comparison({"a": [1, 0], "b": [0, 1]}).best_single == "a"


def test_scores_that_are_no_counts_have_a_bootstrap_interval() -> None:
    made = comparison({"a": [0.5, 1.0, 0.25]})
    assert not made.is_accuracy
    assert made.row("a").interval == pytest.approx(mean_interval([0.5, 1.0, 0.25]))


def test_the_oracle_takes_nothing_that_could_be_measured() -> None:
    row = comparison(RIGHT, KINDS).row("oracle")
    assert (row.calls, row.tokens, row.cost_usd, row.seconds) == (None, None, None, None)


def test_failures_are_counted() -> None:
    assert comparison({"a": [1, -1, -1]}).row("a").failures == 2


def test_a_price_that_is_not_known_is_not_nothing() -> None:
    known, unknown = LMCall(agent="a", model="m", cost_usd=0.5), LMCall(agent="a", model="m")
    assert Spent.of([known, known], 1.0, samples=2).cost_usd == 0.5
    assert Spent.of([known, unknown], 1.0).cost_usd is None
    assert Spent.of([unknown], 1.0).cost_usd is None
    assert Spent.of([LMCall(agent="a", model="m", cost_usd=0.0, cache_hit=True)], 1.0).cached


def test_questions_of_unknown_cost_do_not_make_a_system_cheaper() -> None:
    spent = [Spent(1, 10, 10, 0.5, 1.0), Spent(1, 10, 10, None, 1.0)]
    records = [
        Record(number, dspy.Example(), {}, {"a": Answer({}, 1.0, one)}, []) for number, one in enumerate(spent, start=1)
    ]
    assert Comparison([System("a", "proposer")], records, 2, "exact").row("a").cost_usd == 0.5


def test_it_splits_by_kind_of_question() -> None:
    parts = comparison(RIGHT, KINDS, groups=["x", "y"]).split(lambda example: example.kind)
    assert {group: part.scores("synthesis").tolist() for group, part in parts.items()} == {
        "x": [1, 1, 1, 1],
        "y": [1, 1, 0, 0],
    }


def test_it_is_plain_data() -> None:
    made = comparison(RIGHT, KINDS)
    plain = json.loads(json.dumps(made.to_dict()))
    assert plain["best_single"] == "judge" and plain["score"] == "accuracy" and not plain["simulated"]
    assert plain["rows"][2]["interval"] == list(made.row("synthesis").interval)
    assert plain["rows"][2]["tokens"] == 330.0


def test_nothing_finished_is_no_result() -> None:
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


def test_a_wide_terminal_gets_a_decimal_more() -> None:
    assert "13.7-69.4" in "".join(shown(comparison(RIGHT, KINDS).table(120), 120))


def test_long_names_give_way_to_the_numbers_and_are_whole() -> None:
    name = "a_model_with_a_very_long_name_indeed"
    lines = shown(comparison({name: [1, 0, 1]}, costs={name: 0.0021}).table(80))
    assert max(map(len, lines)) <= 80 and lines[3].endswith(" 0.0021 500 ms")
    assert "".join(line.split()[0] for line in lines[3:]) == name


def test_mean_scores_are_no_percentages() -> None:
    text = "\n".join(shown(comparison({"a": [0.5, 0.5], "b": [0.25, 0.75]}).table(80)))
    assert "score" in text and "0.50-0.50" in text and "+0.00" in text and "%  " not in text.replace("95%", "")


def test_the_split_table_has_a_column_for_each_kind() -> None:
    table = split_table(comparison(RIGHT, KINDS, groups=["x", "y"]), lambda example: example.kind)
    assert [line.split() for line in shown(table)[2:]] == [
        ["questions", "4", "4"],
        ["a", "75", "0"],
        ["judge", "75", "25"],
        ["synthesis", "100", "50"],
    ]
