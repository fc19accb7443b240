import json
from pathlib import Path
from typing import Any

import pytest

from moa_dspy import MoA, Recording, record
from moa_dspy.recording.formats import read_alpaca_eval, read_bfcl, write_alpaca_eval, write_mt_bench

NAMES = ["simulated/alice", "simulated/bob"]


def written(path: Path, rows: Any, lines: bool = False) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) if lines else json.dumps(rows), encoding="utf-8")
    return path


def said(recording: Recording) -> list[list[Any]]:
    return [[next(iter(proposal.outputs.values())) for proposal in row.proposals] for row in recording]


def alpaca(path: Path, generator: str, outputs: dict[str, str]) -> Path:
    return written(path, [{"instruction": i, "output": o, "generator": generator} for i, o in outputs.items()])


def test_alpaca_evals_outputs_come_in_whatever_their_order(tmp_path: Path) -> None:
    one = alpaca(tmp_path / "a.json", "gpt-4", {"x": "1", "y": "2"})
    other = alpaca(tmp_path / "b.json", "claude", {"y": "4", "x": "3"})
    recording = read_alpaca_eval(one, other)
    assert (recording.agents, said(recording)) == (["gpt_4", "claude"], [["1", "3"], ["2", "4"]])
    with pytest.raises(ValueError, match="do not answer the same"):
        read_alpaca_eval(one, alpaca(tmp_path / "c.json", "short", {"x": "1"}))


def test_bfcls_results_come_in_with_their_category(tmp_path: Path) -> None:
    rows = [{"id": "simple_0", "result": [{"f": {"x": 1}}]}, {"id": "live_simple_1", "result": "none"}]
    recording = read_bfcl({"m": written(tmp_path / "m.json", rows, lines=True)})
    assert said(recording) == [['[{"f":{"x":1}}]'], ["none"]] or said(recording) == [['[{"f": {"x": 1}}]'], ["none"]]
    assert [row.extra for row in recording] == [{"category": "simple"}, {"category": "live_simple"}]
    with pytest.raises(ValueError, match="has no 'id' and 'result'"):
        read_bfcl({"m": written(tmp_path / "n.json", [{"id": "x"}], lines=True)})


def test_answers_go_out_as_the_official_judges_read_them(tmp_path: Path) -> None:
    moa = MoA("instruction -> output", NAMES, "simulated/judge")
    asked = [
        {"instruction": f"What is the capital of {one}?", "question_id": n} for n, one in ((81, "Peru"), (82, "Chile"))
    ]
    recording = record(moa, asked)
    write_alpaca_eval(recording, tmp_path / "out.json", "mine")
    rows = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert rows[0] == {"instruction": "What is the capital of Peru?", "output": "Lima", "generator": "mine"}
    assert said(read_alpaca_eval(tmp_path / "out.json")) == [["Lima"], ["Santiago"]]
    write_mt_bench([recording, recording], tmp_path / "mt.jsonl", "mine")
    lines = [json.loads(line) for line in (tmp_path / "mt.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["question_id"], line["model_id"], line["choices"]) for line in lines] == [
        (81, "mine", [{"index": 0, "turns": ["Lima", "Lima"]}]),
        (82, "mine", [{"index": 0, "turns": ["Santiago", "Santiago"]}]),
    ]
    with pytest.raises(ValueError, match="82 is not in every turn"):
        write_mt_bench([recording, recording[:1]], tmp_path / "mt.jsonl")
