"""A drawing as an image, by matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from moa_dspy.plot.drawing import Dot, Drawing, Label, Line

__all__ = ["ENDINGS", "save_image"]

ENDINGS = (".png", ".svg", ".pdf")

_DPI = 100
_ANCHORS = {"start": "left", "middle": "center", "end": "right"}


def save_image(drawing: Drawing, path: Path) -> None:
    """Write the drawing in the format that the path's ending names, at twice the screen's resolution.

    Raises:
        OSError: If the file cannot be written.
    """
    # No pyplot: it would choose a backend and keep global state, in the user's process.
    figure = Figure(figsize=(drawing.width / _DPI, drawing.height / _DPI), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, drawing.width), ylim=(drawing.height, 0))
    axes.axis("off")
    for part in drawing.parts:
        _draw(axes, part)
    figure.savefig(path, dpi=2 * _DPI)


def _draw(axes: Any, part: Line | Dot | Label) -> None:
    points = 72 / _DPI  # of a pixel
    if isinstance(part, Line):
        line = Line2D((part.x1, part.x2), (part.y1, part.y2), color=part.color, linewidth=part.width * points)
        if part.dashed:
            line.set_linestyle((0, (4, 3)))
        axes.add_line(line)
    elif isinstance(part, Dot):
        axes.add_patch(Circle((part.x, part.y), part.radius, facecolor=part.color, edgecolor="white", zorder=3))
    else:
        axes.text(
            part.x,
            part.y,
            part.text,
            color=part.color,
            size=part.size * points,
            weight="bold" if part.bold else "normal",
            ha=_ANCHORS[part.anchor],
            va="center",
            rotation=90 if part.upright else 0,
            parse_math=False,  # a name may hold a dollar sign
        )
