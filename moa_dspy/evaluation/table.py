"""A comparison as tables for a terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from moa_dspy.evaluation.scores import Kind
from moa_dspy.terminal import printable

if TYPE_CHECKING:
    from moa_dspy.evaluation.comparison import Comparison, Measure, Row

__all__ = ["groups_table", "measures_table", "rows_table", "shown_as_text"]

_HEADINGS: dict[Kind, str] = {
    **dict.fromkeys(("proposer", "aggregator"), "alone"),
    **dict.fromkeys(("vote", "strategy"), "mixed"),
    "other": "others",
    "oracle": "bound",
}


def rows_table(comparison: Comparison, width: int) -> Table:
    """A line per system: its score, its gain over the best single model, and what it takes per question."""
    percent, is_wide, is_narrow = comparison.is_accuracy, width >= 100, width < 75
    digits = 0 if is_narrow else 1
    table = _empty(gap=2 if is_wide else 1)
    # Names that are too long go on in the next line: cut short, models of one family would look the same.
    table.add_column("", overflow="fold")
    costs = ["USD"] if is_narrow else ["calls", "tokens", "USD", "time"]
    for title in ["acc. %" if percent else "score", "95%", "gain", "95%", *costs]:
        table.add_column(title, no_wrap=True, justify="left" if title == "95%" else "right")
    for heading, rows in groupby(comparison.rows, key=lambda row: _HEADINGS[row.kind]):
        table.add_row(Text(heading, "dim"))
        for row in rows:
            gain = row.difference_interval
            style = "" if gain is None or gain.low <= 0 <= gain.high else "green" if gain.low > 0 else "red"
            table.add_row(
                Text(printable(f" {row.name}")),
                Text(_score(row.score, percent, digits), "bold" if row.kind in ("vote", "strategy", "other") else ""),
                Text("-".join(_score(bound, percent, int(is_wide)) for bound in row.interval), "dim"),
                Text("best" if gain is None else _score(row.difference, percent, digits, "+"), style),
                Text("" if gain is None else " to ".join(_score(bound, percent, digits) for bound in gain), "dim"),
                *(cell for title, cell in _costs(row).items() if title in costs),
            )
    return table


def groups_table(comparison: Comparison, groups: Mapping[Any, Comparison]) -> Table:
    """A column per group of questions, the best score of each in bold."""
    table = _empty(gap=2)
    table.add_column("%" if comparison.is_accuracy else "", no_wrap=True, overflow="ellipsis")
    for group in groups:
        table.add_column(Text(printable(group)), justify="right")
    table.add_row("questions", *(str(len(part.questions)) for part in groups.values()), style="dim")
    names = [system.name for system in comparison.systems if system.kind != "oracle"]
    means = {name: [float(part.scores(name).mean()) for part in groups.values()] for name in names}
    best = [max(column) for column in zip(*means.values(), strict=True)]
    for name in names:
        cells = [
            Text(_score(mean, comparison.is_accuracy, 0), "bold" if mean == top else "")
            for mean, top in zip(means[name], best, strict=True)
        ]
        table.add_row(Text(printable(name)), *cells)
    return table


def measures_table(measures: Sequence[Measure]) -> Table:
    """A line per system, a column per measure."""
    table = _empty(gap=1)
    names = list(dict.fromkeys(one.name for one in measures))
    table.add_column("", overflow="fold")
    for name in names:
        table.add_column(Text(printable(name)), overflow="fold", justify="right")
    for system, of_system in groupby(measures, key=lambda one: one.system):
        known = {one.name: one for one in of_system}
        table.add_row(Text(printable(system)), *(_number(known[n].value) if n in known else "-" for n in names))
        bounds = ("-".join(map(_number, known[n].interval)) if n in known else "" for n in names)
        table.add_row("", *bounds, style="dim")
    return table


def shown_as_text(shown: RenderableType, width: int = 80) -> str:
    """What a terminal of this many columns would show, without colours."""
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, force_terminal=False, force_jupyter=False).print(shown)
    return out.getvalue().rstrip()


def _empty(gap: int) -> Table:
    return Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")


def _score(value: float, percent: bool, decimals: int, sign: str = "-") -> str:
    return f"{100 * value:{sign}.{decimals}f}" if percent else f"{value:{sign}.2f}"


def _costs(row: Row) -> dict[str, str]:
    usd, seconds = row.cost_usd, row.seconds
    counts = {
        name: "-" if count is None else f"{count:,.0f}" if count >= 100 or count == round(count) else f"{count:.1f}"
        for name, count in {"calls": row.calls, "tokens": row.tokens}.items()
    }
    return {
        **counts,
        "USD": "-" if usd is None else f"{usd:.2g}" if usd < 0.01 else f"{usd:.3f}",
        "time": "-" if seconds is None else f"{1000 * seconds:.0f} ms" if seconds < 0.95 else f"{seconds:.1f} s",
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if 0 < value < 0.01 else f"{value:.2f}"
