"""Quality against cost, drawn by matplotlib: as a picture, or as a web page with the table beside it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from moa_dspy.evaluation.comparison import COLUMNS, Comparison, Row
from moa_dspy.evaluation.scores import Kind

__all__ = ["check_plot", "save_plot"]

ENDINGS = (".html", ".svg", ".png", ".pdf")
COLORS: dict[Kind, str] = {
    "proposer": "#5f6368",
    "aggregator": "#5f6368",
    "vote": "#b35900",
    "strategy": "#0b5cad",
    "other": "#2e7d32",
    "oracle": "#8a2f8a",
}


def save_plot(comparison: Comparison, path: str | Path) -> Path:
    """Plot every system's score against what it takes per question, with 95% intervals.

    Args:
        comparison: What to plot. The x axis is USD if all prices are known, else tokens, and calls where
            DSPy's cache left nothing to measure.
        path: Ends in `.svg`, `.png`, `.pdf`, or in `.html` for a page that loads nothing, with the table below.

    Returns:
        The path.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If there is nothing to plot, or the ending is another.
        OSError: If the file cannot be written.
    """
    path = check_plot(path)
    if path.suffix.lower() == ".html":
        path.write_text(_page(comparison), encoding="utf-8")
    else:
        _save(_draw(comparison), path, path.suffix.lower()[1:])
    return path


def check_plot(path: str | Path) -> Path:
    """Find out before an evaluation whether its plot can be written.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the ending is none of those that can be written.
        FileNotFoundError: If there is no such folder.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise ValueError(f"{path.name} says no format that can be plotted: a plot ends in {', '.join(ENDINGS)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist, so the plot could not be written.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f'A plot in {path.name} needs matplotlib: pip install "moa-dspy[plot]".') from error
    return path


def _save(figure: Any, target: Any, kind: str) -> None:
    import matplotlib

    # Equal comparisons give equal files: no date, no random ids. Texts of an SVG stay texts.
    with matplotlib.rc_context({"svg.hashsalt": "moa-dspy", "svg.fonttype": "none"}):
        metadata = {"svg": {"Date": None, "Creator": None, "Format": None, "Type": None}, "pdf": {"CreationDate": None}}
        # Tight: names at the right may be of any length.
        figure.savefig(target, format=kind, dpi=200, bbox_inches="tight", metadata=metadata.get(kind))


def _page(comparison: Comparison) -> str:
    svg = io.StringIO()
    _save(_draw(comparison), svg, "svg")
    title = escape(_title(comparison, _axis(comparison, _shown(comparison))[0]))
    header = "".join(f"<th>{escape(name)}</th>" for name in ["", comparison.score_title, *COLUMNS])
    lines = [
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in comparison.cells(row)) + "</tr>"
        for row in comparison.rows
    ]
    drawing = svg.getvalue()
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 1rem; background: white; color: #222; font: 14px sans-serif; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 0.2rem 0.8rem; text-align: right; border-bottom: 1px solid #ddd; }}
td:first-child {{ text-align: left; }}
</style>
{drawing[drawing.index("<svg") :]}
<table>
<tr>{header}</tr>
{chr(10).join(lines)}
</table>
</html>
"""


def _draw(comparison: Comparison) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    rows = _shown(comparison)
    unit, costs, title = _axis(comparison, rows)
    # No pyplot: it would choose a backend and keep global state, in the user's process.
    figure = Figure(figsize=(9, max(5.6, 0.26 * len(rows) + 1.8)), facecolor="white")
    axes = figure.add_axes((0.08, 0.12, 0.7, 0.76))
    axes.set_title(_title(comparison, unit), loc="left", weight="bold", pad=24, parse_math=False)
    axes.text(0, 1.03, _subtitle(comparison), transform=axes.transAxes, size=8.5, color="#666666", parse_math=False)
    axes.set(xlabel=title, ylabel="accuracy, % of the questions" if comparison.is_accuracy else "mean score")
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    _set_limits(axes, comparison, rows, costs)
    if comparison.is_accuracy:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    if axes.get_xscale() == "log":
        span = max(costs) / min(costs)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 30 else (1, 3) if span < 1000 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    elif unit == "order":
        axes.set_xticks([])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'$' if unit == 'USD' else ''}{value:,.6g}"))
    for row in comparison.rows:
        if row.kind == "oracle":
            axes.axhline(row.score, color=COLORS["oracle"], linestyle="--", linewidth=1)
            axes.annotate(
                "oracle: some proposer is right",
                (0.01, row.score),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                color=COLORS["oracle"],
                size=8.5,
            )
    _draw_systems(axes, rows, costs)
    return figure


def _draw_systems(axes: Any, rows: Sequence[Row], costs: Sequence[float]) -> None:
    """Points with intervals; names in a column at the right, where none can cover another, a point or a bar."""
    pixels = axes.transData.transform([(cost, row.score) for cost, row in zip(costs, rows, strict=True)])
    # Systems of equal cost stand side by side, or their intervals could not be told apart.
    xs = axes.transData.inverted().transform([(x, 0) for x in _spread([x for x, _ in pixels], 9)])[:, 0]
    bottom, top = axes.bbox.y0, axes.bbox.y1
    heights = _spread([min(max(y, bottom), top) for _, y in pixels], 15)
    for row, x, height in zip(rows, xs, heights, strict=True):
        color = COLORS[row.kind]
        low, high = row.score - row.interval.low, row.interval.high - row.score
        errors = [[max(low, 0.0)], [max(high, 0.0)]]
        axes.errorbar(x, row.score, errors, fmt="o", color=color, capsize=3, linewidth=1.3, markersize=6)
        axes.annotate(
            row.name,
            (x, row.score),
            xytext=(1.03, (height - bottom) / (top - bottom)),
            textcoords="axes fraction",
            va="center",
            color=color,
            size=9,
            weight="normal" if row.kind in ("proposer", "aggregator") else "bold",
            parse_math=False,  # a name may hold a dollar sign
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.35, "linewidth": 0.6, "shrinkA": 2, "shrinkB": 4},
        )


def _spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until neighbours are `gap` apart, each group staying centered where it was.

    Example:
        >>> _spread([5.0, 5.0, 20.0], 4.0)
        [3.0, 7.0, 20.0]
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda index: places[index]):
        groups.append([index])
        # A group that has grown may now touch the one before it.
        while len(groups) > 1 and _start(groups[-1], places, gap) < _start(groups[-2], places, gap) + gap * len(
            groups[-2]
        ):
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(places)
    for group in groups:
        for number, index in enumerate(group):
            moved[index] = _start(group, places, gap) + number * gap
    return moved


def _start(group: Sequence[int], places: Sequence[float], gap: float) -> float:
    return sum(places[index] for index in group) / len(group) - gap * (len(group) - 1) / 2


def _set_limits(axes: Any, comparison: Comparison, rows: Sequence[Row], costs: Sequence[float]) -> None:
    low, high = min(costs), max(costs)
    room = 0.15 * ((high - low) or high or 1.0)
    if low > 0 and high / low > 3:
        axes.set_xscale("log")
        axes.set_xlim(low / 1.25, high * 1.25)
    else:
        axes.set_xlim(low - room, high + room)
    bounds = [bound for row in rows for bound in row.interval] + [row.score for row in comparison.rows]
    room = 0.06 * ((max(bounds) - min(bounds)) or 1.0)
    axes.set_ylim(min(bounds) - room, max(bounds) + room)


def _shown(comparison: Comparison) -> list[Row]:
    """The systems that have a point: those that answered something.

    Raises:
        ValueError: If there are none.
    """
    rows = [row for row in comparison.rows if row.kind != "oracle" and row.failures < len(comparison.questions)]
    if not rows:
        raise ValueError("There is nothing to plot: no system answered any question.")
    return rows


def _axis(comparison: Comparison, rows: Sequence[Row]) -> tuple[str, list[float], str]:
    """The unit of the x axis, each row's cost in it, and the axis' title."""
    units = {
        "USD": [row.cost_usd for row in rows],
        "tokens": [row.tokens for row in rows],
        "calls": [row.calls for row in rows],
    }
    for unit, values in units.items():
        known = [value for value in values if value is not None]
        if len(known) == len(rows) and any(known):
            return unit, known, f"{unit} per question" + (", prompt and completion" if unit == "tokens" else "")
    return "order", [float(place) for place in range(len(rows))], "in the order of the table: no costs are recorded"


def _title(comparison: Comparison, unit: str) -> str:
    title = f"{'accuracy' if comparison.is_accuracy else 'mean score'}{'' if unit == 'order' else f' against {unit}'}"
    return f"SIMULATED models: {title}" if comparison.is_simulated else title[0].upper() + title[1:]


def _subtitle(comparison: Comparison) -> str:
    """What the reader must know to take the numbers for what they are."""
    count = len(comparison.questions)
    silent = [row.name for row in comparison.rows if row.kind != "oracle" and row.failures == count]
    asked = f"{count} question{'s' if count != 1 else ''}, metric {comparison.metric}; bars are 95% intervals"
    return f"{asked}; never answered: {', '.join(silent)}" if silent else asked
