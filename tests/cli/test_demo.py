import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moa_dspy.cli import app


def demo(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["demo", *arguments], env={"COLUMNS": "80"})
    assert result.exit_code == 0
    return result.stdout


@pytest.fixture(scope="module")
def plot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "plot.html"


@pytest.fixture(scope="module")
def lines(plot: Path) -> list[str]:
    return demo("--plot", str(plot)).splitlines()


def test_it_shows_every_system_in_80_columns(lines: list[str]) -> None:
    rows = [line.split() for line in lines if " to " in line or " best " in line]
    assert [" ".join(row[:2]) if row[0] == "plain" else row[0] for row in rows[:11]] == [
        *("alice", "bob", "carol", "dave", "judge"),
        *("plain vote", "synthesis", "selection", "voting", "fusion"),
        "oracle",
    ]
    assert max(map(len, lines)) <= 80


def test_no_price_is_a_dash_and_not_nothing(lines: list[str]) -> None:
    rows = [line.split() for line in lines if line.endswith(" ms")]
    assert [row[-3] for row in rows] == ["-"] * 10


def test_it_is_marked_as_simulated(lines: list[str], plot: Path) -> None:
    assert "SIMULATED models: they show how mixing works and say nothing about real ones." in lines
    assert "SIMULATED models: accuracy against tokens" in plot.read_text(encoding="utf-8")


def test_it_says_who_is_good_at_what(lines: list[str]) -> None:
    heading = next(number for number, line in enumerate(lines) if line.startswith("questions "))
    assert lines[heading - 2].split() == ["%", "arithmetic", "ordering", "units", "dates", "strings", "geography"]
    assert lines[heading].split()[1:] == ["20"] * 6


def test_it_says_what_comes_next(lines: list[str]) -> None:
    text = "\n".join(lines[-6:])
    assert 'moa-dspy ask "What is the capital of Scotland?"' in text and "moa-dspy eval DATA.jsonl" in text


def test_its_results_as_json_show_what_mixing_is_for() -> None:
    plain = json.loads(demo("--json"))
    scores = {row["name"]: row["score"] for row in plain["rows"]}
    alone = max(row["score"] for row in plain["rows"] if row["kind"] in ("proposer", "aggregator"))
    assert (plain["simulated"], plain["questions"], plain["spent"]["cost_usd"]) == (True, 120, None)
    assert [row["cost_usd"] for row in plain["rows"]] == [None] * 11
    assert all(scores[name] > alone for name in ("synthesis", "selection", "voting", "fusion"))
