"""A diagnosis in a terminal, beside its comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from .diagnosis import Diagnosis

__all__ = ["findings"]


def findings(diagnosis: Diagnosis) -> RenderableType:
    """The errors that are shared, the committees, the recommendation with its reasons."""
    found, shown = diagnosis.diversity, list[RenderableType]()
    if len(found.agents) > 1:
        table = _table("", [str(number + 1) for number in range(len(found.agents))])
        for row, name in enumerate(found.agents):
            left = [_cell(value, ".0%") for value in found.same_error[row][:row]]
            right = [_cell(value, ".2f") for value in found.correlation[row][row + 1 :]]
            table.add_row(f"{row + 1} {name}", *left, "", *right)
        shown += [Text(_ABOUT_ERRORS, "dim"), table, ""]
    several = [made for made in diagnosis.committees if made.calls > 1]
    if several:
        table = _table("of", ["calls", "score"])
        for made in several:
            times = f", each {made.samples} times" if made.samples > 1 else ""
            score = made.scores.mean()
            said = f"{100 * score:.1f}%" if diagnosis.comparison.is_accuracy else f"{score:.3f}"
            table.add_row(f"{', '.join(made.agents)}{times}", str(made.calls), said)
        shown += [Text("Weighted votes, on questions that their weights have not seen.", "dim"), table, ""]
    style = "bold green" if diagnosis.recommendation.verdict == "mix" else "bold"
    return Group(*shown, Text(diagnosis.recommendation.reason, style), *map(Text, diagnosis.reasons))


_ABOUT_ERRORS = (
    "Errors. Right of the diagonal: how they correlate. Left of it: the share of the same wrong answer, where both are "
    "wrong."
)


def _table(first: str, headings: Sequence[str]) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim")
    table.add_column(first, overflow="fold")
    for heading in headings:
        table.add_column(heading, justify="right")
    return table


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
