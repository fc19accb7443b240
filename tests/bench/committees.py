"""Weights, committees and recommendations, learned from a fifth of real models' recorded answers, judged on the rest.

    python tests/bench/committees.py --data ../shared/recordings

A loopback server that speaks the OpenAI protocol serves what each model wrote; `dspy.LM` asks for it once, DSPy's
adapter reads it, the metric scores it. The 200 splits then are arithmetic on the recorded proposals, by the very
functions that `FitVoteWeights`, `SelectCommittee` and `diagnose` call.

`calls` is what a system takes per question. A difference is the mean over the splits, its 95% interval by the
bootstrap over questions. `worse` counts splits in which the judged questions alone show the system to be worse (the
paired 95% interval lies below 0), `better` those that show it to be better; 2.5% of each are to be expected of equals.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
sys.path.insert(0, str(Path(__file__).parents[1]))

import dspy
import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from support.openai_server import OpenAIServer
from support.recorded import FILES, load, question_of, recorded_answers

from moa_dspy import Agent, MoA, Voting
from moa_dspy.evaluation import evaluate
from moa_dspy.evaluation.intervals import bootstrap
from moa_dspy.optimizers import VoteMatrix, best_committees, dawid_skene, fit_log_odds, pick, recommend, vote_scores

Floats = npt.NDArray[np.float64]

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
SINGLE, PLURALITY, ALL = "best single", "plurality", "fitted weights"
CHOSEN, ADVICE = "committee", "recommendation"


def recorded(task: str, data: Path, limit: int | None = None, threads: int = 8) -> VoteMatrix:
    """Ask all models all questions of a task over HTTP, once."""
    rows = load(task, data)[:limit]
    exact = task == "crux"  # what a program prints: case and white space count
    with OpenAIServer(recorded_answers(rows)) as server:
        lms = [
            dspy.LM(f"openai/{model}", api_base=server.url, api_key="none", cache=False) for model in rows[0]["outputs"]
        ]
        moa = MoA("question -> answer", [Agent(lm) for lm in lms], strategy=Voting(exact_text=exact))
        examples = [
            dspy.Example(question=question_of(row), answer=row["gold_key"]).with_inputs("question") for row in rows
        ]
        metric: Any = same if exact else "exact"
        with dspy.context(adapter=dspy.JSONAdapter() if exact else dspy.ChatAdapter()):
            comparison = evaluate(moa, examples, metric, strategies=(), aggregator_alone=False, concurrency=threads)
    return VoteMatrix.of(comparison.records, moa)


def same(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def learned(found: VoteMatrix, resamples: int = 2000) -> dict[str, Floats]:
    """System -> the weights of all columns, learned from these questions."""
    fitted = fit_log_odds(found)
    # Ties go to the strongest on these questions.
    plain = 1 + 1e-6 * found.weights(fitted.accuracy)
    committees = best_committees(found)
    scores, calls = [made.scores for made in committees], [made.calls for made in committees]
    chosen, thrifty = committees[pick(scores, calls)], committees[pick(scores, calls, 1.0)]
    considered = {ALL: committees[-1], CHOSEN: chosen}
    mixtures = {name: made for name, made in considered.items() if made.calls > 1}
    advice = recommend(
        dict(zip(found.names, found.solo.T, strict=True)),
        {PLURALITY: vote_scores(found, plain)[0], **{name: made.scores for name, made in mixtures.items()}},
        {
            **dict.fromkeys(found.names, 1),
            PLURALITY: len(found.names),
            **{name: made.calls for name, made in mixtures.items()},
        },
        resamples=resamples,
    )
    followed = {PLURALITY: plain, **{name: found.weights(made.weights) for name, made in mixtures.items()}}
    return {
        SINGLE: np.eye(len(found.names))[found.solo.mean(axis=0).argmax()],
        PLURALITY: plain,
        ALL: found.weights(fitted.weights),
        "fitted without labels": found.weights(dawid_skene(found).weights),
        CHOSEN: found.weights(chosen.weights),
        "committee, 1 SE": found.weights(thrifty.weights),
        "best-scored committee": found.weights(committees[pick(scores, calls, 0.0)].weights),
        ADVICE: followed.get(advice.system, found.weights({advice.system: 1.0})),
    }


def judged(found: VoteMatrix, share: float, split: int) -> tuple[npt.NDArray[np.int64], Floats, list[int]]:
    """One split: the questions that are judged, the scores of the systems on them, and their calls."""
    order = np.random.default_rng(split).permutation(len(found))
    at = round(share * len(found))
    systems = learned(found.rows(order[:at]))
    weights = np.array(list(systems.values()))
    return order[at:], vote_scores(found.rows(order[at:]), weights), (weights > 0).sum(axis=1).tolist()


class Result:
    """What came of all splits of one panel."""

    def __init__(self, found: VoteMatrix, splits: Sequence[tuple[npt.NDArray[np.int64], Floats, list[int]]]) -> None:
        self.names = list(learned(found.rows(slice(None, 20))))
        self.calls = np.mean([calls for _, _, calls in splits], axis=0)
        total, times = np.zeros((len(self.names), len(found))), np.zeros(len(found))
        for questions, scores, _ in splits:
            total[:, questions] += scores
            times[questions] += 1
        self.scores = (total / np.maximum(times, 1))[:, times > 0]
        self.splits = [scores for _, scores, _ in splits]

    def score(self, name: str) -> float:
        return float(self.scores[self.names.index(name)].mean())

    def against(self, name: str, other: str) -> tuple[float, float, float]:
        """The difference in percentage points, and its interval over questions."""
        difference = 100 * (self.scores[self.names.index(name)] - self.scores[self.names.index(other)])
        low, high = bootstrap(difference[:, None])[0]
        return float(difference.mean()), low, high

    def shown(self, name: str, other: str) -> tuple[int, int]:
        """In how many splits the judged questions show it to be worse, and better."""
        gaps = [scores[self.names.index(name)] - scores[self.names.index(other)] for scores in self.splits]
        spread = [1.96 * gap.std() / np.sqrt(len(gap)) for gap in gaps]
        worse = sum(gap.mean() + wide < 0 for gap, wide in zip(gaps, spread, strict=True))
        better = sum(gap.mean() - wide > 0 for gap, wide in zip(gaps, spread, strict=True))
        return int(worse), int(better)


def run(found: VoteMatrix, splits: int, share: float, pool: ProcessPoolExecutor | None = None) -> Result:
    """Judge all splits, on all processors if there is a pool."""
    work = partial(judged, found, share)
    return Result(found, list(map(work, range(splits)) if pool is None else pool.map(work, range(splits), chunksize=5)))


def table(panel: str, result: Result, questions: int, splits: int) -> Table:
    """One row per system."""
    made = Table(title=f"{panel}: {questions} questions, {splits} splits", title_justify="left", box=SIMPLE_HEAD)
    made.add_column("learned from the calibration part")
    for heading in ("score", "calls", "vs single", "95%", "worse", "better", "vs plurality", "95%", "worse", "better"):
        made.add_column(heading, justify="right")
    for index, name in enumerate(result.names):
        cells = []
        for other in (SINGLE, PLURALITY):
            mean, low, high = result.against(name, other)
            worse, better = result.shown(name, other)
            cells += (
                [f"{mean:+.1f}", f"{low:.1f} to {high:.1f}", str(worse), str(better)] if name != other else [""] * 4
            )
        made.add_row(name, f"{100 * result.score(name):.1f}", f"{result.calls[index]:.1f}", *cells)
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
    console = Console(width=130)
    panels = {name: PANELS[name] for name in options.panel or PANELS}
    started, matrices = time.perf_counter(), {}
    for task in FILES:
        if any(task == of for of, _ in panels.values()):
            matrices[task] = recorded(task, options.data, options.limit)
    console.print(f"Recorded over HTTP in {time.perf_counter() - started:.0f} s")
    started, worse = time.perf_counter(), []
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for name, (task, models) in panels.items():
            found = matrices[task] if models is None else matrices[task].of_agents(models)
            result = run(found, options.splits, options.share, pool)
            console.print(table(name, result, len(found), options.splits))
            for ours, other in product((ALL, CHOSEN, ADVICE), (SINGLE, PLURALITY)):
                mean, low, high = result.against(ours, other)
                if high < 0:
                    worse.append(f"{name}: {ours} {mean:+.2f} ({low:.2f} to {high:.2f}) against {other}")
    console.print(f"{options.splits} splits of {len(panels)} panels in {time.perf_counter() - started:.0f} s")
    for line in worse:
        console.print(f"[yellow]Worse, averaged over the splits: {line}[/]")


if __name__ == "__main__":
    main()
