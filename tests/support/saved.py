"""Mixtures to save, and what is in their files."""

import json
from pathlib import Path
from typing import Any

import dspy

from moa_dspy import MoA


def prompts_of(moa: Any, **inputs: Any) -> dict[str, list[dict[str, Any]]]:
    """What each predictor would send: every message, demos included."""
    adapter = dspy.ChatAdapter()
    return {
        name: adapter.format(predictor.signature, predictor.demos, {**inputs, "proposals": "p", "settled": "s"})
        for name, predictor in moa.named_predictors()
    }


def state_in(path: Path) -> Any:
    """What stands in a file."""
    return json.loads(path.read_text())


def rewritten(path: Path, changed: dict[str, Any]) -> Path:
    """The file with other things at its top."""
    path.write_text(json.dumps({**state_in(path), **changed}))
    return path


def real(*proposers: str, **options: Any) -> MoA:
    """A mixture of providers' models, which nothing asks."""
    return MoA("question -> answer", [f"openai/{name}" for name in proposers], "openai/judge", **options)
