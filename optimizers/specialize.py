"""Staged tuning: every agent of a mixture alone, one LM call per example, instead of the whole mixture at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.evaluation.metrics import Metric
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA

from .checkpoint import Checkpoint, fingerprint
from .compiling import Compiling
from .feedback import Scored, metric_name
from .recipes import Recipe, recipe
from .report import SpecializationReport, StageReport
from .specialized import specialized
from .stage import Stage, own_copy
from .students import check_mixture, checked_sets

__all__ = ["Specialize"]


class Specialize(Teleprompter):
    """Tunes a mixture in stages: each proposer alone, then the aggregator on proposals that were recorded once.

    A joint optimizer asks the whole mixture, `n * samples + 1` LM calls, to try one prompt of one agent. Here a
    stage asks the one agent whose prompt is tried: one call. All proposers of a layer are tuned side by side, each
    by its own copy of the optimizer. What a stage finds is kept if it is no worse on the valset.

    The compiled copy has a prompt per agent, also where the student's proposers share one.

    Args:
        metric: A metric's name (`"exact"`), DSPy's `metric(example, prediction, trace=None)`, or GEPA's five
            arguments with feedback; a plain one gets its feedback from the gold outputs.
        optimizer: Any of DSPy's optimizers of prompts or demos; it is copied for each stage, with the metric. By
            default GEPA, with the recipe's budget for each stage.
        recipe: `"quick"`, `"balanced"` or `"thorough"`; see `recipes.toml`.
        reflection_lm: What proposes prompts, for the default optimizer; by default the aggregator's.
        credit: What a proposer's answer counts for: `"solo"`, itself; `"marginal"`, what the panel's vote becomes
            with it, the others' answers recorded beforehand.
        num_threads: Examples under way at once, over all stages side by side.
        seed: Of the default optimizer.
        checkpoint: A folder where finished stages are kept, and GEPA's state of those under way, so that the same
            compile goes on from there.
        on_stage: Called with the report of each finished stage, from the thread that ran it.

    Raises:
        ValueError: If a setting makes no sense.
        TypeError: If the metric or the optimizer cannot be used.

    Attributes:
        report: Of the last compile: calls, tokens, cost and seconds of each stage.

    Example:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> examples = bundled_questions()
        >>> optimizer = Specialize("exact", optimizer=dspy.LabeledFewShot(k=2))
        >>> tuned = optimizer.compile(moa, trainset=examples[:6], valset=examples[6:12])
        >>> optimizer.report.calls, optimizer.report.joint_calls
        (60, 108)
    """

    def __init__(
        self,
        metric: str | Metric,
        *,
        optimizer: Any = None,
        recipe: str | Recipe = "balanced",
        reflection_lm: dspy.BaseLM | None = None,
        credit: Literal["solo", "marginal"] = "solo",
        num_threads: int = 8,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_stage: Callable[[StageReport], None] | None = None,
    ) -> None:
        super().__init__()
        require_positive(num_threads=num_threads)
        if credit not in ("solo", "marginal"):
            raise ValueError(f"There is no credit {credit!r}. Choose solo or marginal.")
        if optimizer is not None and not (hasattr(optimizer, "compile") and not isinstance(optimizer, type)):
            raise TypeError(f"An optimizer has a `compile`, as dspy.GEPA(...) has: {optimizer!r} has none.")
        self.metric = metric
        self.optimizer = optimizer
        self.recipe = _recipe(recipe)
        self.reflection_lm = reflection_lm
        self.credit = credit
        self.num_threads = num_threads
        self.seed = seed
        self.checkpoint = checkpoint
        self.on_stage = on_stage
        self.report = SpecializationReport()

    def compile(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's swallows any further argument
        self,
        student: MoA,
        *,
        trainset: Sequence[dspy.Example],
        teacher: dspy.Module | None = None,
        valset: Sequence[dspy.Example] | None = None,
    ) -> MoA:
        """Compile a mixture.

        Args:
            student: The mixture; it stays as it is.
            trainset: Examples for the optimizers.
            teacher: None: there is no whole program to learn from, where each agent is tuned alone.
            valset: Examples by which results are compared; by default the trainset.

        Returns:
            The compiled copy.

        Raises:
            ValueError: If the examples, the budget or the checkpoint do not fit.
            TypeError: If the student is no mixture, what is to be learned no examples, or the metric cannot be called.
            CompileInterrupted: If a stage failed; it carries what was tuned until then.
        """
        check_mixture(student, "Specialize")
        if teacher is not None:
            raise ValueError("Specialize takes no teacher: its stages are single agents, not the program it would be.")
        trainset, valset = checked_sets(student, trainset, valset, self.metric)
        valset = valset or trainset
        Scored(self.metric, student.signature)
        self._check_optimizer(student, len(valset))
        moa = specialized(student)
        compiling = Compiling(
            moa=moa,
            metric=self.metric,
            trainset=trainset,
            valset=valset,
            optimizer=lambda stage: self._optimizer(student, stage),
            marginal=self.credit == "marginal",
            threads=self.num_threads,
            checkpoint=Checkpoint(self.checkpoint, fingerprint(moa, [trainset, valset], self._settings())),
            on_stage=self.on_stage or (lambda stage: None),
        )
        try:
            compiling.run()
        finally:
            self.report = compiling.report()
        return moa

    def _optimizer(self, student: MoA, stage: Stage) -> Any:
        if self.optimizer is not None:
            return own_copy(self.optimizer, stage.metric, stage.program.place, stage.room)
        prompts = len(stage.program.named_predictors())
        lm: Any = self.reflection_lm or student.get_lm() or dspy.settings.lm
        return self.recipe.gepa(
            stage.metric,
            lm,
            len(stage.valset),
            prompts=prompts,
            threads=stage.threads,
            seed=self.seed,
            log_dir=stage.room,
        )

    def _check_optimizer(self, student: MoA, valset: int) -> None:
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

    def _settings(self) -> dict[str, Any]:
        plain = (str, int, float, bool, type(None))
        inner = (
            {name: value for name, value in vars(self.optimizer).items() if isinstance(value, plain)}
            if self.optimizer
            else {}
        )
        return {
            "optimizer": type(self.optimizer).__name__,
            **inner,
            "metric": metric_name(self.metric),
            "recipe": vars(self.recipe),
            "credit": self.credit,
            "seed": self.seed,
        }


def _recipe(name: str | Recipe) -> Recipe:
    return recipe(name)
