"""Where labels go, so that none covers another, a point or an error bar."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from operator import itemgetter

from moa_dspy.plot.drawing import Box

__all__ = ["nearest", "place", "spread"]

Point = tuple[float, float]

# What is as bad as a pixel of distance: to cross a bar on the way to the label, to cover a square pixel.
CROSSING, COVERING = 150, 1000
# A bold letter of DejaVu Sans is 0.66 of its size wide on average; digits and underscores no more.
LETTER = 0.66


def spread(places: Sequence[float], gap: float) -> list[float]:
    """Move places apart until neighbours are `gap` apart, each group staying centered where it was.

    Example:
        >>> spread([5.0, 5.0, 20.0], 4.0)
        [3.0, 7.0, 20.0]
    """
    order = sorted(range(len(places)), key=lambda index: places[index])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        # A group that has grown may now touch the one before it.
        while len(groups) > 1 and _start(groups[-1], places, gap) < _end(groups[-2], places, gap) + gap:
            groups[-2:] = [groups[-2] + groups[-1]]
    moved = list(places)
    for group in groups:
        start = _start(group, places, gap)
        for number, index in enumerate(group):
            moved[index] = start + number * gap
    return moved


def place(
    points: Sequence[Point],
    texts: Sequence[str],
    size: float,
    inside: Box,
    bars: Sequence[Box],
    taken: Sequence[Box] = (),
) -> list[Box]:
    """The boxes of labels beside their points.

    Args:
        points: What the labels name.
        texts: The labels.
        size: Of the font, in pixels.
        inside: Where labels may be.
        bars: One per point: its error bar.
        taken: What labels must not cover beside bars and other labels.

    Returns:
        One box per label: free, near, and reached without crossing another point's bar, as far as that can be had.
    """
    boxes: list[Box] = []
    for index, ((x, y), text) in enumerate(zip(points, texts, strict=True)):
        others = [bar for number, bar in enumerate(bars) if number != index]
        offers = list(_around(x, y, LETTER * size * len(text), size * 1.2))
        inner = [(math.dist((x, y), nearest(box, x, y)), box) for box in offers if inside.holds(box)]
        best, least = offers[0], math.inf
        for distance, box in sorted(inner, key=itemgetter(0)):
            if distance >= least:
                break
            covered = sum(box.overlap(other) for other in [*bars, *taken, *boxes])
            crossed = sum(_crosses(other, (x, y), nearest(box, x, y)) for other in [*others, *boxes])
            if distance + CROSSING * crossed + COVERING * covered < least:
                best, least = box, distance + CROSSING * crossed + COVERING * covered
        boxes.append(best)
    return boxes


def nearest(box: Box, x: float, y: float) -> Point:
    """The box's point that is nearest to this one."""
    return min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)


def _around(x: float, y: float, width: float, height: float) -> Iterator[Box]:
    for rise in range(-200, 201, 8):
        for away in range(9, 160, 10):
            for left in (x + away, x - away - width):
                yield Box(left, y + rise - height / 2, left + width, y + rise + height / 2)
        yield Box(x - width / 2, y + rise - height / 2, x + width / 2, y + rise + height / 2)


def _crosses(box: Box, start: Point, end: Point) -> bool:
    steps = [number / 20 for number in range(1, 20)]
    line = [(start[0] + (end[0] - start[0]) * step, start[1] + (end[1] - start[1]) * step) for step in steps]
    return any(box.left < x < box.right and box.top < y < box.bottom for x, y in line)


def _start(group: Sequence[int], places: Sequence[float], gap: float) -> float:
    return sum(places[index] for index in group) / len(group) - gap * (len(group) - 1) / 2


def _end(group: Sequence[int], places: Sequence[float], gap: float) -> float:
    return _start(group, places, gap) + gap * (len(group) - 1)
