import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

TWO = ("-p", "simulated/alice", "-p", "simulated/bob")


def diagnosed(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["diagnose", *map(str, arguments)], env={"COLUMNS": "80", "TERM": "dumb"})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = Path("data.jsonl")
    rows = [json.dumps(dict(question.items())) for question in bundled_questions()[:12]]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_it_says_what_to_use_and_why(data: Path) -> None:
    result = diagnosed("--data", data, "--plot", "plot.html")
    text = " ".join(result.stdout.split())
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 80
    assert "Weighted votes, their scores less what" in text and "Self-MoA: " in text
    assert " alone, after correcting " in text and Path("plot.html").exists()
    assert "At most 168 LM calls: 12 questions x (4 proposals + 5 of the aggregator + 5 Self-MoA)." in " ".join(
        result.stderr.split()
    )


def test_json_is_all_there_is_on_stdout(data: Path) -> None:
    result = diagnosed("-d", data, *TWO, "-s", "voting", "--no-self-moa", "--json")
    plain = json.loads(result.stdout)
    assert plain["recommendation"]["verdict"] in ("mix", "single", "unclear")
    assert plain["comparison"]["spent"]["calls"] == 24 and plain["diversity"]["agents"] == ["alice", "bob"]


def test_what_it_costs_is_told_without_spending(data: Path) -> None:
    result = diagnosed("-d", data, *TWO, "-s", "voting", "--dry-run")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "At most 48 LM calls: 12 questions x (2 proposals + 0 of the aggregator + 2 Self-MoA)." in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "nope"], "There is no metric 'nope'"),
        (["--strategy", "nope"], "There is no strategy 'nope'"),
        (["--plot", "nowhere/p.png"], "folder nowhere does not exist"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_refused(data: Path, arguments: list[str], message: str) -> None:
    result = diagnosed("-d", data, *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and message in " ".join(result.stderr.split())


def test_what_was_answered_is_shown_when_a_proposer_dies(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    dead = {"model": "openai/dead", "api_base": "http://127.0.0.1:9", "num_retries": 0}
    models = {"proposer_models": ["simulated/bob", dead], "aggregation_strategy": "voting"}
    Path("moa.json").write_text(json.dumps(models))
    result = diagnosed("-d", data, "--config", "moa.json", "-s", "voting", "--no-self-moa")
    text = " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (1, "")
    assert "dead could not be reached for 12 of 12 proposals" in text and "plain vote" in text
    assert "Once they answer again, the same command" in text and "recorded=" not in text


@pytest.mark.parametrize(
    ("name", "end", "status", "message"),
    [("stop", "raise KeyboardInterrupt", 130, "Interrupted."), ("late", "return None", 1, "The metric late gave None")],
)
def test_what_was_answered_is_shown_when_it_is_cut_short(
    data: Path, name: str, end: str, status: int, message: str
) -> None:
    lines = [f"def {name}(example, pred, trace=None):", f"    if example.kind == 'geography': {end}", "    return True"]
    Path(f"cut_{name}.py").write_text("\n".join(lines))
    result = diagnosed("-d", data, *TWO, "-s", "voting", "--metric", f"cut_{name}:{name}", "--concurrency", 1)
    assert result.exit_code == status and message in result.stderr
    assert "Stopped after 5 of 12 questions." in result.stderr
