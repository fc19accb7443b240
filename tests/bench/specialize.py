"""What tuning gains, and what it takes: one shared prompt, a prompt per model jointly, and `Specialize`.

    python tests/bench/specialize.py --recipe balanced --seeds 5

The models are SIMULATED: they respond to declared phrases, which help some of them and confuse others, so that
no shared prompt can suit all. This shows what the optimizers do with a program of several models, and nothing about
real ones. All get the same number of agents' LM calls: what `Specialize` took. Each is scored on questions of
the bundled wordings that are in no trainset, by the mixture's answer and by its proposers' mean.

With the recipe `balanced` (about 3,800 agents' calls), means of five seeds: the mixture .927 as it is, .938 and .930
after GEPA on the whole of it (one shared prompt, a prompt per model), .965 after GEPA on the proposals with a shared
prompt, .974 after `Specialize`; its proposers .715, .747, .731, .798, .838. By the declared skills the best shared
prompt gives them .81, prompts of their own .87. With `quick` (2,500 calls, one seed) a prompt per model is not worth
it yet: .796 against .800 for the shared one that is tuned on proposals.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from statistics import mean
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import dspy
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from moa_dspy import MoA
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.evaluation import as_metric, prediction_of
from moa_dspy.meter import metered
from moa_dspy.optimizers import Specialize
from moa_dspy.simulated import simulated_lm
from moa_dspy.simulated.questions import bundled_questions, held_back_questions

PROPOSERS = ("alice", "bob", "carol", "dave")


@dataclass(frozen=True)
class Outcome:
    """What one way of tuning came to."""

    way: str
    mixture: float
    proposers: float
    calls: int
    reflections: int


def mixture(specialized: bool = False) -> MoA:
    """Four proposers that share one prompt, or have one each, and a judge."""
    names = [f"simulated/{name}" for name in PROPOSERS]
    return MoA("question -> answer", names, "simulated/judge", use_specialized_prompts=specialized)


def split(seed: int, train: int = 48) -> tuple[list[dspy.Example], list[dspy.Example]]:
    """The bundled questions, shuffled: to learn from, and to compare by."""
    questions = bundled_questions()
    random.Random(seed).shuffle(questions)
    return questions[:train], questions[train:]


def scores(moa: MoA, examples: Sequence[dspy.Example]) -> tuple[float, float]:
    """The mean score of the mixture's answers, and of its proposals."""
    metric = as_metric("exact", moa.signature)

    def ask(example: dspy.Example) -> tuple[float, float]:
        prediction = moa(question=example.question)
        alone = mean(metric(example, prediction_of(proposal.outputs)) for proposal in prediction.proposals)
        return float(metric(example, prediction)), alone

    answers, proposals = zip(*sorted(run_side_by_side(ask, examples, 2)), strict=True)
    return mean(answers), mean(proposals)


def by_stages(seed: int, recipe_name: Any) -> tuple[MoA, int, int]:
    """Each agent alone."""
    train, val = split(seed)
    optimizer = Specialize("exact", recipe=recipe_name, seed=seed)
    with quiet():
        tuned = optimizer.compile(mixture(), trainset=train, valset=val)
    return tuned, optimizer.report.calls, optimizer.report.optimizer_calls


def jointly(seed: int, student: MoA, calls: int) -> tuple[MoA, int, int]:
    """GEPA on the whole mixture, with so many calls of the agents."""
    return gepa(seed, student, told_what_is_right, calls // (len(PROPOSERS) + 1))


def told_what_is_right(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
    """The score, and for GEPA the words that `Specialize` gives it too."""
    right = float(as_metric("exact", mixture().signature)(gold, pred))
    said = f"Score {right:g}. Right would be answer: {gold.answer}. Given was answer: {pred.answer}."
    return right if pred_name is None else dspy.Prediction(score=right, feedback=said)


def gepa(seed: int, student: dspy.Module, metric: Any, runs: int) -> tuple[Any, int, int]:
    """GEPA with so many runs of the student."""
    train, val = split(seed)
    reflecting = simulated_lm("judge")
    optimizer = dspy.GEPA(
        metric=metric,
        max_metric_calls=runs,
        reflection_lm=reflecting,
        num_threads=2,
        seed=seed,
        warn_on_score_mismatch=False,
    )
    with quiet(), metered("all") as meter:
        tuned = optimizer.compile(student, trainset=train, valset=val)
    return tuned, len(meter.calls()) - len(reflecting.history), len(reflecting.history)


class Proposals(dspy.Module):
    """A panel whose proposals are scored, not what is made of them."""

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.proposers: Any = moa.panels[0]

    def forward(self, **inputs: Any) -> dspy.Prediction:
        proposals = self.proposers(**inputs).proposals
        return dspy.Prediction(answers=[prediction_of(proposal.outputs) for proposal in proposals])


def on_proposals(seed: int, calls: int) -> tuple[MoA, int, int]:
    """GEPA on the prompt that the proposers share, scored by how many of them are right."""
    moa = mixture()
    exact = as_metric("exact", moa.signature)

    def share(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> float:
        return mean(exact(gold, answer) for answer in pred.answers)

    tuned, *spent = gepa(seed, Proposals(moa), share, calls // len(PROPOSERS))
    setattr(moa, moa.panel_names[0], tuned.proposers)
    return moa, spent[0], spent[1]


def run(seed: int, recipe_name: str, held: Sequence[dspy.Example]) -> list[Outcome]:
    """All ways, from one split of the data."""
    staged, calls, reflections = by_stages(seed, recipe_name)
    ways: dict[str, Callable[[], tuple[MoA, int, int]]] = {
        "as it is": lambda: (mixture(), 0, 0),
        "GEPA, shared prompt": lambda: jointly(seed, mixture(), calls),
        "GEPA, own prompts": lambda: jointly(seed, mixture(specialized=True), calls),
        "GEPA on proposals, shared": lambda: on_proposals(seed, calls),
        "Specialize, own prompts": lambda: (staged, calls, reflections),
    }
    outcomes = []
    for way, tune in ways.items():
        tuned, *spent = tune()
        outcomes.append(Outcome(way, *scores(tuned, held), *spent))
    return outcomes


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars and the log of DSPy and GEPA."""
    logging.getLogger("dspy").setLevel(logging.ERROR)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def table(runs: Sequence[Sequence[Outcome]]) -> Table:
    """Means over the seeds, with the lowest and the highest."""
    shown = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("way", "mixture", "range", "proposers", "range", "calls", "refl."):
        shown.add_column(heading, justify="left" if heading == "way" else "right")
    for ways in zip(*runs, strict=True):
        cells = []
        for name in ("mixture", "proposers"):
            values = [getattr(way, name) for way in ways]
            cells += [f"{mean(values):.3f}", f"{min(values):.2f}-{max(values):.2f}"]
        calls = [f"{mean(getattr(way, name) for way in ways):,.0f}" for name in ("calls", "reflections")]
        shown.add_row(ways[0].way, *cells, *calls)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="balanced")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    held = held_back_questions()
    runs = [run(seed, options.recipe, held) for seed in range(options.seeds)]
    console = Console()
    console.print(f"SIMULATED models. {len(held)} held-back questions, {options.seeds} seeds, recipe {options.recipe}.")
    console.print(table(runs))


if __name__ == "__main__":
    main()
