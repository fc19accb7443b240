"""Progress on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from moa_dspy.batch.summary import BatchSummary

__all__ = ["BatchProgress", "bar_on_stderr"]


def bar_on_stderr() -> Progress:
    """A bar with what is done, of how much, and the time; nothing where stderr is no terminal."""
    console = Console(stderr=True)
    return Progress(
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


class BatchProgress:
    """The bar of a batch, from the first question on."""

    def __init__(self) -> None:
        self.started = False
        self._bar = bar_on_stderr()
        self._task = self._bar.add_task("reading", total=None)

    def __enter__(self) -> BatchProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, summary: BatchSummary) -> None:
        """Show how far the batch is."""
        self.started = True
        done = summary.questions - summary.left
        self._bar.update(self._task, description=_description(summary), completed=done, total=summary.questions)


def _description(summary: BatchSummary) -> str:
    if summary.interrupted:
        return "[yellow]finishing; Ctrl-C again abandons"
    return f"asking[red], {summary.failed} failed" if summary.failed else "asking"
