"""A comparison under way and in files: what `demo` and `eval` do alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import typer

from moa_dspy.cli.console import BAD_INPUT, FAILED, INTERRUPTED, complain, note, quiet_stdout
from moa_dspy.cli.progress import bar_on_stderr
from moa_dspy.errors import MoAError
from moa_dspy.evaluation import EvaluationInterrupted, evaluate
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric, MetricError
from moa_dspy.moa import MoA
from moa_dspy.plot import check_plot, save_plot

__all__ = ["check_files", "compare", "print_json", "progress", "save"]


def check_files(plot: Path | None, record: Path | None = None) -> None:
    """Find out before anything is paid for that a file could not be written.

    Raises:
        ValueError: If matplotlib is missing or does not know the ending.
        OSError: If there is no such folder.
    """
    if record is not None and not record.parent.is_dir():
        raise FileNotFoundError(f"The folder {record.parent} does not exist, so the record could not be written.")
    if plot is not None:
        try:
            check_plot(plot)
        except ImportError as error:
            raise ValueError(str(error)) from None


def compare(
    what: str, moa: MoA, dataset: Sequence[dspy.Example], metric: str | Metric, **settings: Any
) -> tuple[Comparison, int]:
    """Evaluate with a bar on stderr.

    Returns:
        The comparison, also of a part of the questions, and the exit status.

    Raises:
        typer.Exit: If there is nothing to compare.
    """
    try:
        with quiet_stdout(), progress(what) as on_progress:
            return evaluate(moa, dataset, metric, on_progress=on_progress, **settings), 0
    except EvaluationInterrupted as stop:
        return _part(stop.comparison, INTERRUPTED)
    except MetricError as error:
        complain(str(error))
        if error.comparison is None:
            raise typer.Exit(BAD_INPUT) from None
        return _part(error.comparison, FAILED)
    except MoAError as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None


def print_json(comparison: Comparison) -> None:
    """The results, and nothing else, on stdout."""
    sys.stdout.write(json.dumps(comparison.to_dict(), indent=2) + "\n")


def save(comparison: Comparison, plot: Path | None = None, record: Path | None = None) -> None:
    """Write the plot and the record of all answers, and say where they are.

    Raises:
        typer.Exit: If one could not be written; the results are on the screen by then.
    """
    try:
        if record is not None:
            lines = [json.dumps(row.to_dict()) for row in comparison.records]
            record.write_text("\n".join(lines) + "\n", encoding="utf-8")
            note(f"Every answer of every system: {record}")
        if plot is not None:
            note(f"Plot: {save_plot(comparison, plot)}")
    except (ValueError, OSError) as error:
        complain(str(error))
        raise typer.Exit(FAILED) from None


def _part(comparison: Comparison, status: int) -> tuple[Comparison, int]:
    if not comparison.records:
        complain("No question was finished, so there is nothing to compare.")
        raise typer.Exit(status)
    return comparison, status


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; gives what to call with the questions done and all."""
    bar = bar_on_stderr()
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
