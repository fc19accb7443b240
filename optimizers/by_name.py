"""Optimizers by name, each with a recipe's budget; and the split of examples that they are given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import dspy

from moa_dspy.evaluation import Metric
from moa_dspy.moa import MoA

from .compiling import Compiling
from .examples import require_optuna
from .recipes import Budget, calls_per_answer
from .specialize import Specialize
from .stages import Stage

__all__ = ["OPTIMIZERS", "build", "split"]

OPTIMIZERS = ("specialize", "gepa", "bootstrap", "mipro")
"""Names that `build` knows: `Specialize`, and DSPy's on the whole mixture."""


def build(
    name: Literal["specialize", "gepa", "bootstrap", "mipro"], metric: str | Metric, **settings: Any
) -> Specialize:
    """The optimizer of this name, with a recipe's budget.

    Args:
        name: One of `OPTIMIZERS`.
        metric: As `Specialize` takes it.
        **settings: As `Specialize` takes them: `recipe`, `reflection_lm`, `num_threads`, `seed`, `checkpoint` (for
            the optimizers that resume), `on_stage`.

    Returns:
        Has `compile(student, trainset=..., valset=...)`, `budget(student, trainset, valset)`, `report`, `resumes`.

    Raises:
        ValueError: If there is none, or it lacks a package.

    Examples:
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> build("gepa", "exact", recipe="quick").budget(moa, trainset=20, valset=20).formula
        '197 runs x 3 calls'
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {name!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
    return Specialize(metric, **settings) if name == "specialize" else Jointly(name, metric, **settings)


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

    Examples:
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


class Jointly(Specialize):
    """One of DSPy's optimizers on the whole mixture, metered, ended when nothing answers; see `build`."""

    def __init__(self, name: str, metric: str | Metric, **settings: Any) -> None:
        super().__init__(metric, **settings)
        self.name = name
        self.resumes = name == "gepa"
        if name == "mipro":
            require_optuna(name)

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

    def build_optimizer(self, stage: Stage) -> Any:
        """The optimizer of the one stage."""
        lm = self.reflection_lm or stage.program.get_lm() or dspy.settings.lm
        # No labelled demos: a labelled example shows an aggregator no proposals.
        demos: dict[str, Any] = {
            "max_bootstrapped_demos": self.recipe.demos,
            "max_labeled_demos": 0,
            "num_threads": self.num_threads,
        }
        if self.name == "bootstrap":
            return dspy.BootstrapFewShotWithRandomSearch(
                metric=stage.scored, num_candidate_programs=self.recipe.candidates, **demos
            )
        if self.name == "mipro":
            models: dict[str, Any] = {"prompt_model": lm, "task_model": lm, "num_candidates": self.recipe.candidates}
            return dspy.MIPROv2(metric=stage.scored, auto=None, seed=self.seed, **models, **demos)
        return super().build_optimizer(stage)

    def settings(self) -> dict[str, Any]:
        """What decides on the result, beside the mixture and the examples."""
        return {**super().settings(), "optimizer": self.name, "reflection": getattr(self.reflection_lm, "model", None)}

    def copy(self, student: MoA) -> MoA:
        """The copy that is tuned: prompts that are shared stay so."""
        return student.deepcopy()

    def tune(self, compiling: Compiling) -> None:
        """Tune the whole mixture, in one stage."""
        arguments = {"num_trials": self.recipe.trials, "minibatch": False} if self.name == "mipro" else {}
        compiling.tune("mixture", compiling.moa.deepcopy(), compares=False, arguments=arguments)
