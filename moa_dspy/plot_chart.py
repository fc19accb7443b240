"""The chart of a comparison: axes, points, intervals, labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

from moa_dspy.comparison import Comparison
from moa_dspy.comparison_row import Row
from moa_dspy.evaluation_records import Kind
from moa_dspy.plot_axis import Axis, axis
from moa_dspy.plot_drawing import Anchor, Box, Dot, Drawing, Label, Line
from moa_dspy.plot_labels import nearest, place, spread

__all__ = ["chart"]

WIDTH, HEIGHT = 900, 560
PLOT = Box(78, 80, 880, 496)
COLORS: Mapping[Kind, str] = {
    "proposer": "#5f6368",
    "aggregator": "#5f6368",
    "vote": "#b35900",
    "strategy": "#0b5cad",
    "other": "#2e7d32",
    "oracle": "#8a2f8a",
}
LEGEND: Mapping[Kind, str] = {
    "proposer": "one model alone",
    "vote": "vote, no aggregator",
    "strategy": "mixture",
    "other": "given",
    "oracle": "oracle: some proposer is right",
}
GRID, INK, PALE = "#e6e6e6", "#222222", "#666666"
FONT = 12.0
# Pixels between points of equal cost, so that their intervals can be told apart.
GAP = 15.0


def chart(comparison: Comparison) -> Drawing:
    """Score against what a system takes per question.

    Raises:
        ValueError: If there is nothing to plot.
    """
    rows = [row for row in comparison.rows if row.kind != "oracle" and row.tokens]
    if not rows:
        raise ValueError("There is nothing to plot: no question was finished, or DSPy's cache answered them all.")
    is_priced = all(row.cost_usd for row in rows)
    costs = [row.cost_usd or 0.0 if is_priced else row.tokens or 0.0 for row in rows]
    across, up = _cost_axis(costs, is_priced), _score_axis(comparison)
    xs = spread([across.place(cost) for cost in costs], GAP)
    points = [(x, up.place(row.score)) for x, row in zip(xs, rows, strict=True)]
    bars = [(up.place(row.interval.low), up.place(row.interval.high)) for row in rows]
    score, cost = "accuracy" if comparison.is_accuracy else "mean score", "USD" if is_priced else "tokens"
    plain = f"{score} against {cost}"
    title = f"SIMULATED models: {plain}" if comparison.is_simulated else plain[0].upper() + plain[1:]
    return Drawing(
        title,
        WIDTH,
        HEIGHT,
        [
            Label(PLOT.left, 22, title, INK, 16, bold=True),
            Label(PLOT.left, 43, _subtitle(comparison), PALE, 11.5),
            *_legend({row.kind for row in comparison.rows}),
            *_axes(across, up),
            *_bound(comparison, up),
            *_systems(rows, points, bars),
            *_names(rows, points, bars, up, comparison),
        ],
    )


def _subtitle(comparison: Comparison) -> str:
    """What the reader must know to take the numbers for what they are."""
    count = len(comparison.records)
    asked = f"{count} question{'s' if count != 1 else ''}, metric {comparison.metric}"
    return f"{asked}; bars are 95% intervals; points of equal cost stand side by side"


def _cost_axis(costs: Sequence[float], is_priced: bool) -> Axis:
    low, high = min(costs), max(costs)
    is_log = high / low > 3
    room = 0.4 * ((high - low) or high)
    low, high = (low / 1.25, high * 1.35) if is_log else (max(low - room, 0.0), high + room)
    title = "USD per question" if is_priced else "tokens per question, prompt and completion"
    scale = " (log scale)" if is_log else ""

    def text(value: float) -> str:
        return f"${value:.10f}".rstrip("0").rstrip(".") if is_priced else f"{value:,.0f}"

    return axis(title + scale, low, high, PLOT.left, PLOT.right, text, is_log)


def _score_axis(comparison: Comparison) -> Axis:
    bounds = [bound for row in comparison.rows for bound in row.interval]
    low, high = min(bounds), max(bounds)
    room = 0.08 * ((high - low) or 1.0)
    if not comparison.is_accuracy:
        return axis("mean score", low - room, high + room, PLOT.bottom, PLOT.top, lambda value: f"{value:g}")
    # Nothing is below 0 or above 100 %, but a point there must not sit on the frame.
    low, high = max(low - room, -0.03), min(high + room, 1.03)
    return axis("accuracy, % of the questions", low, high, PLOT.bottom, PLOT.top, lambda value: f"{100 * value:.0f}")


def _legend(kinds: set[Kind]) -> Iterator[Dot | Label]:
    x = PLOT.left
    for kind, text in LEGEND.items():
        if kind in kinds and kind != "oracle":
            yield Dot(x + 5, 63, COLORS[kind], 4)
            yield Label(x + 14, 63, text, COLORS[kind], 11.5)
            x += 44 + 6.5 * len(text)


def _axes(across: Axis, up: Axis) -> Iterator[Line | Label]:
    for tick in up.ticks:
        y = up.place(tick)
        yield Line(PLOT.left, y, PLOT.right, y, GRID)
        yield Label(PLOT.left - 8, y, up.text(tick), PALE, 11.5, "end")
    for tick in across.ticks:
        x = across.place(tick)
        yield Line(x, PLOT.top, x, PLOT.bottom, GRID)
        yield Label(x, PLOT.bottom + 16, across.text(tick), PALE, 11.5, "middle")
    yield Line(PLOT.left, PLOT.bottom, PLOT.right, PLOT.bottom, PALE)
    yield Line(PLOT.left, PLOT.top, PLOT.left, PLOT.bottom, PALE)
    yield Label((PLOT.left + PLOT.right) / 2, PLOT.bottom + 42, across.title, INK, 12.5, "middle")
    yield Label(22, (PLOT.top + PLOT.bottom) / 2, up.title, INK, 12.5, "middle", upright=True)


def _bound(comparison: Comparison, up: Axis) -> Iterator[Line | Label]:
    for row in comparison.rows:
        if row.kind == "oracle":
            y = up.place(row.score)
            yield Line(PLOT.left, y, PLOT.right, y, COLORS["oracle"], 1.2, dashed=True)
            yield Label(PLOT.left + 6, y + 10, LEGEND["oracle"], COLORS["oracle"], 11)


def _systems(
    rows: Sequence[Row], points: Sequence[tuple[float, float]], bars: Sequence[tuple[float, float]]
) -> Iterator[Line | Dot]:
    for row, (x, y), (low, high) in zip(rows, points, bars, strict=True):
        color = COLORS[row.kind]
        yield Line(x, low, x, high, color, 1.4)
        for end in (low, high):
            yield Line(x - 3, end, x + 3, end, color, 1.4)
        yield Dot(x, y, color, hint=f"{row.name}: {row.score:.3f} [{row.interval.low:.3f}, {row.interval.high:.3f}]")


def _names(
    rows: Sequence[Row],
    points: Sequence[tuple[float, float]],
    bars: Sequence[tuple[float, float]],
    up: Axis,
    comparison: Comparison,
) -> Iterator[Line | Label]:
    around = [Box(x - 6, min(ends) - 3, x + 6, max(ends) + 3) for (x, _), ends in zip(points, bars, strict=True)]
    bounds = [up.place(row.score) for row in comparison.rows if row.kind == "oracle"]
    taken = [Box(PLOT.left, y - 2, PLOT.right, y + 2) for y in bounds]
    taken += [Box(PLOT.left, y, PLOT.left + 230, y + 18) for y in bounds]
    boxes = place(points, [row.name for row in rows], FONT, PLOT, around, taken)
    for row, (x, y), box in zip(rows, points, boxes, strict=True):
        end = nearest(box, x, y)
        if math.dist((x, y), end) > 20:
            yield Line(x, y, *end, COLORS[row.kind], 0.6)
        # Flush with the side that faces the point: how wide the text will be is only estimated.
        anchor: Anchor = "end" if box.right < x else "start" if box.left > x else "middle"
        at = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[anchor]
        bold = row.kind not in ("proposer", "aggregator")
        yield Label(at, (box.top + box.bottom) / 2, row.name, COLORS[row.kind], FONT, anchor, bold)
