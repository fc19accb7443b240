"""Staged tuning: every agent of a mixture alone, one LM call per example; beside it DSPy's optimizers on the whole."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation import Metric, metric_name
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording.budget import calls_per_answer, calls_per_verdict

from .compiling import Compiling
from .examples import check_mixture, checked_sets, require_optuna
from .mixtures import specialized
from .recipes import Budget, Recipe
from .reports import SpecializationReport, StageReport
from .scoring import Scored
from .stages import Stage, own_copy

__all__ = ["OPTIMIZERS", "Specialize", "build", "split"]

OPTIMIZERS = ("specialize", "gepa", "bootstrap", "mipro")
"""Names that `build` knows: `Specialize`, and DSPy's on the whole mixture."""


class Specialize(Teleprompter):
    """Tunes a mixture in stages: each proposer alone, then the aggregator on proposals that were recorded once.

    A joint optimizer asks the whole mixture, `n * samples + 1` LM calls, to try one prompt of one agent. Here a
    stage asks the one agent whose prompt is tried: one call. What a stage finds is kept if it is no worse on the
    valset. The compiled copy has a prompt per agent, also where the student's proposers share one.

    Args:
        metric: A metric's name (`"exact"`), DSPy's `metric(example, prediction, trace=None)`, or GEPA's with five
            arguments; a plain one gets its feedback from the gold outputs.
        optimizer: Any of DSPy's optimizers of prompts or demos, copied for each stage; by default GEPA.
        recipe: GEPA's budget for each stage.
        reflection_lm: What proposes prompts, for the default optimizer; by default the aggregator's.
        num_threads: Examples under way at once.
        seed: Of the default optimizer.
        checkpoint: A folder where stages and recordings are kept; the same compile goes on from there.
        on_stage: Called with the report of each finished stage.
        verbose: Whether what DSPy's optimizers print, log and draw is shown.

    Raises:
        ValueError: If a setting makes no sense, or the optimizer lacks a package.
        TypeError: If the optimizer cannot be used.

    Attributes:
        report: Of the last compile: calls, tokens, cost and seconds of each stage.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> examples = bundled_questions()
        >>> optimizer = Specialize("exact", optimizer=dspy.LabeledFewShot(k=2))
        >>> tuned = optimizer.compile(moa, trainset=examples[:6], valset=examples[6:12])
        >>> optimizer.report.calls, optimizer.report.joint_calls
        (60, 108)
    """

    resumes = True

    def __init__(
        self,
        metric: str | Metric,
        *,
        optimizer: Any = None,
        recipe: Literal["quick", "balanced", "thorough"] | Recipe = "balanced",
        reflection_lm: dspy.BaseLM | None = None,
        num_threads: int = 8,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_stage: Callable[[StageReport], None] = lambda stage: None,
        verbose: bool = False,
    ) -> None:
        super().__init__()
        require_positive(num_threads=num_threads)
        if isinstance(optimizer, type) or not (optimizer is None or hasattr(optimizer, "compile")):
            raise TypeError(f"An optimizer has a `compile`, as dspy.GEPA(...) has: {optimizer!r} has none.")
        if type(optimizer).__name__ in ("MIPROv2", "BootstrapFewShotWithOptuna"):
            require_optuna(type(optimizer).__name__)
        self.metric, self.optimizer, self.recipe = metric, optimizer, Recipe.named(recipe)
        self.reflection_lm, self.num_threads, self.seed = reflection_lm, num_threads, seed
        self.checkpoint, self.on_stage, self.verbose = checkpoint, on_stage, verbose
        self.report = SpecializationReport()

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most, with the default optimizer."""
        moa, examples, valset = self.copy(student), trainset + valset, valset or trainset
        stage = 2 * valset + self.recipe.most_runs(valset)
        proposers, recorded = sum(len(panel.names) for panel in moa.panels), moa.panels[0].samples * examples
        verdict = calls_per_verdict(moa)
        return Budget(
            agents=proposers * (stage + recorded) + verdict * stage,
            optimizer=(proposers + bool(verdict)) * self.recipe.most_reflections(valset),
            formula=f"{proposers} proposers x ({stage} runs + {recorded} recorded) + aggregator {verdict} x {stage}",
        )

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self, student: MoA, *, trainset: Sequence[dspy.Example], valset: Sequence[dspy.Example] | None = None
    ) -> MoA:
        """Compile a mixture.

        Args:
            student: The mixture; it stays as it is.
            trainset: Examples for the optimizers.
            valset: Examples by which results are compared; without, it is the trainset, and the report says so.

        Returns:
            The compiled copy.

        Raises:
            ValueError: If the examples, the metric or the checkpoint do not fit.
            TypeError: If the student is no mixture, an example none, or the metric cannot be called.
            CompileInterrupted: If a stage failed; it carries what was tuned until then.
        """
        check_mixture(student, type(self).__name__)
        train, val = checked_sets(student, trainset, valset, self.metric)
        Scored(self.metric, student.signature).try_on_gold(train[0])
        most, judged = getattr(self.optimizer, "max_metric_calls", None), len(val or train)
        least = judged + 2 * getattr(self.optimizer, "reflection_minibatch_size", 0)
        if most is not None and most < least:
            raise ValueError(
                f"max_metric_calls={most} is too little for one round of GEPA: it evaluates {judged} examples first, "
                f"and then a minibatch twice. Give at least {least}, or a smaller valset."
            )
        if self.optimizer is None and self._prompt_lm(student) is None:
            raise ValueError(
                "There is no LM that could propose prompts. Give reflection_lm=, a strong model, or an optimizer "
                "that needs none, such as dspy.BootstrapFewShot(metric)."
            )
        compiling = Compiling(self, self.copy(student), train, val)
        try:
            self.tune(compiling)
        finally:
            self.report = compiling.report()
        return compiling.moa

    def copy(self, student: MoA) -> MoA:
        """The copy that is tuned."""
        return specialized(student)

    def tune(self, compiling: Compiling) -> None:
        """Tune the copy."""
        compiling.tune_layers()

    def build_optimizer(self, stage: Stage) -> Any:
        """The optimizer of a stage."""
        if self.optimizer is not None:
            return own_copy(self.optimizer, stage)
        settings: dict[str, Any] = {"log_dir": stage.room, "num_threads": self.num_threads, "seed": self.seed}
        prompts, lm = len(stage.program.named_predictors()), self._prompt_lm(stage.program)
        return self.recipe.gepa(stage.scored, lm, len(stage.valset), prompts=prompts, **settings)

    def settings(self) -> dict[str, Any]:
        """What decides on the result, beside the mixture and the examples."""
        simple = (str, int, float, bool, type(None))
        inner = vars(self.optimizer) if self.optimizer is not None else {}
        return {
            "optimizer": type(self.optimizer).__name__,
            **{name: value for name, value in inner.items() if isinstance(value, simple)},
            "metric": metric_name(self.metric),
            "recipe": vars(self.recipe),
            "seed": self.seed,
        }

    def _prompt_lm(self, program: MoA) -> Any:
        return self.reflection_lm or program.get_lm() or dspy.settings.lm


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
        # No labelled demos: a labelled example shows an aggregator no proposals.
        demos: Any = {"max_bootstrapped_demos": self.recipe.demos, "max_labeled_demos": 0}
        demos |= {"metric": stage.scored, "num_threads": self.num_threads}
        number, lm = self.recipe.candidates, self._prompt_lm(stage.program)
        if self.name == "bootstrap":
            return dspy.BootstrapFewShotWithRandomSearch(num_candidate_programs=number, **demos)
        if self.name == "mipro":
            models: Any = {"prompt_model": lm, "task_model": lm}
            return dspy.MIPROv2(auto=None, seed=self.seed, num_candidates=number, **models, **demos)
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


def build(
    name: Literal["specialize", "gepa", "bootstrap", "mipro"], metric: str | Metric, **settings: Any
) -> Specialize:
    """The optimizer of this name, one of `OPTIMIZERS`, with a recipe's budget; `settings` are those of `Specialize`."""
    if name not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {name!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
    return Specialize(metric, **settings) if name == "specialize" else Jointly(name, metric, **settings)


def split(
    examples: Sequence[dspy.Example], heldout: float = 0.3, seed: int = 0
) -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
    """Examples to learn from, to compare by, and to hold back (a share of all); the first two are of equal number."""
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
