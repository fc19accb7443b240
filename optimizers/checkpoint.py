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

_MARK = "compile.json"


class Checkpoint:
    """A folder that belongs to one compile: a JSON file per finished stage, recordings, GEPA's state while it runs.

    Args:
        folder: Where; None keeps nothing.
        moa: What is compiled.
        examples: The trainset and the valset.
        settings: What else decides on the result.

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
        if self.folder is None:
            return
        moa.dump_state()  # what cannot be saved shows before anything is paid for
        data = [[dict(example.items()) for example in part] for part in examples]
        mark, fingerprint = self.folder / _MARK, {"fingerprint": hash_of([identity(moa), data, dict(settings)])}
        is_ours = mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == fingerprint
        finished = [path.stem for path in self.folder.glob("*.json*") if path.name != _MARK]
        kept = sorted([*finished, *(path.parent.name for path in self.folder.glob("*/gepa_state.bin"))])
        if kept and not is_ours:
            raise ValueError(
                f"{self.folder} holds stages of another compile ({', '.join(kept)}): of another program, other "
                "examples or other settings. Give another folder, or delete this one to begin anew."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        _write(mark, fingerprint)

    def room(self, stage: str) -> Path | None:
        """Where the optimizer of a stage may keep its own state; it is gone when the stage is saved."""
        return self.folder and self.folder / _slug(stage)

    def recording(self, stage: str) -> Path | None:
        """The file of what a stage records."""
        return self.folder and self.folder / f"{_slug(stage)}.jsonl"

    def load(self, stage: str, moa: MoA) -> StageReport | None:
        """Put a finished stage's prompts into the mixture; None if it was not finished."""
        path = self.folder and self.folder / f"{_slug(stage)}.json"
        if path is None or not path.exists():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["prompts"]:
            moa.load_state({**moa.dump_state(), **kept["prompts"]})
        return StageReport(**kept["report"]).model_copy(update={"resumed": True})

    def save(self, report: StageReport, moa: MoA, prompts: Sequence[str]) -> None:
        """Keep a finished stage: its report, and these prompts of the mixture."""
        if self.folder is None:
            return
        state, path = moa.dump_state(), self.folder / f"{_slug(report.name)}.json"
        _write(path, {"report": report.model_dump(mode="json"), "prompts": {name: state[name] for name in prompts}})
        shutil.rmtree(path.with_suffix(""), ignore_errors=True)


def _slug(stage: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", stage.lower())


def _write(path: Path, data: Any) -> None:
    # Whole or not at all: the process may be killed at any moment.
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(data, indent=2), encoding="utf-8")
    os.replace(unfinished, path)
