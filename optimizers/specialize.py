"""Staged tuning: every agent of a mixture alone, one LM call per example, instead of the whole mixture at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.errors import MoAError
from moa_dspy.evaluation import Metric
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording, Row, replay
from moa_dspy.rendering import render, seed_of
from moa_dspy.results import Proposal
from moa_dspy.secrets import redact
from moa_dspy.signatures import PROPOSALS
from moa_dspy.usage import Usage

from .checkpoint import Checkpoint
from .mixtures import alone, specialized, up_to
from .recipes import Budget, Recipe, calls_per_answer, calls_per_verdict
from .reports import SpecializationReport, StageReport
from .scoring import Scored, Stop, metric_name
from .stages import INSIDE, Stage, own_copy
from .students import (
    CompileInterrupted,
    ask_examples,
    check_mixture,
    check_optimizer,
    checked_sets,
    find_rows,
    inputs_of,
)

__all__ = ["Specialize", "explain"]

Examples = Sequence[dspy.Example]


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
        credit: What a proposer's answer counts for: `"alone"`, itself; `"marginal"`, what the panel's vote becomes
            with it, the others' answers recorded beforehand.
        num_threads: Examples under way at once.
        seed: Of the default optimizer.
        checkpoint: A folder where finished stages and recordings are kept, and GEPA's state of the one under way, so
            that the same compile goes on from there.
        on_stage: Called with the report of each finished stage.

    Raises:
        ValueError: If a setting makes no sense, or the optimizer lacks a package.
        TypeError: If the optimizer cannot be used.

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

    resumes = True

    def __init__(
        self,
        metric: str | Metric,
        *,
        optimizer: Any = None,
        recipe: Literal["quick", "balanced", "thorough"] | Recipe = "balanced",
        reflection_lm: dspy.BaseLM | None = None,
        credit: Literal["alone", "marginal"] = "alone",
        num_threads: int = 8,
        seed: int = 0,
        checkpoint: str | Path | None = None,
        on_stage: Callable[[StageReport], None] = lambda stage: None,
    ) -> None:
        super().__init__()
        require_positive(num_threads=num_threads)
        if credit not in ("alone", "marginal"):
            raise ValueError(f"There is no credit {credit!r}. Choose alone or marginal.")
        if optimizer is not None:
            check_optimizer(optimizer)
        self.metric = metric
        self.optimizer = optimizer
        self.recipe = Recipe.named(recipe)
        self.reflection_lm = reflection_lm
        self.credit = credit
        self.num_threads = num_threads
        self.seed = seed
        self.checkpoint = checkpoint
        self.on_stage = on_stage
        self.report = SpecializationReport()

    def budget(self, student: MoA, trainset: int, valset: int = 0) -> Budget:
        """What a compile on so many examples will take at most, with the default optimizer.

        A stage evaluates what it starts from and what it ends with, and runs one GEPA. Between the stages the
        proposals are recorded; once more at the beginning for `credit="marginal"`.
        """
        examples, valset = trainset + valset, valset or trainset
        stage = 2 * valset + self.recipe.most_runs(valset)
        proposers = sum(len(panel.names) for panel in student.panels)
        recorded = (2 if self.credit == "marginal" else 1) * student.panels[0].samples * examples
        verdict = calls_per_verdict(student)
        return Budget(
            agents=proposers * (stage + recorded) + verdict * stage,
            optimizer=(proposers + bool(verdict)) * self.recipe.most_reflections(valset),
            formula=f"{proposers} proposers x ({stage} runs + {recorded} recorded) + aggregator {verdict} x {stage}",
        )

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
            ValueError: If the examples, the budget or the checkpoint do not fit; `MetricError` if the metric gives
                the first example's own gold outputs no score.
            TypeError: If the student is no mixture, what is to be learned no examples, or the metric cannot be called.
            CompileInterrupted: If a stage failed; it carries what was tuned until then.
        """
        check_mixture(student, type(self).__name__)
        if teacher is not None:
            raise ValueError("Specialize takes no teacher: its stages are single agents, not the program it would be.")
        train, val = checked_sets(student, trainset, valset, self.metric)
        val = val or train
        Scored(self.metric, student.signature).try_on_gold(train[0])
        self._check_budget(student, len(val))
        return self._compile(student, train, val)

    def _compile(self, student: MoA, train: Examples, val: Examples) -> MoA:
        moa = specialized(student)
        checkpoint = Checkpoint(self.checkpoint, moa, [train, val], self._settings())
        compiling = _Compiling(self, moa, checkpoint)
        try:
            compiling.run(train, val)
        finally:
            self.report = compiling.report()
        return moa

    def build_optimizer(self, stage: Stage) -> Any:
        """The optimizer of a stage."""
        if self.optimizer is not None:
            [place] = {".".join(name.split(".")[:2]) for name, _ in stage.program.named_predictors()}
            return own_copy(self.optimizer, stage, place)
        return self.recipe.gepa(
            stage.scored,
            self.reflection_lm or stage.program.get_lm() or dspy.settings.lm,
            len(stage.valset),
            prompts=len(stage.program.named_predictors()),
            log_dir=stage.room,
            num_threads=stage.threads,
            seed=self.seed,
        )

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

    def _settings(self) -> dict[str, Any]:
        simple = (str, int, float, bool, type(None))
        inner = vars(self.optimizer) if self.optimizer is not None else {}
        return {
            "optimizer": type(self.optimizer).__name__,
            **{name: value for name, value in inner.items() if isinstance(value, simple)},
            "metric": metric_name(self.metric),
            "recipe": vars(self.recipe),
            "credit": self.credit,
            "seed": self.seed,
        }


class _Compiling:
    """One specialization under way: layer by layer, then the aggregator."""

    def __init__(self, settings: Specialize, moa: MoA, checkpoint: Checkpoint) -> None:
        self.settings = settings
        self.moa = moa
        self.checkpoint = checkpoint
        self.stages: list[StageReport] = []
        self.failed: list[tuple[str, BaseException]] = []
        self.started = time.perf_counter()

    def run(self, train: Examples, val: Examples) -> None:
        """Tune all stages; the mixture is then compiled.

        Raises:
            CompileInterrupted: If one failed.
        """
        moa, rows = self.moa, Recording()
        for panel_name, panel in zip(moa.panel_names, moa.panels, strict=True):
            layer = "" if panel.layer == 1 else f", layer {panel.layer}"
            first = None
            if self.settings.credit == "marginal":
                first = self._record(f"first proposals{layer}", panel_name, rows, train, val)
            for name in panel.names:
                view = None if first is None else _Marginal(moa, panel_name, name, first)
                self._tune(f"{name}{layer}", alone(moa, panel_name, name, rows), train, val, view)
            self._refuse_failures()
            rows = self._record(f"proposals{layer}", panel_name, rows, train, val)
            train, val = (self._with_proposals(part, rows, panel.layer) for part in (train, val))
            if not (train and val):
                raise self._interrupted("No example got a proposal, so there is nothing to go on with.")
        if calls_per_verdict(moa):
            self._tune("aggregator", replay(moa, rows, ask_aggregator=True), train, val)
            self._refuse_failures()

    def report(self) -> SpecializationReport:
        """The stages so far."""
        return SpecializationReport(list(self.stages), calls_per_answer(self.moa), time.perf_counter() - self.started)

    def _tune(self, name: str, program: MoA, train: Examples, val: Examples, view: Any = None) -> None:
        if (kept := self.checkpoint.load(name, self.moa)) is not None:
            self.stages.append(kept)
            return
        if not program.named_predictors():
            return
        scored = Scored(self.settings.metric, self.moa.signature, view, INSIDE)
        stage = Stage(
            name, program, scored, train, val, self.settings.build_optimizer, self.settings.num_threads,
            self.checkpoint.room(name),
        )  # fmt: skip
        try:
            report, found = stage.run()
        except (Exception, Stop) as error:
            # The other agents are tuned all the same: what they take is not lost if this one is mended.
            self.failed.append((name, error))
            self.stages.append(stage.meter.report(name, note="failed"))
            return
        mine: dict[str, Any] = dict(self.moa.named_predictors())
        for predictor, tuned in found.items():
            mine[predictor].signature, mine[predictor].demos = tuned.signature, tuned.demos
        self.stages.append(report)
        self.checkpoint.save(report, self.moa, list(found))
        self.settings.on_stage(report)

    def _record(self, name: str, panel_name: str, rows: Recording, train: Examples, val: Examples) -> Recording:
        started, asked = time.perf_counter(), list[Row]()
        try:
            recording = ask_examples(
                up_to(self.moa, panel_name, rows),
                [*train, *val],
                on_row=asked.append,
                concurrency=self.settings.num_threads,
                path=self.checkpoint.recording(name),
            )
        except CompileInterrupted as error:
            usage = error.recording.usage if error.recording is not None else Usage.of([])
            self.stages.append(StageReport(name=name, usage=usage, note="failed"))
            raise self._interrupted(f"The stage {name} failed: {error.reason}", error.recording) from error
        seconds = time.perf_counter() - started
        report = StageReport(name=name, usage=recording.usage, seconds=seconds, resumed=not asked)
        self.stages.append(report)
        self.settings.on_stage(report)
        return recording

    def _with_proposals(self, examples: Examples, rows: Recording, layer: int) -> list[dspy.Example]:
        """The examples that got proposals, with them as a further input: what a labelled demo needs."""
        task = self.moa.signature
        row_of = find_rows(task, (row for row in rows if row.error is None))
        shown = []
        for example in examples:
            if (row := row_of(example)) is not None:
                own = inputs_of(task, example)
                proposals = [proposal for proposal in row.proposals if proposal.layer == layer]
                text = render(proposals, seed=seed_of(own), field_names=[PROPOSALS, *task.fields]).text
                shown.append(dspy.Example({**example, PROPOSALS: text}).with_inputs(*own, PROPOSALS))
        return shown

    def _refuse_failures(self) -> None:
        if self.failed:
            raise self._interrupted(" ".join(f"The stage {n} failed: {explain(error)}." for n, error in self.failed))

    def _interrupted(self, what: str, recording: Recording | None = None) -> CompileInterrupted:
        folder = self.checkpoint.folder
        again = f"The same compile goes on from {folder}." if folder else "With checkpoint= a second compile goes on."
        kept = ", ".join(stage.name for stage in self.stages if stage.kept) or "nothing"
        error = CompileInterrupted(
            redact(what, *(agent.lm for agent in self.moa.agents)),
            f"What was tuned until then ({kept}) is in error.program, and what it cost in error.report. {again}",
            program=self.moa,
            report=self.report(),
            recording=recording,
        )
        error.__cause__ = self.failed[0][1] if self.failed else None
        return error


class _Marginal:
    """Shows the metric the panel's vote with this proposer's answer, instead of that answer.

    The others' proposals are recorded, so what changes from prompt to prompt is what the panel gains from this
    proposer; the vote is counted in code, so no call is made for it.
    """

    def __init__(self, moa: MoA, panel_name: str, agent: str, first: Recording) -> None:
        self.moa = alone(moa, panel_name, agent, first)  # for the vote without an aggregator
        setattr(self.moa, panel_name, getattr(moa, panel_name))
        self.agent = agent
        self.layer = getattr(moa, panel_name).layer
        self.row_of = find_rows(moa.signature, first)

    def __call__(self, example: dspy.Example, prediction: dspy.Prediction) -> dspy.Prediction:
        task = self.moa.signature
        row: Any = self.row_of(example)
        outputs = {name: prediction[name] for name in task.output_fields}
        mine = {id for id in row.asked if id.partition("#")[0] == self.agent} if self.layer == 1 else {self.agent}
        answered = [Proposal(id=id, agent=self.agent, layer=self.layer, outputs=outputs) for id in sorted(mine)]
        others = [proposal for proposal in row.proposals if proposal.id not in mine or proposal.layer != self.layer]
        failures = [failure for failure in row.failures if failure.id not in mine or failure.layer != self.layer]
        changed = row.model_copy(update={"proposals": [*others, *answered], "failures": failures})
        try:
            return replay(self.moa, [changed])(**inputs_of(task, example))
        except MoAError:  # all abstain
            return dspy.Prediction(dict.fromkeys(task.output_fields))


def explain(error: BaseException) -> str:
    """Why a stage failed, on one line: its own words, and those of what ended it from inside."""
    said = []
    while True:
        said += [" ".join(str(error).split())] if str(error) else []
        if not isinstance(error, Stop) or error.__cause__ is None:
            return ": ".join(said) or type(error).__name__
        error = error.__cause__
