from pathlib import Path

import pytest
from support.command import moa_dspy, printed

SYSTEMS = [*("alice", "bob", "carol", "dave", "judge"), *("plain vote", "synthesis", "selection", "voting", "fusion")]


@pytest.fixture(scope="module")
def plot(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "plot.html"


@pytest.fixture(scope="module")
def shown(plot: Path) -> list[str]:
    result = moa_dspy("demo", "--plot", plot)
    assert result.exit_code == 0
    return result.stdout.splitlines()


def test_it_shows_every_system_in_80_columns(shown: list[str]) -> None:
    systems = [next((name for name in [*SYSTEMS, "oracle"] if line.startswith(f" {name} ")), "") for line in shown]
    assert [name for name in systems if name][:11] == [*SYSTEMS, "oracle"]
    assert max(map(len, shown)) <= 80


def test_no_price_is_a_dash_and_not_nothing(shown: list[str]) -> None:
    rows = [line.split() for line in shown if line.endswith(" ms")]
    assert [row[-3] for row in rows] == ["-"] * 10


def test_it_is_marked_as_simulated(shown: list[str], plot: Path) -> None:
    assert "SIMULATED models: they show how mixing works and say nothing about real ones." in shown
    assert "SIMULATED" in plot.read_text(encoding="utf-8")


def test_it_says_who_is_good_at_what_and_what_comes_next(shown: list[str]) -> None:
    heading = next(number for number, line in enumerate(shown) if line.startswith("questions "))
    assert shown[heading - 2].split() == ["%", "arithmetic", "ordering", "units", "dates", "strings", "geography"]
    assert shown[heading].split()[1:] == ["20"] * 6
    assert 'moa-dspy ask "What is the capital of Scotland?"' in "\n".join(shown[-6:])


def test_its_results_as_json_show_what_mixing_is_for() -> None:
    plain = printed("demo")
    scores = {row["name"]: row["score"] for row in plain["rows"]}
    alone = max(row["score"] for row in plain["rows"] if row["kind"] in ("proposer", "aggregator"))
    assert (plain["simulated"], plain["questions"], plain["spent"]["cost_usd"]) == (True, 120, None)
    assert {row["cost_usd"] for row in plain["rows"]} == {None}
    assert all(scores[name] > alone for name in ("synthesis", "selection", "voting", "fusion"))
