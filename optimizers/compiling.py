"""A compile under way: layer by layer, then the aggregator; what it cost, what failed, what it goes on from."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dspy

from moa_dspy.moa import MoA
from moa_dspy.recording import Recording, Row, replay
from moa_dspy.recording.budget import calls_per_answer, calls_per_verdict
from moa_dspy.recording.identity import identity
from moa_dspy.rendering import render, seed_of
from moa_dspy.secrets import redact
from moa_dspy.signatures import PROPOSALS
from moa_dspy.usage import Usage
from moa_dspy.values import hash_of

from .examples import CompileInterrupted, ask_examples, find_rows, inputs_of
from .mixtures import alone, up_to
from .reports import SpecializationReport, StageReport
from .scoring import Scored, Stop
from .stages import Stage

if TYPE_CHECKING:
    from .specialize import Specialize

__all__ = ["Compiling"]

Examples = Sequence[dspy.Example]


class Compiling:
    """A compile under way: what is tuned, and what was done."""

    def __init__(self, optimizer: Specialize, moa: MoA, train: Examples, val: Examples) -> None:
        self.optimizer = optimizer
        self.moa = moa
        self.train, self.val = train, val or train
        self.judged_on = "valset" if val else "trainset"
        self.checkpoint = Checkpoint(optimizer, moa, [train, val])
        self.stages: list[StageReport] = []
        self.started = time.perf_counter()

    def tune_layers(self) -> None:
        """Tune layer by layer, then the aggregator: what follows rests on the proposals of the layer before."""
        moa, rows = self.moa, Recording()
        for panel_name, panel in zip(moa.panel_names, moa.panels, strict=True):
            layer = "" if panel.layer == 1 else f", layer {panel.layer}"
            for name in panel.names:
                self.tune(f"{name}{layer}", alone(moa, panel_name, name, rows))
            rows = self._record(f"proposals{layer}", panel_name, rows)
            self.train, self.val = (self._with_proposals(part, rows, panel.layer) for part in (self.train, self.val))
            if not (self.train and self.val):
                raise self._interrupted("No example got a proposal, so there is nothing to go on with.")
        if calls_per_verdict(moa):
            self.tune("aggregator", replay(moa, rows, ask_aggregator=True))

    def tune(self, name: str, program: MoA, **settings: Any) -> None:
        """Tune one stage, and take over what it finds; `CompileInterrupted` if it fails."""
        if (kept := self.checkpoint.finished.get(name)) is not None:
            self.stages.append(kept)
            return
        if not program.named_predictors():
            return
        scored, room = Scored(self.optimizer.metric, self.moa.signature), self.checkpoint.room(name)
        stage = Stage(name, program, scored, self.train, self.val, self.optimizer, room, **settings)
        try:
            report, found = stage.run()
        except (Exception, Stop) as error:
            self.stages.append(stage.meter.report(name, note="failed"))
            said = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise self._interrupted(f"The stage {name} failed: {said}.") from error
        mine: dict[str, Any] = dict(self.moa.named_predictors())
        for predictor, tuned in found.items():
            mine[predictor].signature, mine[predictor].demos = tuned.signature, tuned.demos
        self.checkpoint.save(report, self.moa)
        self.finish(report)

    def finish(self, report: StageReport) -> None:
        """Enter a stage that is done."""
        self.stages.append(report)
        self.optimizer.on_stage(report)

    def report(self) -> SpecializationReport:
        """The stages so far."""
        seconds = time.perf_counter() - self.started
        return SpecializationReport(list(self.stages), calls_per_answer(self.moa), seconds, self.judged_on)

    def _record(self, name: str, panel_name: str, rows: Recording) -> Recording:
        started, asked = time.perf_counter(), list[Row | None]()
        try:
            recording = ask_examples(
                up_to(self.moa, panel_name, rows),
                [*self.train, *self.val],
                on_row=lambda row, _: asked.append(row),
                concurrency=self.optimizer.num_threads,
                path=self.checkpoint.recording(name),
            )
        except CompileInterrupted as error:
            usage = error.recording.usage if error.recording is not None else Usage.of([])
            self.stages.append(StageReport(name=name, usage=usage, note="failed"))
            raise self._interrupted(f"The stage {name} failed: {error.reason}", error.recording) from error
        seconds = time.perf_counter() - started
        self.finish(StageReport(name=name, usage=recording.usage, seconds=seconds, resumed=not any(asked)))
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

    def _interrupted(self, what: str, recording: Recording | None = None) -> CompileInterrupted:
        folder = self.checkpoint.folder
        again = f"The same compile goes on from {folder}." if folder else "With checkpoint= a second compile goes on."
        kept = ", ".join(stage.name for stage in self.stages if stage.kept) or "nothing"
        return CompileInterrupted(
            redact(what, *(agent.lm for agent in self.moa.agents)),
            f"What was tuned until then ({kept}) is in error.program, and what it cost in error.report. {again}",
            program=self.moa,
            report=self.report(),
            recording=recording,
        )


class Checkpoint:
    """A folder of one compile: a file of what its stages did, recordings, and GEPA's state while it runs.

    What the `finished` stages found is put into the mixture. Without a folder nothing is kept. ValueError if the folder
    holds the stages of another compile; what cannot be saved or written shows before anything is paid for.
    """

    def __init__(self, optimizer: Specialize, moa: MoA, examples: Sequence[Examples]) -> None:
        self.folder = None if optimizer.checkpoint is None else Path(optimizer.checkpoint)
        self.finished: dict[str, StageReport] = {}
        if self.folder is None:
            return
        data = [[dict(example.items()) for example in part] for part in examples]
        self._file, self._of = self.folder / "compile.json", hash_of([identity(moa), data, optimizer.settings()])
        kept: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        self.finished = {one["name"]: StageReport(**{**one, "resumed": True}) for one in kept.get("stages", ())}
        is_used = self.finished or any(self.folder.glob("*/gepa_state.bin")) or any(self.folder.glob("*.jsonl"))
        if is_used and kept.get("fingerprint") != self._of:
            raise ValueError(
                f"{self.folder} holds stages of another compile: of another program, other examples or other settings. "
                "Give another folder, or delete this one to begin anew."
            )
        if self.finished:
            moa.load_state(kept["state"])
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write(moa)

    def room(self, stage: str) -> Path | None:
        """Where the optimizer of a stage may keep its own state; it is gone when the stage is saved."""
        return self.folder and self.folder / re.sub(r"[^a-z0-9]+", "-", stage.lower())

    def recording(self, stage: str) -> Path | None:
        """The file of what a stage records."""
        room = self.room(stage)
        return room and room.with_suffix(".jsonl")

    def save(self, report: StageReport, moa: MoA) -> None:
        """Keep a finished stage: its report, and the mixture with what it found."""
        if (room := self.room(report.name)) is not None:
            self.finished[report.name] = report
            self._write(moa)
            shutil.rmtree(room, ignore_errors=True)

    def _write(self, moa: MoA) -> None:
        # Whole or not at all: the process may be killed at any moment.
        stages = [report.model_dump(mode="json") for report in self.finished.values()]
        data = {"fingerprint": self._of, "stages": stages, "state": moa.dump_state()}
        part = self._file.with_suffix(".tmp")
        part.write_text(json.dumps(data, indent=2), encoding="utf-8")
        os.replace(part, self._file)
