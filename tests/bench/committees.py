"""Weights, committees and recommendations, learned from a fifth of real models' recorded answers, judged on the rest.

    python tests/bench/committees.py --data ../shared/recordings

Somebody's table of answers becomes a `Recording`, the metric scores it once; the 200 splits then are arithmetic on
it, by the very functions that `FitVoteWeights`, `SelectCommittee` and `diagnose` call.

`calls` is what a system takes per question. A difference is the mean over the splits, in points, its 95% interval by
the bootstrap over questions.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from moa_dspy import Agent, MoA, Recording, Voting
from moa_dspy.agent import as_identifier
from moa_dspy.evaluation import difference_interval

committee: Any = import_module("moa_dspy.optimizers.committee")
diagnosis: Any = import_module("moa_dspy.optimizers.diagnose")
numbers: Any = import_module("moa_dspy.optimizers.votes")
weighing: Any = import_module("moa_dspy.optimizers.vote_weights")
Scored: Any = import_module("moa_dspy.optimizers.scoring").Scored

Floats = npt.NDArray[np.float64]

FILES = {"gsm": "gsm.jsonl.gz", "math-l5": "math-l5.answers.jsonl.gz", "crux": "crux.jsonl.gz"}
# Beside all models of a task, panels of one strong model and weak ones, in which one model alone is right.
PANELS: Mapping[str, tuple[str, Sequence[str] | None]] = {
    "gsm": ("gsm", None),
    "math-l5": ("math-l5", None),
    "crux": ("crux", None),
    "crux, 1 strong of 4": (
        "crux",
        ["gpt_4o_mini_2024_07_18", "qwen2_72b_instruct", "gemini_1_5_flash", "gemma_2_9b_it"],
    ),
    "crux, 1 strong of 3": ("crux", ["mistral_large_2", "meta_llama_3_1_70b_instruct", "gemma_2_9b_it"]),
}
SINGLE, PLURALITY = "best single", "plurality"


def read(task: str, data: Path, limit: int | None = None) -> Any:
    """A task's recorded answers as votes."""
    with gzip.open(data / FILES[task], "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines][:limit]
    examples = [
        dspy.Example(question=str(row["question"] or row["id"]), answer=row["gold_key"]).with_inputs("question")
        for row in rows
    ]
    answers = {
        as_identifier(model): [row["outputs"][model].get("key", row["outputs"][model]["answer"]) for row in rows]
        for model in rows[0]["outputs"]
    }
    exact = task == "crux"  # what a program prints: case and white space count
    moa = MoA("question -> answer", [Agent(dspy.LM("any/model"), name=name) for name in answers],
              strategy=Voting(exact_text=exact))  # fmt: skip
    scored = Scored(same if exact else "exact", moa.signature)
    return numbers.Votes.of(moa, Recording.from_answers(answers, examples), examples, scored)


def same(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def learn(votes: Any) -> dict[str, Floats]:
    """System -> the weights of all agents, learned from these questions."""
    fitted, single = weighing.Weights(votes), np.eye(len(votes.agents))[votes.alone.mean(axis=0).argmax()]
    plurality = 1 + 1e-6 * fitted.accuracy  # ties go to the strongest on these questions
    kept = fitted.score_held_out().mean() >= votes.score(plurality).mean() - 1e-9
    made = list(committee.list_committees(votes, len(votes.scores)))
    chosen = committee.pick(made)
    several = {str(one): one for one in (made[-1], chosen) if one.calls > 1}
    advice = diagnosis.recommend(
        dict(zip(votes.agents, votes.alone.T, strict=True)),
        {PLURALITY: votes.score(plurality), **{name: one.scores for name, one in several.items()}},
        {
            **dict.fromkeys(votes.agents, 1),
            PLURALITY: len(votes.agents),
            **{name: one.calls for name, one in several.items()},
        },
    )
    followed = {PLURALITY: plurality, **{name: weigh(votes, one) for name, one in several.items()}}
    return {
        SINGLE: single,
        PLURALITY: plurality,
        "FitVoteWeights": fitted.of() if kept else plurality,
        "SelectCommittee": weigh(votes, chosen),
        "recommendation": followed.get(advice.system, single),
    }


def weigh(votes: Any, candidate: Any) -> Floats:
    weights = candidate.weights or dict.fromkeys(candidate.agents, 1.0)
    return np.array([weights.get(name, 0.0) for name in votes.agents])


class Result:
    """What came of all splits of one panel: the mean score of each question, by system, and the calls."""

    def __init__(self, votes: Any, splits: int, share: float) -> None:
        total: dict[str, Floats] = {}
        self.calls: dict[str, float] = {}
        times = np.zeros(len(votes.scores))
        for split in range(splits):
            order = np.random.default_rng(split).permutation(len(times))
            learned, judged = np.split(order, [round(share * len(order))])
            times[judged] += 1
            for name, weights in learn(votes.rows(learned)).items():
                total.setdefault(name, np.zeros(len(times)))[judged] += votes.rows(judged).score(weights)
                self.calls[name] = self.calls.get(name, 0.0) + float((weights > 0).sum()) / splits
        self.scores = {name: (sums / np.maximum(times, 1))[times > 0] for name, sums in total.items()}

    def table(self, title: str) -> Table:
        """One row per system."""
        made = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
        made.add_column("learned from the calibration part", min_width=18)
        for heading in ("score", "calls", "vs single", "95%", "vs plurality", "95%"):
            made.add_column(heading, justify="right")
        for name, scores in self.scores.items():
            cells = [f"{100 * scores.mean():.2f}", f"{self.calls[name]:.1f}"]
            for other in (SINGLE, PLURALITY):
                low, high = difference_interval(100 * scores, 100 * self.scores[other])
                difference = 100 * (scores.mean() - self.scores[other].mean())
                cells += [f"{difference:+.1f}", f"{low:.1f} to {high:.1f}"] if name != other else ["", ""]
            made.add_row(name, *cells)
        return made


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder with the recordings")
    parser.add_argument("--panel", action="append", choices=list(PANELS), help="only this panel (repeatable)")
    parser.add_argument("--limit", type=int, help="only the first questions")
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.2, help="of the questions, to learn from")
    options = parser.parse_args()
    console, started = Console(width=110), time.perf_counter()
    tasks: dict[str, Any] = {}
    for name in options.panel or PANELS:
        task, models = PANELS[name]
        if task not in tasks:
            tasks[task] = read(task, options.data, options.limit)
        votes = tasks[task] if models is None else tasks[task].of_agents(models, 1)
        result = Result(votes, options.splits, options.share)
        console.print(result.table(f"{name}: {len(votes.scores)} questions, {options.splits} splits"))
    console.print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
