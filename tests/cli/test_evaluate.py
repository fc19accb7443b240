import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moa_dspy.cli import app
from moa_dspy.simulated.questions import bundled_questions

TWO = ("-p", "simulated/alice", "-p", "simulated/bob")


def evaluate(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["eval", *map(str, arguments)], env={"COLUMNS": "80"})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write(*(dict(question.items()) for question in bundled_questions()[:12]))


def write(*rows: Any) -> Path:
    path = Path("data.jsonl")
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_it_compares_models_and_mixtures(data: Path) -> None:
    result = evaluate(data, "--by", "kind", "--plot", "plot.png", "--record", "record.jsonl")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80 and "SIMULATED models" in lines[0]
    assert [line for line in lines if line.startswith(" ") and "ms" in line][-1].startswith(" fusion ")
    assert next(line for line in lines if line.startswith("questions")).split()[1:] == ["2"] * 6
    assert "12 questions are few: the intervals are rough." in lines
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    records = [json.loads(line) for line in Path("record.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["question"] for record in records] == list(range(1, 13))
    assert "record.jsonl" in result.stderr and "plot.png" in result.stderr


def test_json_is_all_there_is_on_stdout(data: Path) -> None:
    plain = json.loads(evaluate(data, "--json", *TWO, "-a", "simulated/judge", "-s", "fusion", "-s", "voting").stdout)
    names = ["alice", "bob", "judge", "plain vote", "fusion", "voting", "oracle"]
    assert [row["name"] for row in plain["rows"]] == names


def test_a_vote_needs_no_aggregator(data: Path) -> None:
    plain = json.loads(evaluate(data, "--json", *TWO, "-s", "voting").stdout)
    assert [row["name"] for row in plain["rows"]] == ["alice", "bob", "plain vote", "voting", "oracle"]


def test_a_sample_is_drawn_by_the_seed(data: Path) -> None:
    drawn = []
    for seed in (1, 1, 2):
        evaluate(data, *TWO, "-s", "voting", "--limit", 4, "--seed", seed, "--record", "r.jsonl")
        lines = Path("r.jsonl").read_text(encoding="utf-8").splitlines()
        drawn.append([json.loads(line)["example"]["question"] for line in lines])
    assert len(drawn[0]) == 4 and drawn[0] == drawn[1] != drawn[2]
    assert [question.question for question in bundled_questions() if question.question in drawn[0]] == drawn[0]


def test_the_simulated_panel_is_called_so(data: Path) -> None:
    assert "Simulated models answer" in evaluate(data, "--limit", 1).stderr
    assert "Simulated models answer" not in evaluate(data, "--limit", 1, *TWO, "-s", "voting").stderr


GOOD = '{"question": "a", "answer": "b"}'


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ([GOOD, "", '{"question": "c"}'], [], "Line 3 of data.jsonl has no gold value for answer"),
        (['{"question": "a"}'], [], "Line 1 of data.jsonl has no gold value for answer, so nothing"),
        ([GOOD, "{"], [], "Line 2: this is no JSON"),
        (['{"answer": "b"}'], [], "Line 1: the input question is missing"),
        ([GOOD], ["--signature", "question -> answer: int"], "Line 1 of data.jsonl, gold values"),
        ([GOOD], ["--metric", "nope"], "There is no metric 'nope'"),
        ([GOOD], ["--strategy", "nope"], "There is no strategy 'nope'"),
        ([GOOD], ["--by", "nope"], "No row of data.jsonl has the field 'nope'"),
        ([GOOD], ["--plot", "nowhere/p.png"], "folder nowhere does not exist"),
        ([GOOD], ["--record", "nowhere/r.jsonl"], "folder nowhere does not exist"),
    ],
)
def test_bad_input_is_refused_before_anything_is_asked(
    rows: list[str], arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = evaluate(write(*rows), *arguments)
    assert (result.exit_code, result.stdout) == (2, "") and message in " ".join(result.stderr.split())


def test_a_metric_of_ones_own_needs_no_gold_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own_metric.py").write_text("def short(example, pred, trace=None):\n    return 1 / len(pred.answer)\n")
    metric = ("--metric", "own_metric:short")
    plain = json.loads(evaluate(write({"question": "What is 2 + 3?"}), *TWO, "-s", "voting", *metric, "--json").stdout)
    assert (plain["metric"], [row["score"] for row in plain["rows"]]) == ("own_metric:short", [1.0] * 5)


def test_a_metric_that_fails_on_the_way_shows_what_is_there(data: Path) -> None:
    Path("late_metric.py").write_text(
        "def late(example, pred, trace=None):\n    return None if example.kind == 'geography' else True\n"
    )
    result = evaluate(data, "--metric", "late_metric:late", "--concurrency", 1, *TWO, "-s", "voting")
    assert result.exit_code == 1
    assert "The metric late gave None" in result.stderr and "Stopped after 5 of 12 questions." in result.stdout


def test_an_interrupt_shows_what_is_there(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("stop_metric.py").write_text(
        "def stop(example, pred, trace=None):\n"
        "    if example.kind == 'geography':\n        raise KeyboardInterrupt\n    return True\n"
    )
    result = evaluate(data, "--metric", "stop_metric:stop", "--concurrency", 1, *TWO, "-s", "voting")
    assert result.exit_code == 130 and "Stopped after 5 of 12 questions." in result.stdout


def test_nobody_answering_is_no_comparison(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    Path("moa.json").write_text(
        json.dumps(
            {
                "proposer_models": [{"model": "openai/none", "api_base": "http://127.0.0.1:9", "num_retries": 0}],
                "aggregation_strategy": "voting",
            }
        )
    )
    result = evaluate(data, "--config", "moa.json", "--strategy", "voting")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "No proposer answered the first question, so the others were not asked." in " ".join(result.stderr.split())


def test_failures_are_not_dropped(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any-key")
    dead = {"model": "openai/dead", "api_base": "http://127.0.0.1:9", "num_retries": 0}
    models = {"proposer_models": ["simulated/bob", dead], "aggregation_strategy": "voting"}
    Path("moa.json").write_text(json.dumps(models))
    result = evaluate(data, "--config", "moa.json", "--strategy", "voting")
    text = " ".join(result.stdout.split())
    assert result.exit_code == 0
    assert "dead: failed on 12 of 12 questions, counted as wrong. 12 x LM" in text
    assert "bob: " not in text and "voting: " not in text
