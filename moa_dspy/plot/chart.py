"""The chart of a comparison: axes, points, intervals, labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.comparison_row import Row
from moa_dspy.evaluation.records import Kind
from moa_dspy.plot.axis import Axis
from moa_dspy.plot.drawing import Anchor, Box, Dot, Drawing, Label, Line
from moa_dspy.plot.labels import nearest, place, spread
from moa_dspy.plot.scales import cost_axis, costs_of, score_axis

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
    "other": "others",
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
    oracles = [row for row in comparison.rows if row.kind == "oracle"]
    rows = [row for row in comparison.rows if row.kind != "oracle" and row.failures < len(comparison.records)]
    if not rows:
        raise ValueError("There is nothing to plot: no system answered any question.")
    unit, costs = costs_of(rows)
    across, up = cost_axis(unit, costs, PLOT), score_axis([*rows, *oracles], comparison.is_accuracy, PLOT)
    bounds = [_bound(up.place(row.score)) for row in oracles]
    xs = spread([across.place(cost) for cost in costs], GAP)
    points = [(x, up.place(row.score)) for x, row in zip(xs, rows, strict=True)]
    bars = [(up.place(row.interval.low), up.place(row.interval.high)) for row in rows]
    plain = f"{'accuracy' if comparison.is_accuracy else 'mean score'} against {unit}"
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
            *bounds,
            *_systems(rows, points, bars),
            *_names(rows, points, bars, bounds),
        ],
    )


def _subtitle(comparison: Comparison) -> str:
    """What the reader must know to take the numbers for what they are."""
    count = len(comparison.records)
    asked = f"{count} question{'s' if count != 1 else ''}, metric {comparison.metric}"
    dead = [row.name for row in comparison.rows if row.kind != "oracle" and row.failures == count]
    silent = f"; never answered: {', '.join(dead)}" if dead else ""
    return f"{asked}; bars are 95% intervals; points of equal cost stand side by side{silent}"


def _legend(kinds: set[Kind]) -> Iterator[Line | Dot | Label]:
    x = PLOT.left
    for kind, text in LEGEND.items():
        if kind in kinds:
            yield replace(_bound(63), x1=x - 6, x2=x + 12) if kind == "oracle" else Dot(x + 5, 63, COLORS[kind], 4)
            yield Label(x + 16, 63, text, COLORS[kind], 11.5)
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


def _bound(y: float) -> Line:
    return Line(PLOT.left, y, PLOT.right, y, COLORS["oracle"], 1.2, dashed=True)


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
    bounds: Sequence[Line],
) -> Iterator[Line | Label]:
    around = [Box(x - 6, min(ends) - 3, x + 6, max(ends) + 3) for (x, _), ends in zip(points, bars, strict=True)]
    dashed = [Box(line.x1, line.y1 - 2, line.x2, line.y1 + 2) for line in bounds]
    boxes = place(points, [row.name for row in rows], FONT, PLOT, around, dashed)
    for row, (x, y), box in zip(rows, points, boxes, strict=True):
        end = nearest(box, x, y)
        if math.dist((x, y), end) > 20:
            yield Line(x, y, *end, COLORS[row.kind], 0.6)
        # Flush with the side that faces the point: how wide the text will be is only estimated.
        anchor: Anchor = "end" if box.right < x else "start" if box.left > x else "middle"
        at = {"start": box.left, "middle": (box.left + box.right) / 2, "end": box.right}[anchor]
        bold = row.kind not in ("proposer", "aggregator")
        yield Label(at, (box.top + box.bottom) / 2, row.name, COLORS[row.kind], FONT, anchor, bold)
