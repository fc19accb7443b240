"""The two axes of the chart: what a system takes, and how it scores."""

from __future__ import annotations

from collections.abc import Sequence

from moa_dspy.evaluation.comparison_row import Row
from moa_dspy.plot.axis import Axis, axis
from moa_dspy.plot.drawing import Box

__all__ = ["cost_axis", "costs_of", "score_axis"]


def costs_of(rows: Sequence[Row]) -> tuple[str, list[float]]:
    """The unit, and each row's cost in it.

    USD if all prices are known, else tokens; calls if DSPy's cache answered everything of a system.
    """
    units = {
        "USD": [row.cost_usd for row in rows],
        "tokens": [row.tokens for row in rows],
        "calls": [row.calls for row in rows],
    }
    for unit, values in units.items():
        known = [value for value in values if value is not None]
        if len(known) == len(rows) and any(known):
            return unit, known
    return "calls", [0.0] * len(rows)


def cost_axis(unit: str, costs: Sequence[float], box: Box) -> Axis:
    """The axis across, logarithmic where the costs are far apart."""
    low, high = min(costs), max(costs)
    is_log = low > 0 and high / low > 3
    room = 0.4 * ((high - low) or high or 1.0)
    low, high = (low / 1.25, high * 1.35) if is_log else (max(low - room, 0.0), high + room)
    parts = ", prompt and completion" if unit == "tokens" else ""
    scale = " (log scale)" if is_log else ""

    def text(value: float) -> str:
        return f"${value:.10f}".rstrip("0").rstrip(".") if unit == "USD" else f"{value:,.10g}"

    return axis(f"{unit} per question{parts}{scale}", low, high, box.left, box.right, text, is_log)


def score_axis(rows: Sequence[Row], is_accuracy: bool, box: Box) -> Axis:
    """The axis up, which holds the rows' intervals."""
    bounds = [bound for row in rows for bound in row.interval]
    low, high = min(bounds), max(bounds)
    room = 0.08 * ((high - low) or 1.0)
    if not is_accuracy:
        return axis("mean score", low - room, high + room, box.bottom, box.top, lambda value: f"{value:g}")
    # Nothing is below 0 or above 100 %, but a point there must not sit on the frame.
    low, high = max(low - room, -0.03), min(high + room, 1.03)
    return axis("accuracy, % of the questions", low, high, box.bottom, box.top, lambda value: f"{100 * value:.0f}")
