from pathlib import Path
from typing import Any

import pytest
from support.command import moa_dspy, printed, words, write

from moa_dspy import Agent, MoA, Voting


@pytest.fixture
def path(here: Path) -> str:
    agents = [Agent("simulated/alice", name="al", temperature=0.7), Agent("simulated/bob")]
    moa = MoA("question -> n: int", agents, strategy=Voting(weights={"al": 2.5}), use_specialized_prompts=True)
    part: Any = moa.predictors()[0]
    part.signature = part.signature.with_instructions("Count [bold]twice[/bold].")
    part.demos = [{"question": "How many?", "n": 3}]
    moa.save("moa.json")
    return "moa.json"


def test_it_shows_agents_prompts_demos_and_weights(path: str) -> None:
    result = moa_dspy("show", path, "--demos")
    assert result.exit_code == 0
    for text in ("simulated/alice", "temperature: 0.7", "al: 2.5", "n: int", "Count [bold]twice[/bold]."):
        assert text in result.stdout
    assert "proposers.al.program.predict (1 demos)" in result.stdout
    assert "  question: How many?\n  n: 3\n" in result.stdout
    assert "How many?" not in moa_dspy("show", path).stdout


def test_prompts_of_an_aggregator_that_nobody_is_are_left_out(path: str) -> None:
    assert "aggregator.program" not in moa_dspy("show", path).stdout


def test_json(path: str) -> None:
    plain = printed("show", path)
    assert [(agent["name"], agent["model"], agent["layer"]) for agent in plain["agents"]] == [
        *(("al", "simulated/alice", 1), ("bob", "simulated/bob", 1)),
        ("aggregator", None, None),
    ]
    assert plain["config"]["aggregation_strategy"]["weights"] == {"al": 2.5}
    assert plain["prompts"][0]["demos"] == [{"question": "How many?", "n": 3}]


def test_a_config_is_shown_too() -> None:
    write("moa.yaml", "proposer_models: [simulated/alice]\naggregator_model: simulated/judge")
    assert "simulated/judge" in moa_dspy("show", "moa.yaml").stdout


def test_what_is_no_mixture_is_refused() -> None:
    write("other.json", "{}")
    for name in ("other.json", "none.json"):
        result = moa_dspy("show", name)
        assert (result.exit_code, result.stdout) == (2, "") and name in words(result.stderr)
