"""A diagnosis in a terminal."""

from __future__ import annotations

import math

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .diagnosis import Diagnosis

__all__ = ["diagnosis_table", "findings"]


def diagnosis_table(diagnosis: Diagnosis, width: int = 80) -> RenderableType:
    """The comparison, then the findings.

    Args:
        diagnosis: What to show.
        width: Columns of the terminal.
    """
    return Group(diagnosis.comparison.table(width), "", findings(diagnosis))


def findings(diagnosis: Diagnosis) -> RenderableType:
    """The errors that are shared, the committees, the recommendation with its reasons."""
    parts: list[RenderableType] = []
    if len(diagnosis.diversity.agents) > 1:
        parts += [Text(_ABOUT_ERRORS, "dim"), _errors(diagnosis), ""]
    if len(diagnosis.committees) > 1:
        parts += [Text(_ABOUT_COMMITTEES, "dim"), _committees(diagnosis), ""]
    style = "bold green" if diagnosis.recommendation.verdict == "mix" else "bold"
    return Group(*parts, Text(diagnosis.recommendation.reason, style), *map(Text, diagnosis.reasons))


_ABOUT_ERRORS = (
    "Errors. Right of the diagonal: how they correlate. Left of it: the share of the same wrong answer, where both are "
    "wrong."
)
_ABOUT_COMMITTEES = "Weighted votes, their scores less what choosing them on these questions flatters."


def _errors(diagnosis: Diagnosis) -> Table:
    found, table = diagnosis.diversity, _table("")
    for number in range(1, len(found.agents) + 1):
        table.add_column(str(number), justify="right")
    for row, name in enumerate(found.agents):
        left = [_cell(value, ".0%") for value in found.same_error[row, :row]]
        right = [_cell(value, ".2f") for value in found.correlation[row, row + 1 :]]
        table.add_row(f"{row + 1} {name}", *left, "", *right)
    return table


def _committees(diagnosis: Diagnosis) -> Table:
    table = _table("of")
    table.add_column("calls", justify="right")
    table.add_column("score", justify="right")
    for made in diagnosis.committees:
        times = f", each {made.samples} times" if made.samples > 1 else ""
        table.add_row(f"{', '.join(made.agents)}{times}", str(made.calls), f"{made.scores.mean():.3f}")
    return table


def _table(first: str) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    return table


def _cell(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)
