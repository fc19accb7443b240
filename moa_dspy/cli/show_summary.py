"""What came of a batch, in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moa_dspy.batch.summary import BatchSummary
from moa_dspy.cli.console import clean
from moa_dspy.cli.show import cost_of, cut

__all__ = ["show_summary"]


def show_summary(console: Console, summary: BatchSummary, out: Path, models: Iterable[str]) -> None:
    """Counts, cost, the first error, and what to do next."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, text in _lines(summary, models):
        table.add_row(name, Text(clean(text)))
    console.print(table)
    console.print(Text(_next(summary, out), style="green" if _is_complete(summary) else "yellow"), soft_wrap=True)


def _lines(summary: BatchSummary, models: Iterable[str]) -> Iterator[tuple[str, str]]:
    usage = summary.usage
    yield "questions", str(summary.questions)
    yield "answered", f"{summary.answered}{f', {summary.degraded} of them degraded' if summary.degraded else ''}"
    if summary.skipped:
        yield "skipped", f"{summary.skipped}, answered before"
    if summary.left:
        yield "left", str(summary.left)
    if summary.failed:
        yield "failed", str(summary.failed)
        yield "first error", cut(summary.first_error or "", _LENGTH)
    if summary.others:
        yield "others", f"{summary.others} in the file, whose questions are not among these: kept"
    if summary.agreement is not None:
        yield "agreement", f"{summary.agreement:.0%} on average"
    if usage.calls:
        cached = f", {usage.cache_hits} from the cache" if usage.cache_hits else ""
        yield "tokens", f"{usage.prompt_tokens:,} in, {usage.completion_tokens:,} out, {usage.calls} calls{cached}"
        yield "cost", cost_of(usage, models)
    yield "seconds", f"{summary.seconds:.1f}"


def _next(summary: BatchSummary, out: Path) -> str:
    if _is_complete(summary):
        return f"All answers are in {out}."
    again = [*(["what failed"] if summary.failed else []), *(["what is left"] if summary.left else [])]
    return f"What was answered is in {out}. The same command again asks {' and '.join(again)}."


def _is_complete(summary: BatchSummary) -> bool:
    return not summary.failed and not summary.left


_LENGTH = 500
