"""Stages on disk, finished and begun, so that a compile goes on where it ended."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.moa import MoA
from moa_dspy.values import IncompleteProposal, to_json

from .recording import Recording
from .report import StageReport

__all__ = ["Checkpoint", "begun", "fingerprint", "finished"]


class Checkpoint:
    """One JSON file per finished stage, in a folder that belongs to one compile; GEPA's own state while it runs.

    Args:
        folder: Where; None keeps nothing.
        of: What identifies the compile; see `fingerprint`.

    Raises:
        ValueError: If the folder holds the stages of another compile.
    """

    def __init__(self, folder: str | Path | None, of: str) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        mark = self.folder / _MARK
        if mark.exists() and json.loads(mark.read_text(encoding="utf-8")).get("fingerprint") == of:
            return
        if kept := [*finished(self.folder), *begun(self.folder)]:
            raise ValueError(
                f"{self.folder} holds stages of another compile ({', '.join(kept)}): of another program, other "
                "examples or other settings. Give another folder, or delete this one to begin anew."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(mark, {"fingerprint": of})

    def room(self, stage: str) -> Path | None:
        """Where the optimizer of a stage may keep its own state; it is gone when the stage is saved."""
        return self.folder and self.folder / _slug(stage)

    def load(self, stage: str, moa: MoA) -> StageReport | None:
        """Put a finished stage's prompts into the mixture; None if it was not finished."""
        path = self._path(stage)
        if path is None or not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["prompts"]:
            moa.load_state({**moa.dump_state(), **kept["prompts"]})
        return StageReport(**kept["report"]).model_copy(update={"resumed": True})

    def save(self, report: StageReport, moa: MoA, prompts: Sequence[str]) -> None:
        """Keep a finished stage: its report, and these prompts of the mixture."""
        path = self._path(report.name)
        if path is not None:
            state = moa.dump_state()
            _write(path, {"report": report.model_dump(mode="json"), "prompts": {name: state[name] for name in prompts}})
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)

    def load_recording(self, stage: str, moa: MoA) -> tuple[StageReport, Recording] | None:
        """What was recorded; None if it was not, or cannot be read back."""
        path = self._path(stage)
        if path is None or not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        try:
            recording = Recording.of_state(moa.signature, kept["recording"])
        except IncompleteProposal:
            return None
        return StageReport(**kept["report"]).model_copy(update={"resumed": True}), recording

    def save_recording(self, report: StageReport, recording: Recording) -> None:
        """Keep what was recorded."""
        path = self._path(report.name)
        if path is not None:
            _write(path, {"report": report.model_dump(mode="json"), "recording": recording.state()})

    def _path(self, stage: str) -> Path | None:
        return self.folder and self.folder / f"{_slug(stage)}.json"


def finished(folder: Path) -> list[str]:
    """The stages that a folder holds."""
    return sorted(path.stem for path in folder.glob("*.json") if path.name != _MARK)


def begun(folder: Path) -> list[str]:
    """The stages that were cut short in it, whose GEPA goes on where it was."""
    return sorted(path.parent.name for path in folder.glob("*/gepa_state.bin"))


def fingerprint(moa: MoA, examples: Sequence[Sequence[dspy.Example]], settings: Mapping[str, Any]) -> str:
    """What identifies a compile: the prompts it starts from, the models, the examples and the settings."""
    parts: list[tuple[str, Any]] = moa.named_predictors()
    prompts = {
        name: [part.signature.instructions, list(part.signature.fields), [dict(demo) for demo in part.demos]]
        for name, part in parts
    }
    data = {
        "prompts": prompts,
        "agents": [(agent.name, agent.model) for agent in moa.agents],
        "strategy": moa.strategy.name,
        "samples": moa.panels[0].samples,
        "examples": [[example.toDict() for example in part] for part in examples],
        "settings": dict(settings),
    }
    return hashlib.sha256(to_json(data).encode()).hexdigest()


def _slug(stage: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", stage.lower())


_MARK = "compile.json"


def _write(path: Path, data: Any) -> None:
    # Whole or not at all: the process may be killed at any moment.
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(data, indent=2), encoding="utf-8")
    os.replace(unfinished, path)
