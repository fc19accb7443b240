from pathlib import Path

import pytest
from support.command import DEAD, TWO, moa_dspy, printed, words, write, write_metric, write_questions

from moa_dspy import Recording

VOTE = ("diagnose", "-d", "data.jsonl", *TWO, "-s", "voting")


@pytest.fixture(autouse=True)
def data(here: Path) -> None:
    write_questions("data.jsonl", 12)


def test_it_says_what_to_use_and_why() -> None:
    result = moa_dspy("diagnose", "--data", "data.jsonl", "--plot", "plot.html")
    assert result.exit_code == 0 and max(map(len, result.stdout.splitlines())) <= 80
    assert "Weighted votes" in result.stdout and "Self-MoA: " in words(result.stdout) and Path("plot.html").exists()
    said = "At most 168 LM calls: 12 questions x (4 proposals + 5 of the aggregator + 5 Self-MoA)."
    assert said in words(result.stderr)


def test_json_is_all_there_is_on_stdout() -> None:
    plain = printed(*VOTE, "--no-self-moa")
    assert plain["recommendation"]["verdict"] in ("mix", "single", "unclear")
    assert plain["comparison"]["spent"]["calls"] == 24 and plain["diversity"]["agents"] == ["alice", "bob"]


def test_what_it_costs_is_told_without_spending() -> None:
    result = moa_dspy(*VOTE, "--dry-run")
    formula = "12 questions x (2 proposals + 0 of the aggregator + 2 Self-MoA)"
    assert (result.exit_code, result.stdout) == (0, "") and f"At most 48 LM calls: {formula}." in words(result.stderr)
    assert printed(*VOTE, "--dry-run") == {"calls": 48, "formula": formula}


def test_every_answer_is_kept_and_not_asked_again() -> None:
    moa_dspy(*VOTE, "--no-self-moa", "--out", "rows.jsonl")
    assert len(Recording.load("rows.jsonl")) == 12
    assert printed(*VOTE, "--no-self-moa", "--out", "rows.jsonl")["comparison"]["spent"]["calls"] == 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "nope"], "'nope'"),
        (["--strategy", "nope"], "'nope'"),
        (["--plot", "nowhere/p.png"], "nowhere"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], message: str) -> None:
    result = moa_dspy("diagnose", "-d", "data.jsonl", *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and message in words(result.stderr)


def test_what_was_answered_is_shown_and_kept_when_a_proposer_dies() -> None:
    write("moa.json", {"proposer_models": ["simulated/bob", DEAD], "aggregation_strategy": "voting"})
    options = ("-c", "moa.json", "-s", "voting", "--no-self-moa", "--out", "rows.jsonl")
    result = moa_dspy("diagnose", "-d", "data.jsonl", *options)
    text = words(result.stderr)
    assert (result.exit_code, result.stdout) == (1, "") and len(Recording.load("rows.jsonl")) == 12
    assert "dead could not be reached for 12 of 12 proposals" in text and "plain vote" in text
    assert "The same command again goes on from rows.jsonl." in text


@pytest.mark.parametrize(("end", "status"), [("raise KeyboardInterrupt", 130), ("return None", 1)])
def test_what_was_scored_is_shown_when_it_is_cut_short(end: str, status: int) -> None:
    late = write_metric(f"late{status}", f"if example.kind == 'geography': {end}", "return True")
    result = moa_dspy(*VOTE, "--no-self-moa", "--metric", late, "--concurrency", 1)
    assert (result.exit_code, result.stdout) == (status, "")
    assert "Stopped after 5 of 12 questions." in result.stderr
