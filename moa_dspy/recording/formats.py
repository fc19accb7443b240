"""Files of other harnesses: their answers as a recording, and a recording's answers as their judges read them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moa_dspy.files import drafting
from moa_dspy.recording.questions import read_file
from moa_dspy.recording.recording import Recording
from moa_dspy.recording.rows import Row
from moa_dspy.values import as_text, to_json

__all__ = ["read_alpaca_eval", "read_bfcl", "write_alpaca_eval", "write_mt_bench"]


def read_alpaca_eval(*paths: str | Path) -> Recording:
    """Import `model_outputs.json` of AlpacaEval, one file a model: rows of `instruction`, `output`, `generator`.

    Raises:
        ValueError: If a file holds something else, or lacks an instruction that another has.

    Examples:
        ```python
        recording = read_alpaca_eval("gpt4/model_outputs.json", "claude/model_outputs.json")
        ```
    """
    tables: dict[str, dict[str, Any]] = {}
    for path in paths:
        table = _read(path, "instruction", "output")
        name = str(next(iter(table.values())).get("generator") or Path(path).stem)
        if name in tables:
            raise ValueError(f"{path} is of {name!r}, as another file is, so its answers could not be told apart.")
        tables[name] = {key: row["output"] for key, row in table.items()}
    asked = [{"instruction": instruction} for instruction in next(iter(tables.values()))]
    return Recording.from_answers(_align(tables), asked, "instruction -> output")


def read_bfcl(results: Mapping[str, str | Path]) -> Recording:
    """Import results of the Berkeley Function-Calling Leaderboard: model -> its JSON lines of `id` and `result`.

    The questions are known by their ids, whose category (`simple_12`: simple) is in `extra`; calls are JSON text.

    Raises:
        ValueError: If a file holds something else, or lacks an id that another has.
    """
    tables: dict[str, dict[str, Any]] = {}
    for model, path in results.items():
        given = {key: row["result"] for key, row in _read(path, "id", "result").items()}
        tables[model] = {key: said if isinstance(said, str) else to_json(said) for key, said in given.items()}
    asked = [{"question": id, "category": id.rpartition("_")[0]} for id in next(iter(tables.values()))]
    return Recording.from_answers(_align(tables), asked)


def write_alpaca_eval(recording: Recording, path: str | Path, generator: str = "moa") -> None:
    """Write what the mixture answered as AlpacaEval's `model_outputs.json`; the task has one input, the instruction.

    A question without an answer is written with an empty output, so that the judge counts it as lost.
    """
    rows = [
        {"instruction": as_text(next(iter(row.inputs.values()))), "output": _answer(row), "generator": generator}
        for row in recording
    ]
    _write(path, to_json(rows) + "\n")


def write_mt_bench(turns: Sequence[Recording], path: str | Path, model_id: str = "moa") -> None:
    """Write answers as FastChat's judge of MT-Bench reads them: a line a question, its turns in order.

    Args:
        turns: A recording a turn. A question is known by its `question_id` (a field beside the inputs), else its id.
        path: The JSONL file.
        model_id: What the judge calls the mixture.

    Raises:
        ValueError: If a later turn lacks a question of the first.
    """
    tables = [{row.extra.get("question_id", row.id): row for row in recording} for recording in turns]
    lines = []
    for id in tables[0]:
        if any(id not in table for table in tables):
            raise ValueError(
                f"Question {id!r} is not in every turn's recording, so its turns would not belong together."
            )
        choice = {"index": 0, "turns": [_answer(table[id]) for table in tables]}
        line = {"question_id": id, "answer_id": f"{model_id}-{id}", "model_id": model_id, "choices": [choice]}
        lines.append(to_json({**line, "tstamp": time.time()}) + "\n")
    _write(path, "".join(lines))


def _read(path: str | Path, key: str, value: str) -> dict[str, dict[str, Any]]:
    table = {}
    for place, row in read_file(path):
        if not isinstance(row, Mapping) or key not in row or value not in row:
            raise ValueError(f"{place} of {path} has no {key!r} and {value!r}: {row!s:.200}")
        table[str(row[key])] = dict(row)
    if not table:
        raise ValueError(f"{path} holds no answers.")
    return table


def _align(tables: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Model -> its answers, in the order of the first model's."""
    first = next(iter(tables.values()))
    for name, table in tables.items():
        if missing := sorted(first.keys() ^ table.keys()):
            raise ValueError(
                f"{name} and the first model do not answer the same {len(first)} questions: {missing[0]!r:.80}"
            )
    return {name: [table[key] for key in first] for name, table in tables.items()}


def _answer(row: Row) -> str:
    return as_text(next(iter(row.outputs.values()))) if row.outputs else ""


def _write(path: str | Path, text: str) -> None:
    with drafting(Path(path).resolve()) as draft:
        draft.write_text(text, encoding="utf-8")
