"""A comparison as rich tables: one row per system, one per kind of question; and what must be said beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

import dspy
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.comparison_row import Row
from moa_dspy.evaluation.intervals import Interval
from moa_dspy.evaluation.records import Kind

__all__ = ["comparison_table", "split_table"]

NOTHING = "-"
HEADINGS: Mapping[Kind, str] = {
    "proposer": "alone",
    "aggregator": "alone",
    "vote": "mixed",
    "strategy": "mixed",
    "other": "others",
    "oracle": "bound",
}


def comparison_table(comparison: Comparison, width: int = 80) -> Table:
    """One row per system.

    Args:
        comparison: What to show.
        width: Columns of the terminal: where there is room, intervals get a decimal and columns more space.

    Returns:
        The table. Scores are in percent if the metric says right or wrong; what a system takes is per question.
    """
    unlimited = Console(width=1000)
    table = _rows(comparison, decimals=1, gap=2)
    for gap in (1, 0):
        if Measurement.get(unlimited, unlimited.options, table).maximum <= width:
            break
        table = _rows(comparison, decimals=0, gap=gap)
    # Too narrow for the numbers alone, the names would vanish: then all columns are cut.
    table.columns[0].no_wrap = width < 75
    return table


def split_table(comparison: Comparison, key: Callable[[dspy.Example], Any]) -> Table:
    """The systems' scores by kind of question, the best of each kind in bold.

    Args:
        comparison: What to show.
        key: Gives an example's kind.
    """
    groups = comparison.split(key)
    percent = comparison.is_accuracy
    table = _table()
    table.add_column("%" if percent else "", no_wrap=True, overflow="ellipsis")
    for group in groups:
        table.add_column(str(group), justify="right")
    table.add_row(*(Text(cell, "dim") for cell in ["questions", *(str(len(part.records)) for part in groups.values())]))
    names = [system.name for system in comparison.systems if system.kind != "oracle"]
    scores = {name: [float(part.scores(name).mean()) for part in groups.values()] for name in names}
    best = [max(column) for column in zip(*scores.values(), strict=True)]
    for name, cells in scores.items():
        shown = [_number(cell, percent, 0) for cell in cells]
        styles = ["bold" if cell == top else "" for cell, top in zip(cells, best, strict=True)]
        table.add_row(name, *(Text(*cell) for cell in zip(shown, styles, strict=True)))
    return table


def _rows(comparison: Comparison, decimals: int, gap: int) -> Table:
    percent = comparison.is_accuracy
    table = _table(gap)
    # Names that are too long go on in the next line: cut short, models of one family would look the same.
    table.add_column("", overflow="fold")
    score = "accuracy %" if decimals else "acc. %"
    for name in (score if percent else "score", "95%", "gain", "95%", "calls", "tokens", "USD", "time"):
        table.add_column(name, no_wrap=True, justify="left" if name == "95%" else "right")
    for heading, rows in groupby(comparison.rows, key=lambda row: HEADINGS[row.kind]):
        table.add_row(Text(heading, style="dim"))
        for row in rows:
            table.add_row(*_cells(row, percent, decimals))
    return table


def _table(gap: int = 2) -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")


def _cells(row: Row, percent: bool, decimals: int) -> list[Text]:
    gain = row.difference_interval
    return [
        Text(f" {row.name}"),
        Text(_number(row.score, percent, 1), "bold" if row.kind in ("vote", "strategy", "other") else ""),
        Text("-".join(_number(bound, percent, decimals) for bound in row.interval), "dim"),
        Text("best" if gain is None else _difference(row.difference, percent, "+"), _verdict(gain)),
        Text("" if gain is None else " to ".join(_difference(bound, percent) for bound in gain), "dim"),
        *(Text(cell) for cell in (_count(row.calls), _count(row.tokens), _usd(row.cost_usd), _time(row.seconds))),
    ]


def _verdict(gain: Interval | None) -> str:
    if gain is None or gain.low <= 0 <= gain.high:
        return ""
    return "green" if gain.low > 0 else "red"


def _number(value: float, percent: bool, decimals: int) -> str:
    return f"{100 * value:.{decimals}f}" if percent else f"{value:.2f}"


def _difference(value: float, percent: bool, sign: str = "-") -> str:
    return f"{100 * value:{sign}.1f}" if percent else f"{value:{sign}.2f}"


def _count(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 or value == round(value) else f"{value:.1f}"


def _usd(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2g}" if value < 0.01 else f"{value:.3f}"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return f"{1000 * seconds:.0f} ms" if seconds < 0.95 else f"{seconds:.1f} s"
