import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from support.command import (
    DEAD,
    TWO,
    Process,
    moa_dspy,
    printed,
    words,
    write,
    write_config,
    write_metric,
    write_questions,
)
from support.openai_server import OpenAIServer, Reply
from support.rendering import render

from moa_dspy import Recording
from moa_dspy.cli import evaluate

GOOD = '{"question": "a", "answer": "b"}'


@pytest.fixture(autouse=True)
def data(here: Path) -> None:
    write_questions("data.jsonl", 12)


def test_it_compares_models_and_mixtures() -> None:
    result = moa_dspy("eval", "data.jsonl", "--by", "kind", "--plot", "plot.png", "--out", "rows.jsonl")
    shown = result.stdout.splitlines()
    assert result.exit_code == 0 and max(map(len, shown)) <= 80 and "SIMULATED models" in shown[0]
    assert all(name in result.stdout for name in ("alice", "plain vote", "synthesis", "fusion", "oracle", "geography"))
    assert "12 questions are few: the intervals are rough." in shown
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    assert "rows.jsonl" in result.stderr and "plot.png" in result.stderr
    assert all({"synthesis", "fusion"} <= row.verdicts.keys() for row in Recording.load("rows.jsonl"))


def test_on_60_columns_numbers_are_whole_and_nothing_is_cut_short() -> None:
    shown = moa_dspy("eval", "data.jsonl", columns=60).stdout
    assert "…" not in shown and "tokens" not in shown.partition("alone")[0]
    assert re.search(r"^ synthesis +\d+ +\d+-\d+ +[+-]\d+ +-?\d+ to -?\d+ +-$", shown, re.MULTILINE)


def test_json_is_all_there_is_on_stdout() -> None:
    names = ["alice", "bob", "judge", "plain vote", "fusion", "voting", "oracle"]
    plain = printed("eval", "data.jsonl", *TWO, "-a", "simulated/judge", "-s", "fusion", "-s", "voting")
    assert [row["name"] for row in plain["rows"]] == names


def test_the_names_of_json_are_those_that_the_help_gives() -> None:
    plain = printed("eval", "data.jsonl", *TWO, "-s", "voting")
    shown = words(moa_dspy("eval", "--help", columns=500).stdout)
    named = re.search(r"--json prints (.+?) \((.+?)\), (.+?)\.", shown)
    assert named is not None
    before, of_rows, after = (re.findall(r"\w+", part) for part in named.groups())
    assert {*before, *after} - {"and"} == plain.keys() and set(of_rows) == plain["rows"][0].keys()


def test_a_vote_needs_no_aggregator() -> None:
    plain = printed("eval", "data.jsonl", *TWO, "-s", "voting")
    assert [row["name"] for row in plain["rows"]] == ["alice", "bob", "plain vote", "voting", "oracle"]


def test_a_sample_is_drawn_by_the_seed() -> None:
    drawn = []
    for seed, out in ((1, "a"), (1, "b"), (2, "c")):
        moa_dspy("eval", "data.jsonl", *TWO, "-s", "voting", "--limit", 4, "--seed", seed, "--out", out)
        drawn.append([row.inputs["question"] for row in Recording.load(out)])
    assert len(drawn[0]) == 4 and drawn[0] == drawn[1] != drawn[2]
    asked = [json.loads(line)["question"] for line in Path("data.jsonl").read_text().splitlines()]
    assert [text for text in asked if text in drawn[0]] == drawn[0]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([GOOD, "", '{"question": "c"}'], [], "Row 2 of rows.jsonl has no gold value for answer"),
        (['{"question": "a"}'], [], "Row 1 of rows.jsonl has no gold value for answer"),
        ([GOOD, "{"], [], "Line 2: this is no JSON"),
        (['{"answer": "b"}'], [], "Line 1: the input question is missing"),
        ([GOOD], ["--metric", "nope"], "'nope'"),
        ([GOOD], ["--strategy", "nope"], "'nope'"),
        ([GOOD], ["--by", "nope"], "No row of rows.jsonl has the field 'nope'"),
        ([GOOD], ["--plot", "nowhere/p.png"], "nowhere"),
        ([GOOD], ["--out", "nowhere/r.jsonl"], "nowhere"),
        ([GOOD], ["--recording", "rows.jsonl"], "one of them"),
        ([GOOD], ["--limit", "0"], "--limit"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(rows: list[str], arguments: list[str], message: str) -> None:
    write("rows.jsonl", *rows)
    result = moa_dspy("eval", "rows.jsonl", *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and message in words(result.stderr)


def test_a_metric_of_ones_own_needs_no_gold_outputs() -> None:
    write("open.jsonl", {"question": "What is 2 + 3?"})
    short = write_metric("short", "return 1 / len(pred.answer)")
    plain = printed("eval", "open.jsonl", *TWO, "-s", "voting", "--metric", short)
    assert (plain["metric"], [row["score"] for row in plain["rows"]]) == (short, [1.0] * 5)


@pytest.mark.parametrize(("end", "status"), [("raise KeyboardInterrupt", 130), ("return None", 1)])
def test_what_was_scored_is_shown_when_it_is_cut_short(end: str, status: int) -> None:
    late = write_metric(f"late{status}", f"if example.kind == 'geography': {end}", "return True")
    result = moa_dspy("eval", "data.jsonl", "--metric", late, "--concurrency", 1, *TWO, "-s", "voting")
    assert result.exit_code == status and "Stopped after 5 of 12 questions." in result.stdout
    assert ("Interrupted." if status == 130 else "gave None") in words(result.stderr)


def test_nobody_answering_is_no_comparison() -> None:
    write("moa.json", {"proposer_models": [DEAD], "aggregation_strategy": "voting"})
    result = moa_dspy("eval", "data.jsonl", "--config", "moa.json", "--strategy", "voting")
    assert (result.exit_code, result.stdout) == (1, "") and "first question" in words(result.stderr)


def test_failures_are_not_dropped() -> None:
    write("moa.json", {"proposer_models": ["simulated/bob", DEAD], "aggregation_strategy": "voting"})
    result = moa_dspy("eval", "data.jsonl", "--config", "moa.json", "--strategy", "voting")
    text = words(result.stdout)
    assert result.exit_code == 0
    assert "dead: failed on 12 of 12 questions, counted as wrong. 12 x LM" in text
    assert "bob: " not in text and "voting: " not in text


def test_a_recording_is_scored_anew_without_a_call() -> None:
    first = printed("eval", "data.jsonl", *TWO, "-s", "voting", "--out", "rows.jsonl")
    again = printed("eval", "--recording", "rows.jsonl", *TWO, "-s", "voting", "--metric", "contains")
    assert [row["name"] for row in again["rows"]] == [row["name"] for row in first["rows"]]
    assert again["metric"] == "contains" and again["spent"]["calls"] == first["spent"]["calls"] == 24
    result = moa_dspy("eval", "rows.jsonl")
    assert result.exit_code == 2 and "is a recording of answers" in words(result.stderr)
    assert "--recording rows.jsonl" in words(result.stderr)


def test_further_metrics_and_other_wordings_are_measured() -> None:
    options = ("eval", "data.jsonl", *TWO, "-s", "voting", "--also", "contains", "--perturb")
    assert printed(*options, "--dry-run")["calls"] == 94  # one wording is the question as it stands
    plain = printed(*options)
    assert {one["name"] for one in plain["measures"]} >= {"exact", "contains", "robustness"}
    assert 24 < plain["spent"]["calls"] <= 4 * 24 and plain["questions"] == 12
    assert printed(*options, "--dry-run")["calls"] == plain["spent"]["calls"]
    printed("eval", "data.jsonl", *TWO, "-s", "voting", "--out", "rows.jsonl")
    assert printed(*options, "--out", "rows.jsonl", "--dry-run")["calls"] == plain["spent"]["calls"] - 24
    assert "robustness" in moa_dspy(*options, columns=140).stdout


def test_a_proof_of_a_recording_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "SPLITS", 20)
    write_questions("many.jsonl", 100)
    three = (*TWO, "-p", "simulated/carol", "-s", "voting")
    printed("eval", "many.jsonl", *three, "--out", "rows.jsonl")
    again = ("eval", "--recording", "rows.jsonl", *three, "--by", "kind", "--proof")
    proof = printed(*again)["proof"]
    assert (proof["questions"], proof["splits"]) == (100, 20)
    assert [row["name"] for row in proof["rows"]][:4] == ["best single", "plurality", "committee", "route"]
    shown = moa_dspy(*again, columns=140).stdout
    assert "100 questions, learned from 20%, 20 splits" in shown and "calibrated at 5%" in shown
    few = moa_dspy("eval", "data.jsonl", *TWO, "-s", "voting", "--proof")
    assert few.exit_code == 0 and "too little to learn from" in words(few.stderr) and "oracle" in few.stdout


def test_killed_it_goes_on_where_it_was() -> None:
    def answer(request: Any) -> Reply:
        return Reply(render("chat", {"reasoning": "so", "answer": "391"}))

    with OpenAIServer(answer) as server:
        server.latency = 0.05
        write_config(server, "a", "b", aggregation_strategy="voting")
        command = ("eval", "data.jsonl", "-c", "moa.json", "-s", "voting", "--out", "rows.jsonl", "--concurrency", "2")
        process = Process(*command)
        process.signal(signal.SIGKILL, server, after=9)
        process.end()
        kept, asked = len(Recording.load("rows.jsonl")), len(server.requests)
        assert kept >= 2 and moa_dspy(*command).exit_code == 0
        assert len(server.requests) <= asked + 2 * (12 - kept) and len(Recording.load("rows.jsonl")) == 12
