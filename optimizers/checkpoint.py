"""Stages on disk, finished and begun, so that a compile goes on where it ended."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.moa import MoA
from moa_dspy.recording.identity import identity
from moa_dspy.values import hash_of

from .reports import StageReport

__all__ = ["Checkpoint"]

_FILE = "compile.json"


class Checkpoint:
    """A folder of one compile: a file of what its stages did, recordings, and GEPA's state while it runs.

    What the `finished` stages found is put into the mixture. Without a folder nothing is kept.

    Raises:
        ValueError: If the folder holds the stages of another compile.
        OSError: If it cannot be written to.
        RuntimeError: If the mixture cannot be saved.
    """

    def __init__(
        self,
        folder: str | Path | None,
        moa: MoA,
        examples: Sequence[Sequence[dspy.Example]],
        settings: Mapping[str, Any],
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.finished: dict[str, StageReport] = {}
        if self.folder is None:
            return
        moa.dump_state()  # what cannot be saved shows before anything is paid for
        data = [[dict(example.items()) for example in part] for part in examples]
        file, self.fingerprint = self.folder / _FILE, hash_of([identity(moa), data, dict(settings)])
        kept: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        reports = [StageReport(**{**report, "resumed": True}) for report in kept.get("stages", [])]
        begun = [path.parent.name for path in self.folder.glob("*/gepa_state.bin")]
        names = sorted([*(one.name for one in reports), *begun, *(path.stem for path in self.folder.glob("*.jsonl"))])
        if names and kept.get("fingerprint") != self.fingerprint:
            raise ValueError(
                f"{self.folder} holds stages of another compile ({', '.join(dict.fromkeys(names))}): of another "
                "program, other examples or other settings. Give another folder, or delete this one to begin anew."
            )
        if reports:
            moa.load_state(kept["state"])
        self.finished = {report.name: report for report in reports}
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
        data = {"fingerprint": self.fingerprint, "stages": stages, "state": moa.dump_state()}
        path: Any = self.folder and self.folder / _FILE
        path.with_suffix(".tmp").write_text(json.dumps(data, indent=2), encoding="utf-8")
        os.replace(path.with_suffix(".tmp"), path)
