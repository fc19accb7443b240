"""Staged tuning: every agent of a mixture alone, one LM call per example, instead of the whole mixture at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation import Metric, metric_name
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA

from .compiling import Compiling
from .examples import check_mixture, checked_sets, require_optuna
from .mixtures import specialized
from .recipes import Budget, Recipe, calls_per_verdict
from .reports import SpecializationReport, StageReport
from .scoring import Scored
from .stages import Stage, own_copy

__all__ = ["Specialize"]


class Specialize(Teleprompter):
    """Tunes a mixture in stages: each proposer alone, then the aggregator on proposals that were recorded once.

    A joint optimizer asks the whole mixture, `n * samples + 1` LM calls, to try one prompt of one agent. Here a
    stage asks the one agent whose prompt is tried: one call. What a stage finds is kept if it is no worse on the
    valset. The compiled copy has a prompt per agent, also where the student's proposers share one.

    Args:
        metric: A metric's name (`"exact"`), DSPy's `metric(example, prediction, trace=None)`, or GEPA's five
            arguments with feedback; a plain one gets its feedback from the gold outputs.
        optimizer: Any of DSPy's optimizers of prompts or demos; it is copied for each stage, with the metric. By
            default GEPA, with the recipe's budget for each stage.
        recipe: `"quick"`, `"balanced"` or `"thorough"`; see `Recipe`.
        reflection_lm: What proposes prompts, for the default optimizer; by default the aggregator's.
        num_threads: Examples under way at once.
        seed: Of the default optimizer.
        checkpoint: A folder where finished stages and recordings are kept, and GEPA's state of the one under way, so
            that the same compile goes on from there.
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
        """What a compile on so many examples will take at most, with the default optimizer.

        A stage evaluates what it starts from and what it ends with, and runs one GEPA. Between the stages the
        proposals are recorded.
        """
        examples, valset = trainset + valset, valset or trainset
        stage = 2 * valset + self.recipe.most_runs(valset)
        proposers = sum(len(panel.names) for panel in student.panels)
        recorded = student.panels[0].samples * examples
        verdict = calls_per_verdict(student)
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
            ValueError: If the examples, the budget or the checkpoint do not fit; `MetricError` if the metric gives
                the first example's own gold outputs no score.
            TypeError: If the student is no mixture, what is to be learned no examples, or the metric cannot be called.
            CompileInterrupted: If a stage failed; it carries what was tuned until then.
        """
        check_mixture(student, type(self).__name__)
        train, val = checked_sets(student, trainset, valset, self.metric)
        Scored(self.metric, student.signature).try_on_gold(train[0])
        self._check_budget(student, len(val or train))
        compiling = Compiling(self, self.copy(student), train, val)
        try:
            self.tune(compiling)
            compiling.refuse_failures()
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
        return self.recipe.gepa(
            stage.scored,
            self.reflection_lm or stage.program.get_lm() or dspy.settings.lm,
            len(stage.valset),
            prompts=len(stage.program.named_predictors()),
            log_dir=stage.room,
            num_threads=self.num_threads,
            seed=self.seed,
        )

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

    def _check_budget(self, student: MoA, valset: int) -> None:
        budget = getattr(self.optimizer, "max_metric_calls", None)
        least = valset + 2 * getattr(self.optimizer, "reflection_minibatch_size", 0)
        if budget is not None and budget < least:
            raise ValueError(
                f"max_metric_calls={budget} is too little for one round of GEPA: it evaluates {valset} examples first, "
                f"and then a minibatch twice. Give at least {least}, or a smaller valset."
            )
        if self.optimizer is None and (self.reflection_lm or student.get_lm() or dspy.settings.lm) is None:
            raise ValueError(
                "There is no LM that could propose prompts. Give reflection_lm=, a strong model, or an optimizer "
                "that needs none, such as dspy.BootstrapFewShot(metric)."
            )
