"""What `demo` and `eval` share: a comparison under way, in a terminal, and in files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from moa_dspy.cli.console import BAD_INPUT, FAILED, INTERRUPTED, clean, complain, note, quiet_stdout
from moa_dspy.cli.show import cost_of
from moa_dspy.comparison import Comparison
from moa_dspy.comparison_table import split_table
from moa_dspy.errors import MoAError
from moa_dspy.evaluation import EvaluationInterrupted, evaluate
from moa_dspy.metrics import Metric, MetricError
from moa_dspy.moa import MoA
from moa_dspy.plot import check_plot, save_plot

__all__ = ["check_files", "compare", "print_json", "save", "show_comparison", "show_split"]

_FEW = 30
_MESSAGE = 160
_SIMULATED = "SIMULATED models: they show how mixing works and say nothing about real ones."


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
        with quiet_stdout(), _progress(what) as on_progress:
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


def show_comparison(console: Console, comparison: Comparison) -> None:
    """The table and its notes."""
    if comparison.is_simulated:
        console.print(Text(_SIMULATED, "bold yellow"))
    console.print()
    console.print(comparison.table(console.width))
    console.print()
    for line in _notes(comparison):
        console.print(Text(line, style="dim"))
    for line in _warnings(comparison):
        console.print(Text(clean(line), style="yellow"))


def show_split(console: Console, comparison: Comparison, field: str) -> None:
    """The scores by the values of a field of the data."""
    console.print()
    console.print(split_table(comparison, lambda example: example.get(field)))


def save(comparison: Comparison, plot: Path | None = None, record: Path | None = None) -> None:
    """Write the plot and the record of all answers, and say where they are."""
    if record is not None:
        lines = [json.dumps(row.to_dict()) for row in comparison.records]
        record.write_text("\n".join(lines) + "\n", encoding="utf-8")
        note(f"Every answer of every system: {record}")
    if plot is not None:
        note(f"Plot: {save_plot(comparison, plot)}")


def _part(comparison: Comparison, status: int) -> tuple[Comparison, int]:
    if not comparison.records:
        complain("No question was finished, so there is nothing to compare.")
        raise typer.Exit(status)
    return comparison, status


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; gives what to call with the questions done and all."""
    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=console,
        expand=True,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _notes(comparison: Comparison) -> Iterator[str]:
    best, usage = comparison.best_single, comparison.usage
    judges = [system.name for system in comparison.systems if system.kind == "aggregator"]
    judge = f"; {judges[0]} is the aggregator's model" if judges else ""
    yield f"alone: one model, with the proposers' prompt{judge}."
    yield "plain vote: counted, without an aggregator. oracle: right if any proposer is, the bound for picking one."
    yield (
        f"gain: against {best} alone on the same questions (paired bootstrap). {best} was picked as the best on "
        "these very questions, which flatters it."
    )
    tokens = usage.prompt_tokens + usage.completion_tokens
    cost = cost_of(usage, {call.model for record in comparison.records for call in record.calls})
    yield (
        "calls, tokens, USD, time: per question, each system on its own. This run asked each proposer once for all "
        f"systems: {usage.calls:,} calls, {tokens:,} tokens, cost {cost}."
    )


def _warnings(comparison: Comparison) -> Iterator[str]:
    count = len(comparison.records)
    if count < comparison.planned:
        yield f"Stopped after {count} of {comparison.planned} questions."
    if count < _FEW:
        yield f"{count} questions are few: the intervals are rough."
    for row in comparison.rows:
        troubles = [trouble for trouble in comparison.troubles if trouble.system == row.name]
        causes = "; ".join(f"{t.count} x {t.error}: {_one_line(t.message)}" for t in troubles)
        if row.fallbacks:
            yield f"{row.name}: the vote stood in for the aggregator on {row.fallbacks} of {count} questions. {causes}"
        # Where too few proposals came, the proposers' own failures are the news.
        elif any(trouble.error != "TooFewProposals" for trouble in troubles):
            yield f"{row.name}: {row.failures} of {count} questions without an answer, counted as wrong. {causes}"
    cached = max((row.cached for row in comparison.rows), default=0)
    if cached:
        yield (
            f"DSPy's cache answered calls of up to {cached} of {count} questions; tokens, USD and time leave these "
            "questions out."
        )


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE else f"{line[:_MESSAGE]} ..."
