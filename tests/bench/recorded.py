"""Votes of real models' recorded answers, asked for over HTTP like any provider's.

    python tests/bench/recorded.py --data ../shared/recordings

Every answer goes the whole way: a loopback server that speaks the OpenAI protocol serves what each
model wrote, `dspy.LM` asks for it, DSPy's adapter reads it with the task's type, `Voting` counts.
`key` is the normalised answer, `answer` the one as it was written.
"""

from __future__ import annotations

import argparse
import contextvars
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
sys.path.insert(0, str(Path(__file__).parents[1]))

import dspy
from rich.console import Console
from rich.table import Table
from support.openai_server import OpenAIServer
from support.recorded import load, question_of, recorded_answers

from moa_dspy import Agent, MoA, MoAError, Voting

# The recordings' README: a plurality vote over all models, ties to the strongest.
EXPECTED = {"gsm": 96.4, "math-l5": 59.6, "crux": 78.7}


@dataclass
class Result:
    """One run: a task, served from one column, read as one type."""

    task: str
    column: str
    type: str
    questions: int
    best_single: float
    vote: float
    oracle: float
    unread: int
    lost: list[str]
    seconds: float


def strongest_first(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The models by how often they are right."""
    models = list(rows[0]["outputs"])
    return sorted(models, key=lambda model: -sum(row["outputs"][model]["correct"] for row in rows))


def run(task: str, rows: Sequence[dict[str, Any]], column: Any, type_: str, engine: str, threads: int = 8) -> Result:
    """Ask all models all questions and count."""
    started = time.perf_counter()
    models = strongest_first(rows)
    with OpenAIServer(recorded_answers(rows, column)) as server:
        proposers = [
            Agent(dspy.LM(f"openai/{m}", api_base=server.url, api_key="none", engine=engine, cache=False))
            for m in models
        ]
        # In crux the answers are what a program prints: case and white space count, which ChatAdapter would strip.
        exact = task == "crux"
        moa = MoA(f"question -> answer: {type_}", proposers, strategy=Voting(exact_text=exact))
        adapter = dspy.JSONAdapter() if exact else dspy.ChatAdapter()
        with dspy.context(adapter=adapter), ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(contextvars.copy_context().run, _answer, moa, row) for row in rows]
            answers = [job.result() for job in jobs]
    right = [
        _is_right(pred.answer if pred else None, row["gold_key"], type_)
        for pred, row in zip(answers, rows, strict=True)
    ]
    singles = {agent.name: 0 for agent in moa.panels[0].agents}
    oracle = unread = 0
    for pred, row in zip(answers, rows, strict=True):
        proposals = pred.proposals if pred else []
        good = [p.agent for p in proposals if _is_right(p.outputs["answer"], row["gold_key"], type_)]
        oracle += bool(good)
        unread += len(models) - len(proposals)
        for agent in good:
            singles[agent] += 1
    share = 100 / len(rows)
    lost = [
        f"{question_of(row)[:40]!r}: gold {row['gold_key']!r}, voted {pred.answer if pred else None!r}"
        for ok, pred, row in zip(right, answers, rows, strict=True)
        if not ok
    ]
    return Result(
        task,
        column,
        type_,
        len(rows),
        max(singles.values()) * share,
        sum(right) * share,
        oracle * share,
        unread,
        lost,
        time.perf_counter() - started,
    )


def _answer(moa: MoA, row: dict[str, Any]) -> Any:
    try:
        return moa(question=question_of(row))
    except MoAError:
        return None


def _is_right(answer: Any, gold: str, type_: str) -> bool:
    if answer is None:
        return False
    if type_ == "str":
        return str(answer) == gold
    try:
        return abs(float(answer) - float(gold)) < 1e-6
    except ValueError:
        return False


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the recordings")
    parser.add_argument("--task", action="append", choices=list(EXPECTED), help="only this task (repeatable)")
    parser.add_argument("--limit", type=int, help="only the first questions")
    parser.add_argument("--engine", default="lm15", choices=["lm15", "litellm"], help="DSPy's backend")
    parser.add_argument("--keys-only", action="store_true", help="only the normalised answers")
    parser.add_argument("--lost", type=int, default=0, help="show so many questions that the vote got wrong")
    options = parser.parse_args()
    console = Console(width=100)
    table = Table(title=f"Recorded answers over HTTP, engine {options.engine}")
    for name in ("task", "served", "read as", "questions", "best single", "vote", "expected", "oracle", "unread", "s"):
        table.add_column(name, justify="left" if name in ("task", "served", "read as") else "right")
    wrong = []
    for task in options.task or EXPECTED:
        rows = load(task, options.data)[: options.limit]
        types = [("key", "str")] if options.keys_only else [("key", "str"), *(("answer", t) for t in _types(task))]
        for column, type_ in types:
            result = run(task, rows, column, type_, options.engine)
            whole = column == "key" and options.limit is None
            table.add_row(
                task,
                column,
                type_,
                str(result.questions),
                f"{result.best_single:.1f}",
                f"{result.vote:.1f}",
                f"{EXPECTED[task]:.1f}" if whole else "",
                f"{result.oracle:.1f}",
                str(result.unread),
                f"{result.seconds:.0f}",
            )
            for line in result.lost[: options.lost]:
                console.print(f"[dim]{task} {column} {type_}[/] {line}", highlight=False)
            if whole and abs(result.vote - EXPECTED[task]) > 0.2:
                wrong.append(f"{task}: {result.vote:.2f}, expected {EXPECTED[task]}")
    console.print(table)
    if wrong:
        sys.exit("Not within 0.2 of what the recordings give: " + "; ".join(wrong))


def _types(task: str) -> list[str]:
    return ["str"] if task == "crux" else ["str", "float", "int"]


if __name__ == "__main__":
    main()
