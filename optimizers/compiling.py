"""A specialization under way: layer by layer, then the aggregator."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from moa_dspy.concurrency import run_side_by_side
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel
from moa_dspy.secrets import redact

from .bill import Bill, Stop
from .checkpoint import Checkpoint
from .credit import Marginal
from .feedback import Scored
from .interrupted import CompileInterrupted
from .recording import Recording, record
from .report import SpecializationReport, StageReport
from .solo import Judge, Solo
from .stage import Stage

__all__ = ["Compiling"]

Examples = Sequence[dspy.Example]


@dataclass
class Compiling:
    """One specialization.

    Attributes:
        moa: The copy that is compiled; has a prompt per agent.
        metric: The user's.
        trainset: Examples for the optimizers.
        valset: Examples by which a stage's result is kept or not.
        optimizer: Gives the optimizer of a stage.
        marginal: Whether a proposer's answer counts by what the panel makes of it.
        threads: Examples under way at once, over all stages side by side.
        checkpoint: Where finished stages are kept.
        on_stage: Told of each finished stage.
    """

    moa: MoA
    metric: Any
    trainset: Examples
    valset: Examples
    optimizer: Callable[[Stage], Any]
    marginal: bool
    threads: int
    checkpoint: Checkpoint
    on_stage: Callable[[StageReport], None]
    stages: list[StageReport] = field(default_factory=list)
    failed: list[tuple[str, BaseException]] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self) -> None:
        """Tune all stages; the mixture is then compiled.

        Raises:
            CompileInterrupted: If one failed.
        """
        moa, train, val = self.moa, self.trainset, self.valset
        recording = Recording(moa.signature, {})
        for panel_name, panel in zip(moa.panel_names, moa.panels, strict=True):
            first = self._recorded(f"first proposals{_of(panel)}", panel, train, val) if self.marginal else None
            self._tune([self._proposer(panel_name, panel, name, train, val, first) for name in panel.names])
            recording = self._recorded(f"proposals{_of(panel)}", panel, train, val)
            train, val = recording.shown(train), recording.shown(val)
            if not (train and val):
                raise self._interrupted("No example got a proposal, so there is nothing to go on with.")
        if moa.aggregator.lm is not None or moa.strategy.needs_aggregator:
            self._tune([self._aggregator(recording, train, val)])

    def report(self) -> SpecializationReport:
        """The stages so far."""
        moa = self.moa
        asked = sum(len(panel.names) * panel.samples for panel in moa.panels)
        judged = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
        return SpecializationReport(list(self.stages), asked + judged, time.perf_counter() - self.started)

    def _proposer(
        self, place: str, panel: Panel, name: str, train: Examples, val: Examples, first: Recording | None
    ) -> Stage:
        program = Solo(place, getattr(panel, name).deepcopy(), self.moa.signature, Bill())
        view = None if first is None else Marginal(name, first)
        metric = Scored(self.metric, self.moa.signature, view)
        threads = max(1, self.threads // len(panel.names))
        title = f"{name}{_of(panel)}"
        return Stage(title, program, metric, train, val, self.optimizer, threads, self.checkpoint.room(title))

    def _aggregator(self, recording: Recording, train: Examples, val: Examples) -> Stage:
        program = Judge(self.moa, recording, Bill())
        metric = Scored(self.metric, self.moa.signature)
        room = self.checkpoint.room("aggregator")
        return Stage("aggregator", program, metric, train, val, self.optimizer, self.threads, room)

    def _tune(self, stages: Sequence[Stage]) -> None:
        """Run stages side by side; all that can be finished are, before a failed one is told of."""
        kept = {stage.name: self.checkpoint.load(stage.name, self.moa) for stage in stages}
        pending = [stage for stage in stages if kept[stage.name] is None and stage.program.named_predictors()]
        try:
            for stage, done in run_side_by_side(self._run, pending, max(1, len(pending))):
                kept[stage.name] = done
        except BaseException as error:  # Ctrl-C: what runs on in its thread shall ask no more
            for stage in pending:
                stage.program.bill.stop(error)
            raise
        finally:
            # In declared order, whatever order they were finished in.
            self.stages += [report for stage in stages if (report := kept[stage.name]) is not None]
        if self.failed:
            raise self._interrupted(_told(self.failed))

    def _run(self, stage: Stage) -> tuple[Stage, StageReport]:
        try:
            report, found = stage.run()
        except (Exception, Stop) as error:
            self.failed.append((stage.name, error))
            return stage, stage.program.bill.report(stage.name, note="failed")
        with self.lock:
            mine = dict(self.moa.named_predictors())
            for name, predictor in found.items():
                mine[name].signature, mine[name].demos = predictor.signature, predictor.demos
            self.checkpoint.save(report, self.moa, list(found))
        self.on_stage(report)
        return stage, report

    def _recorded(self, name: str, panel: Panel, train: Examples, val: Examples) -> Recording:
        kept = self.checkpoint.load_recording(name, self.moa)
        if kept is not None:
            self.stages.append(kept[0])
            return kept[1]
        bill = Bill()
        try:
            with dspy.context(**bill.settings()):
                recording = record(panel, [*train, *val], bill, self.threads)
        except Stop as error:
            self.stages.append(bill.report(name, note="failed"))
            raise self._interrupted(f"The stage {name} failed: {_why(error)}") from error
        # No program of a stage was run: that would have cost a joint optimizer something.
        report = bill.report(name).model_copy(update={"runs": 0, "recorded": bill.runs})
        self.stages.append(report)
        self.checkpoint.save_recording(report, recording)
        self.on_stage(report)
        return recording

    def _interrupted(self, what: str) -> CompileInterrupted:
        lms = [agent.lm for agent in self.moa.agents]
        where = self.checkpoint.folder
        again = f"The same compile goes on from {where}." if where else "With checkpoint= a second compile goes on."
        kept = [stage.name for stage in self.stages if stage.kept]
        left = f"What was tuned until then ({', '.join(kept) or 'nothing'}) is in error.program, and what it cost in "
        error = CompileInterrupted(redact(what, *lms), self.moa, self.report(), f"{left}error.report. {again}")
        error.__cause__ = self.failed[0][1] if self.failed else None
        return error


def _of(panel: Panel) -> str:
    return "" if panel.layer == 1 else f", layer {panel.layer}"


def _told(failed: Sequence[tuple[str, BaseException]]) -> str:
    """What failed; once, where the same happened to several stages, on other examples perhaps."""
    names: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    for name, error in failed:
        why = _why(error)
        alike = why.partition(" It was given the example ")[0]
        reasons.setdefault(alike, why)
        names.setdefault(alike, []).append(name)
    said = [(f"The stage{'s' * (len(names[a]) > 1)} {', '.join(sorted(names[a]))}", why) for a, why in reasons.items()]
    return " ".join(f"{stages} failed: {why}" for stages, why in said)


def _why(error: BaseException) -> str:
    causes = list(_chain(error))
    said = [" ".join(str(cause).split()) for cause in causes if str(cause)]
    return ": ".join(said) if said else type(causes[-1]).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ if isinstance(error, Stop) else None
