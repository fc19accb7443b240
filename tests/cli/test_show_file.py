import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moa_dspy import Agent, MoA, Voting
from moa_dspy.cli import app


def show(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["show", *map(str, arguments)], env={"COLUMNS": "80"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    agents = [Agent("simulated/alice", name="al", temperature=0.7), Agent("simulated/bob")]
    moa = MoA("question -> n: int", agents, strategy=Voting(weights={"al": 2.5}), use_specialized_prompts=True)
    part: Any = moa.predictors()[0]
    part.signature = part.signature.with_instructions("Count twice.")
    part.demos = [{"question": "How many?", "n": 3}]
    moa.save(tmp_path / "moa.json")
    return tmp_path / "moa.json"


def test_it_shows_agents_prompts_demos_and_weights(path: Path) -> None:
    result = show(path, "--demos")
    assert result.exit_code == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0][-4:] == ["question", "->", "n:", "int"] and lines[1][0].startswith("voting")
    assert ["al", "simulated/alice", "2.5", "temperature=0.7"] in [line[:3] + line[-1:] for line in lines]
    assert "Count twice." in result.stdout and "proposers.al.program.predict (1 demos)" in result.stdout
    assert "  question: How many?\n  n: 3\n" in result.stdout


def test_an_aggregator_that_nobody_is_is_not_shown_as_one(path: Path) -> None:
    text = show(path).stdout
    assert "none: votes are counted" in text and "settings.lm" not in text and "aggregator.program" not in text
    assert "weights=" not in text and "tolerance" not in text


def test_demos_are_counted_unless_asked_for(path: Path) -> None:
    assert "How many?" not in show(path).stdout and "(1 demos)" in show(path).stdout


def test_json(path: Path) -> None:
    plain = json.loads(show(path, "--json").stdout)
    assert [(agent["name"], agent["model"], agent["weight"]) for agent in plain["agents"]] == [
        ("al", "simulated/alice", 2.5),
        ("bob", "simulated/bob", None),
        ("aggregator", None, None),
    ]


def test_what_is_no_mixture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text("{}")
    for name, message in (("other.json", "holds no mixture"), ("none.json", "No such file")):
        result = show(tmp_path / name)
        assert (result.exit_code, result.stdout) == (2, "") and message in " ".join(result.stderr.split())
