"""Filling a file, and what came of it."""

from typing import Any

from moa_dspy import MoA, record


def fill(moa: MoA, questions: Any, path: Any, **options: Any) -> Any:
    """Record into a file; the summary of this run."""
    summaries: list[Any] = []
    record(moa, questions, path, on_row=lambda row, summary: summaries.append(summary), **options)
    return summaries[-1]
