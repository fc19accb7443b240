"""Quality against cost, drawn by matplotlib: as a picture, or as a web page with the table beside it."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from moa_dspy.evaluation.comparison import Comparison, Row
from moa_dspy.evaluation.scores import Kind
from moa_dspy.evaluation.table import shown_as_text

__all__ = ["check_plot", "save_figure", "save_plot"]

_ENDINGS = (".html", ".svg", ".png", ".pdf")
_MARKERS = "osD^vP*X<>ph"
_COLORS: dict[Kind, str] = {
    "proposer": "#5f6368",
    "aggregator": "#5f6368",
    "vote": "#b35900",
    "strategy": "#0b5cad",
    "other": "#2e7d32",
    "oracle": "#8a2f8a",
}
# Equal comparisons give equal files: no date, no random ids.
_METADATA = {"svg": dict.fromkeys(("Date", "Creator", "Format", "Type")), "pdf": {"CreationDate": None}}


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
    count = len(comparison.questions)
    rows = [row for row in comparison.rows if row.kind != "oracle" and row.failures < count]
    if not rows:
        raise ValueError("There is nothing to plot: no system answered any question.")
    unit, costs = _find_costs(rows)
    title = f"{'accuracy' if comparison.is_accuracy else 'mean score'}{f' against {unit}' if unit else ''}"
    title = f"SIMULATED models: {title}" if comparison.is_simulated else title[0].upper() + title[1:]
    asked = f"{count} question{'s' if count != 1 else ''}, metric {comparison.metric}; bars are 95% intervals"
    if silent := [row.name for row in comparison.rows if row.kind != "oracle" and row.failures == count]:
        asked += f"; never answered: {', '.join(silent)}"
    draw = partial(_draw, comparison, rows, unit, costs)
    return save_figure(path, draw, title, asked, lambda: comparison.table(120))


def save_figure(
    path: str | Path, draw: Callable[[Any], None], title: str, subtitle: str, table: Callable[[], Any]
) -> Path:
    """Draw one diagram as the house draws them.

    Args:
        path: As for `save_plot`.
        draw: Draws into matplotlib's axes.
        title: Above it.
        subtitle: What must be known to read it.
        table: Gives the rich table that stands below the diagram in a web page.
    """
    path = check_plot(path)
    import matplotlib
    from matplotlib.figure import Figure

    # No pyplot: it would choose a backend and keep global state, in the user's process.
    figure = Figure(figsize=(9, 5.6), facecolor="white")
    axes = figure.add_axes((0.08, 0.12, 0.68, 0.76))
    draw(axes)
    axes.set_title(title, loc="left", weight="bold", pad=24, parse_math=False)
    axes.text(0, 1.03, subtitle, transform=axes.transAxes, size=8.5, color="#666666", parse_math=False)
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign
    is_page = path.suffix.lower() == ".html"
    target: Any = io.StringIO() if is_page else path
    form = "svg" if is_page else path.suffix.lower()[1:]
    with matplotlib.rc_context({"svg.hashsalt": "moa-dspy", "svg.fonttype": "none"}):
        figure.savefig(target, format=form, dpi=200, bbox_inches="tight", metadata=_METADATA.get(form))
    if is_page:
        drawing, below = target.getvalue(), escape(shown_as_text(table(), 120))
        head = f'<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        page = f"{head}{drawing[drawing.index('<svg') :]}\n<pre>\n{below}</pre>\n</html>\n"
        path.write_text(page, encoding="utf-8")
    return path


def check_plot(path: str | Path) -> Path:
    """Find out before an evaluation whether its plot can be written.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the ending is none of those that can be written.
        FileNotFoundError: If there is no such folder.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ValueError(f"{path.name} says no format that can be plotted: a plot ends in {', '.join(_ENDINGS)}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"The folder {path.parent} does not exist, so the plot could not be written.")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise ImportError(f'A plot in {path.name} needs matplotlib: pip install "moa-dspy[plot]".') from error
    return path


def _draw(comparison: Comparison, rows: list[Row], unit: str, costs: list[float], axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    span = max(costs) / min(costs) if min(costs) > 0 else 1.0
    if span > 3:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < 100 else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    for number, (row, cost) in enumerate(zip(rows, costs, strict=True)):
        # Systems of equal cost stand side by side, or their intervals could not be told apart.
        x = cost * max(1.02, span**0.02) ** costs[:number].count(cost)
        errors = [[max(row.score - row.interval.low, 0.0)], [max(row.interval.high - row.score, 0.0)]]
        marker, color = _MARKERS[number % len(_MARKERS)], _COLORS[row.kind]
        axes.errorbar(x, row.score, errors, fmt=marker, color=color, capsize=3, label=row.name)
    for row in comparison.rows:
        if row.kind == "oracle":
            line: Any = {"color": _COLORS["oracle"], "linestyle": "--", "linewidth": 1}
            axes.axhline(row.score, label="oracle: some proposer is right", **line)
    axes.set_ylabel("accuracy, % of the questions" if comparison.is_accuracy else "mean score")
    if comparison.is_accuracy:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}"))
    axes.set_xlabel(f"{unit} per question{', prompt and completion' if unit == 'tokens' else ''}")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{'$' if unit == 'USD' else ''}{value:,.6g}"))
    if not unit:
        axes.set(xticks=[], xlabel="in the order of the table: no costs are recorded")
    axes.margins(x=0.12)


def _find_costs(rows: list[Row]) -> tuple[str, list[float]]:
    """The unit of the x axis, and each row's cost in it; no unit where costs are not recorded."""
    for unit, name in (("USD", "cost_usd"), ("tokens", "tokens"), ("calls", "calls")):
        known = [value for row in rows if (value := getattr(row, name)) is not None]
        if len(known) == len(rows) and any(known):
            return unit, known
    return "", [float(place) for place in range(len(rows))]
