"""What a drawing is made of, in pixels from the top left corner; every format draws the same parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

__all__ = ["Anchor", "Box", "Dot", "Drawing", "Label", "Line"]

Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Line:
    """A straight line."""

    x1: float
    y1: float
    x2: float
    y2: float
    color: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    """A system's point.

    Attributes:
        hint: What is known of it, for formats that can show it.
    """

    x: float
    y: float
    color: str
    radius: float = 5.0
    hint: str = ""


@dataclass(frozen=True)
class Label:
    """A text, centered on `y`.

    Attributes:
        anchor: Which part of it stands at `x`.
        upright: Turned by 90 degrees, to be read from below.
    """

    x: float
    y: float
    text: str
    color: str = "#222222"
    size: float = 12.0
    anchor: Anchor = "start"
    bold: bool = False
    upright: bool = False


@dataclass(frozen=True)
class Drawing:
    """A drawing.

    Attributes:
        title: What it shows.
        width: Pixels.
        height: Pixels.
        parts: In the order in which they are drawn.
    """

    title: str
    width: int
    height: int
    parts: Sequence[Line | Dot | Label]


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The common area."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(wide, 0.0) * max(high, 0.0)

    def holds(self, other: Box) -> bool:
        """Whether the other lies inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and other.right <= self.right
            and other.bottom <= self.bottom
        )
