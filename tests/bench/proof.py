"""What certainty is worth on real models' recorded answers: learned from a fifth of the questions, judged on the rest.

    python tests/bench/proof.py --data ../shared/recordings --plot docs/pictures/calls.png

In every split, weights, committees, routes, cascades and thresholds are learned from the one part by the very
functions that the optimizers call, and judged on the other. `gain` is in points, against the better of best single
model and plurality, with the 95% interval over questions. `kept` is the share of splits in which no more answers were
wrong than was promised; `refused` that of splits whose rows bore no promise.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.committees import FILES, read
from moa_dspy.agent import as_identifier

prove: Any = import_module("moa_dspy.optimizers.proof").prove_votes
Votes: Any = import_module("moa_dspy.optimizers.votes").Votes

BFCL = "bfcl.answers.jsonl.gz"
TASKS = [*FILES, "bfcl"]
TITLES = {
    "gsm": "school maths, 7 models",
    "math-l5": "competition maths, 7 models",
    "crux": "what a program prints, 8 models",
    "bfcl": "function calls, 7 models",
}
MIDDLE = slice(5, 12)  # of 17 models by their accuracy: the seven in the middle


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a recording."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_bfcl(data: Path) -> tuple[Any, list[str]]:
    """Function calls: answers are told apart by their text, and right by the official verdict; and their categories."""
    rows = read_rows(data / BFCL)
    right = {model: sum(row["outputs"][model]["correct"] for row in rows) for model in rows[0]["outputs"]}
    models = sorted(right, key=lambda model: -right[model])[MIDDLE]
    answers = [[row["outputs"][model]["answer"] for model in models] for row in rows]
    numbered = [[-2 if one is None else said.index(one) for one in said] for said in answers]
    scores = [[float(row["outputs"][m]["correct"] and row["outputs"][m]["answer"] is not None) for m in models]
              for row in rows]  # fmt: skip
    names = [as_identifier(model) for model in models]
    return Votes(names, np.array(numbered), np.array(scores)), [row["category"] for row in rows]


def embed(texts: list[str], size: int = 512) -> Any:
    """What stands in for an embedding model, where none can be reached: words hashed into a vector."""
    table = np.zeros((len(texts), size))
    for row, text in zip(table, texts, strict=True):
        for word in text.lower().split():
            row[sum(ord(letter) * 31**place for place, letter in enumerate(word)) % size] += 1
    return np.log1p(table)


def load(task: str, data: Path, limit: int | None) -> tuple[Any, Any]:
    """A task's recorded votes, and what its questions are routed by; None where their text is not recorded."""
    if task == "bfcl":
        votes, keys = read_bfcl(data)
        return votes.rows(slice(limit)), keys[:limit]
    questions = [row["question"] for row in read_rows(data / FILES[task])][:limit]
    return read(task, data, limit), None if None in questions else list(embed(questions))


def plot(proofs: dict[str, Any], path: Path) -> None:
    """Right answers against calls per question, a picture a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.9), layout="constrained")
    shown = figure.subplots(1, len(proofs), squeeze=False)[0]
    for axes, (task, proof) in zip(shown, proofs.items(), strict=True):
        rows = {row.name: row for row in proof.rows if row.gain is not None}
        cascades = [row for name, row in rows.items() if name.startswith("cascade")]
        axes.plot([r.calls for r in cascades], [100 * r.right for r in cascades], color="C2", lw=1)
        named = {"best single": "C0", "plurality": "C1", "committee": "C3"}
        for rows_of, color, marker, label in [
            *(([rows[name]], color, "o", name) for name, color in named.items()),
            (cascades, "C2", "s", "cascade, which may lose 0, 1, 2%"),
        ]:
            axes.scatter(
                [r.calls for r in rows_of],
                [100 * r.right for r in rows_of],
                s=30,
                color=color,
                marker=marker,
                label=label,
            )
        axes.set_title(TITLES[task], size=10)
        axes.set(xlabel="calls per question", xlim=(0, 8.5))
        axes.margins(y=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    shown[0].set_ylabel("right answers, %")
    figure.legend(*shown[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the recordings")
    parser.add_argument("--task", action="append", choices=TASKS, help="only this task (repeatable)")
    parser.add_argument("--limit", type=int, help="only the first questions")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.2, help="of the questions, to learn from")
    parser.add_argument("--plot", type=Path, help="draw right answers against calls into this file")
    options = parser.parse_args()
    console, started, proofs = Console(width=130), time.perf_counter(), dict[str, Any]()
    for task in options.task or TASKS:
        votes, keys = load(task, options.data, options.limit)
        proofs[task] = prove(votes, keys=keys, splits=options.splits, share=options.share)
        console.print(proofs[task].table(f"{task}: "))
    if options.plot is not None:
        plot(proofs, options.plot)
    console.print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
