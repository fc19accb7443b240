"""Optimizers by name, each with a recipe's budget; and the split of examples that they are given."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation import Metric
from moa_dspy.moa import MoA
from moa_dspy.models import redact

from .checkpoint import Checkpoint
from .recipes import Budget, Recipe, calls_per_answer
from .reports import SpecializationReport, StageReport
from .scoring import Scored, Stop, metric_name
from .specialize import Specialize, explain
from .stages import INSIDE, Stage
from .students import CompileInterrupted, check_mixture, checked_sets, require_optuna

__all__ = ["OPTIMIZERS", "build", "split"]

OPTIMIZERS = ("specialize", "gepa", "bootstrap", "mipro")
"""Names that `build` knows: `Specialize`, and DSPy's on the whole mixture."""


def build(
    name: Literal["specialize", "gepa", "bootstrap", "mipro"],
    metric: str | Metric,
    *,
    recipe: Literal["quick", "balanced", "thorough"] | Recipe = "balanced",
    reflection_lm: dspy.BaseLM | None = None,
    num_threads: int = 8,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    on_stage: Callable[[StageReport], None] = lambda stage: None,
) -> Specialize | Jointly:
    """The optimizer of this name, with a recipe's budget.

    Args:
        name: One of `OPTIMIZERS`.
        metric: As `Specialize` takes it.
        recipe: How much may be spent.
        reflection_lm: What proposes prompts; by default the aggregator's.
        num_threads: Examples under way at once.
        seed: Of all that is drawn.
        checkpoint: A folder to resume from, for the optimizers that can (`optimizer.resumes`).
        on_stage: Told of finished stages.

    Returns:
        Has `compile(student, trainset=..., valset=...)`, `budget(student, trainset, valset)`, `report`, `resumes`.

    Raises:
        ValueError: If there is none, or it lacks a package.

    Example:
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> build("gepa", "exact", recipe="quick").budget(moa, trainset=20, valset=20).formula
        '197 runs x 3 calls'
    """
    settings: dict[str, Any] = {
        "recipe": recipe,
        "reflection_lm": reflection_lm,
        "num_threads": num_threads,
        "seed": seed,
        "checkpoint": checkpoint,
        "on_stage": on_stage,
    }
    if name == "specialize":
        return Specialize(metric, **settings)
    if name not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {name!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
    return Jointly(name, metric, **settings)


def split(
    examples: Sequence[dspy.Example], heldout: float = 0.3, seed: int = 0
) -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
    """Examples to learn from, to compare by, and to hold back; the first two are halves of the rest.

    Args:
        examples: All of them.
        heldout: The share that no optimizer sees.
        seed: Of the shuffle.

    Raises:
        ValueError: If there are too few.

    Example:
        >>> [len(part) for part in split([dspy.Example(question=str(n)) for n in range(10)], heldout=0.2)]
        [4, 4, 2]
    """
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    held = round(heldout * len(shuffled)) or int(heldout > 0)
    rest = shuffled[held:]
    if len(rest) < 2:
        raise ValueError(
            f"{len(shuffled)} examples are too few: with {held} held back, an optimizer needs one to learn from and "
            "one to compare by. Give more, or hold less back."
        )
    return rest[: len(rest) // 2], rest[len(rest) // 2 :], shuffled[:held]


class Jointly(Teleprompter):
    """One of DSPy's optimizers on the whole mixture, metered, ended when nothing answers; see `build`."""

    def __init__(
        self,
        name: str,
        metric: str | Metric,
        *,
        recipe: str | Recipe,
        reflection_lm: dspy.BaseLM | None,
        num_threads: int,
        seed: int,
        checkpoint: str | Path | None,
        on_stage: Callable[[StageReport], None],
    ) -> None:
        super().__init__()
        self.name = name
        self.metric = metric
        self.recipe = Recipe.named(recipe)
        self.reflection_lm = reflection_lm
        self.num_threads = num_threads
        self.seed = seed
        self.resumes = name == "gepa"
        self.checkpoint = checkpoint if self.resumes else None
        self.on_stage = on_stage
        self.report = SpecializationReport()
        if name == "mipro":
            require_optuna("mipro")

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most."""
        recipe, prompts, valset = self.recipe, len(student.named_predictors()), valset or trainset
        if self.name == "gepa":
            runs, proposals = recipe.most_runs(valset, prompts), recipe.most_reflections(valset, prompts)
        elif self.name == "bootstrap":
            # The program without demos, with labelled ones (here none), with the first and `candidates` further sets.
            runs, proposals = (recipe.candidates + 3) * valset + (recipe.candidates + 1) * trainset, 0
        else:
            runs = (recipe.trials + 1) * valset + recipe.candidates * trainset
            # A proposal takes three calls (the program, the module, the instruction); data are summed up in tens.
            proposals = 3 * recipe.candidates * prompts + trainset // 10 + 3
        each = calls_per_answer(student)
        return Budget(runs * each, proposals, f"{runs} runs x {each} calls")

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self, student: MoA, *, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None = None
    ) -> MoA:
        """Compile a copy.

        Raises:
            ValueError, TypeError: As `Specialize.compile`.
            CompileInterrupted: If an LM or the metric is of no use.
        """
        check_mixture(student, self.name)
        train, val = checked_sets(student, trainset, valset, self.metric)
        scored = Scored(self.metric, student.signature, inside=INSIDE)
        scored.try_on_gold(train[0])
        settings: dict[str, Any] = {
            "optimizer": self.name,
            "metric": metric_name(self.metric),
            "recipe": vars(self.recipe),
        }
        settings |= {"seed": self.seed, "reflection": getattr(self.reflection_lm, "model", None)}
        room = Checkpoint(self.checkpoint, student, [train, val or train], settings).room(self.name)
        moa = student.deepcopy()
        stage = Stage(
            "mixture",
            moa.deepcopy(),
            scored,
            train,
            val or train,
            self._build,
            self.num_threads,
            room,
            compares=False,
            arguments={"num_trials": self.recipe.trials, "minibatch": False} if self.name == "mipro" else {},
        )
        try:
            report, found = stage.run()
        except (Exception, Stop) as error:
            report = stage.report(note="failed")
            self.report = SpecializationReport([report], 0, report.seconds)
            said = explain([("mixture", error)]).partition(" failed: ")[2]
            reason = redact(f"The compile failed: {said}", *(agent.lm for agent in moa.agents))
            raise CompileInterrupted(reason, program=moa, report=self.report) from error
        for name, predictor in moa.named_predictors():
            if name in found:
                predictor.signature, predictor.demos = found[name].signature, found[name].demos
        self.report = SpecializationReport([report], 0, report.seconds)
        self.on_stage(report)
        return moa

    def _build(self, stage: Stage) -> Any:
        lm = self.reflection_lm or stage.program.get_lm() or dspy.settings.lm
        if self.name == "mipro":
            return dspy.MIPROv2(
                metric=stage.scored,
                prompt_model=lm,
                task_model=lm,
                auto=None,
                num_candidates=self.recipe.candidates,
                max_bootstrapped_demos=self.recipe.demos,
                max_labeled_demos=0,
                num_threads=self.num_threads,
                seed=self.seed,
            )
        if self.name == "bootstrap":
            return dspy.BootstrapFewShotWithRandomSearch(
                metric=stage.scored,
                max_bootstrapped_demos=self.recipe.demos,
                max_labeled_demos=0,  # a labelled example shows an aggregator no proposals
                num_candidate_programs=self.recipe.candidates,
                num_threads=self.num_threads,
            )
        return self.recipe.gepa(
            stage.scored,
            lm,
            len(stage.valset),
            prompts=len(stage.program.named_predictors()),
            log_dir=stage.room,
            num_threads=self.num_threads,
            seed=self.seed,
        )
