"""A diagnosis in a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .diagnosis import Diagnosis

__all__ = ["diagnosis_table"]


def diagnosis_table(diagnosis: Diagnosis, width: int = 80) -> RenderableType:
    """The comparison, the errors that are shared, the committees, the recommendation with its reasons.

    Args:
        diagnosis: What to show.
        width: Columns of the terminal.
    """
    parts: list[RenderableType] = [diagnosis.comparison.table(width), ""]
    if len(diagnosis.diversity.agents) > 1:
        parts += [_errors(diagnosis), ""]
    if len(diagnosis.committees) > 1:
        parts += [_committees(diagnosis), ""]
    style = "bold green" if diagnosis.recommendation.verdict == "mix" else "bold"
    parts.append(Text(diagnosis.recommendation.reason, style))
    parts += [Text(reason) for reason in diagnosis.reasons]
    return Group(*parts)


def _errors(diagnosis: Diagnosis) -> Table:
    """Correlation above the diagonal, shared wrong answers below it: with names once, both fit."""
    found = diagnosis.diversity
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="dim",
        title="Errors: right of the diagonal their correlation; left of it the same wrong answer, where both are wrong",
        title_style="dim",
        title_justify="left",
    )
    table.add_column("", overflow="fold")
    for number in range(1, len(found.agents) + 1):
        table.add_column(str(number), justify="right")
    for row, name in enumerate(found.agents):
        cells = [
            ""
            if row == column
            else _share(found.same_error[row, column])
            if column < row
            else _number(found.correlation[row, column])
            for column in range(len(found.agents))
        ]
        table.add_row(f"{row + 1} {name}", *cells)
    return table


def _committees(diagnosis: Diagnosis) -> Table:
    table = Table(
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        header_style="dim",
        title="Weighted votes, less what choosing them on these questions flatters",
        title_style="dim",
        title_justify="left",
    )
    table.add_column("calls", justify="right")
    table.add_column("score", justify="right")
    table.add_column("of", overflow="fold")
    for made in diagnosis.committees:
        times = f", each {made.samples} times" if made.samples > 1 else ""
        table.add_row(str(made.calls), f"{made.scores.mean():.3f}", f"{', '.join(made.agents)}{times}")
    return table


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.2f}"


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.0%}"
