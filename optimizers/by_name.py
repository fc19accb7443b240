"""Optimizers by name, each with a recipe's budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.evaluation.metrics import Metric
from moa_dspy.moa import MoA
from moa_dspy.secrets import redact

from .bill import Bill, Stop
from .budgets import Budget, bootstrap_budget, gepa_budget, mipro_budget, specialize_budget
from .checkpoint import Checkpoint, begun, fingerprint, finished
from .feedback import Scored, metric_name
from .interrupted import CompileInterrupted
from .recipes import Recipe
from .report import SpecializationReport, StageReport
from .specialize import Specialize
from .stage import RESUMED

__all__ = ["OPTIMIZERS", "Job"]


@dataclass
class Job:
    """A compile to be run.

    Attributes:
        student: What is compiled; it stays as it is.
        metric: As `Specialize` takes it.
        recipe: How much may be spent.
        trainset: Examples for the optimizer.
        valset: Examples by which programs are compared.
        reflection_lm: What proposes prompts.
        threads: Examples under way at once.
        seed: Of all that is drawn.
        checkpoint: A folder to resume from, for the optimizers that can.
        on_stage: Told of finished stages.
    """

    student: MoA
    metric: str | Metric
    recipe: Recipe
    trainset: Sequence[dspy.Example]
    valset: Sequence[dspy.Example]
    reflection_lm: dspy.BaseLM
    threads: int = 8
    seed: int = 0
    checkpoint: Path | None = None
    on_stage: Callable[[StageReport], None] | None = None

    def budget(self, optimizer: str) -> Budget:
        """What it will take at most."""
        return OPTIMIZERS[optimizer].budget(self.student, self.recipe, len(self.trainset), len(self.valset))

    @property
    def kept(self) -> dict[str, list[str]]:
        """What the checkpoint holds: `finished` and `begun` stages, by name."""
        folder = self.checkpoint
        return {} if folder is None else {"finished": finished(folder), "begun": begun(folder)}

    def scored(self) -> Scored:
        """The metric, as an optimizer of the whole mixture calls it."""
        return Scored(self.metric, self.student.signature, inside="moa.")

    def run(self, optimizer: str) -> tuple[MoA, SpecializationReport]:
        """Compile.

        Raises:
            CompileInterrupted: If an LM or the metric is of no use.
        """
        return OPTIMIZERS[optimizer].run(self)


@dataclass(frozen=True)
class _Named:
    budget: Callable[[MoA, Recipe, int, int], Budget]
    run: Callable[[Job], tuple[MoA, SpecializationReport]]
    resumes: bool = False


class _Billed(dspy.Module):
    """The whole mixture, billed; an optimizer that scores what fails with 0 is ended when nothing answers."""

    def __init__(self, moa: MoA, bill: Bill) -> None:
        super().__init__()
        self.moa = moa
        self.bill = bill

    def forward(self, **inputs: Any) -> Any:
        with self.bill.asking("mixture"):
            return self.moa(**inputs)


def _specialize(job: Job) -> tuple[MoA, SpecializationReport]:
    optimizer = Specialize(
        job.metric,
        recipe=job.recipe,
        reflection_lm=job.reflection_lm,
        num_threads=job.threads,
        seed=job.seed,
        checkpoint=job.checkpoint,
        on_stage=job.on_stage,
    )
    return optimizer.compile(job.student, trainset=job.trainset, valset=job.valset), optimizer.report


def _gepa(job: Job) -> tuple[MoA, SpecializationReport]:
    prompts = len(job.student.named_predictors())
    valset = list(job.valset)
    room = _room(job, "gepa")
    gepa = job.recipe.gepa(
        job.scored(),
        job.reflection_lm,
        len(valset),
        prompts=prompts,
        threads=job.threads,
        seed=job.seed,
        log_dir=room,
    )
    note = RESUMED if room is not None and room.name in begun(room.parent) else ""
    return _jointly(job, lambda program: gepa.compile(program, trainset=list(job.trainset), valset=valset), note)


def _bootstrap(job: Job) -> tuple[MoA, SpecializationReport]:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(
        metric=job.scored(),
        max_bootstrapped_demos=job.recipe.demos,
        max_labeled_demos=0,  # a labelled example shows an aggregator no proposals
        num_candidate_programs=job.recipe.candidates,
        num_threads=job.threads,
    )
    return _jointly(job, lambda program: optimizer.compile(program, trainset=job.trainset, valset=job.valset))


def _mipro(job: Job) -> tuple[MoA, SpecializationReport]:
    optimizer = dspy.MIPROv2(
        metric=job.scored(),
        prompt_model=job.reflection_lm,
        task_model=job.reflection_lm,
        auto=None,
        num_candidates=job.recipe.candidates,
        max_bootstrapped_demos=job.recipe.demos,
        max_labeled_demos=0,
        num_threads=job.threads,
        seed=job.seed,
    )
    return _jointly(
        job,
        lambda program: optimizer.compile(
            program,
            trainset=list(job.trainset),
            valset=list(job.valset),
            num_trials=job.recipe.trials,
            minibatch=False,
        ),
    )


def _room(job: Job, optimizer: str) -> Path | None:
    settings = {
        "optimizer": optimizer,
        "metric": metric_name(job.metric),
        "recipe": vars(job.recipe),
        "reflection": job.reflection_lm.model,
        "seed": job.seed,
    }
    return Checkpoint(job.checkpoint, fingerprint(job.student, [job.trainset, job.valset], settings)).room(optimizer)


def _jointly(job: Job, tune: Callable[[dspy.Module], Any], note: str = "") -> tuple[MoA, SpecializationReport]:
    moa, bill = job.student.deepcopy(), Bill()
    try:
        with dspy.context(**bill.settings()):
            tuned = tune(_Billed(moa.deepcopy(), bill))
    except (Exception, Stop) as error:
        done = bill.report("mixture", note="failed")
        why = error.__cause__ if isinstance(error, Stop) and error.__cause__ else error
        reason = redact(f"The compile failed: {why}", *(agent.lm for agent in moa.agents))
        raise CompileInterrupted(reason, moa, SpecializationReport([done], 0, done.seconds)) from why
    tuned._compiled = False
    found = {name.removeprefix("moa."): predictor for name, predictor in tuned.named_predictors()}
    for name, predictor in moa.named_predictors():
        predictor.signature, predictor.demos = found[name].signature, found[name].demos
    done = bill.report("mixture", kept=True, note=note)
    return moa, SpecializationReport([done], 0, done.seconds)


OPTIMIZERS = {
    "specialize": _Named(specialize_budget, _specialize, resumes=True),
    "gepa": _Named(gepa_budget, _gepa, resumes=True),
    "bootstrap": _Named(bootstrap_budget, _bootstrap),
    "mipro": _Named(mipro_budget, _mipro),
}
"""Name -> what it will take, how it is run, and whether it goes on where it ended."""
