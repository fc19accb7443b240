"""What does not fit is shortened, from the longest first, and says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Shortened", "fit"]


@dataclass(frozen=True)
class Shortened:
    """A text, and how many of its characters are left out."""

    text: str
    lost: int = 0


Kept = tuple[list[Shortened], list[Shortened]]


def fit(reasonings: Sequence[str], outputs: Sequence[str], limit: int | None) -> Kept:
    """Shorten texts until all fit: reasoning before outputs, and of each kind the longest first.

    Args:
        reasonings: How answers were come to.
        outputs: The answers.
        limit: The most characters that all may take, the notices of what is left out not counted;
            None for no limit.

    Example:
        >>> [kept.lost for kept in fit(["b" * 300], ["a" * 500], 600)[0]]
        [200]
    """
    if limit is None:
        return [Shortened(text) for text in reasonings], [Shortened(text) for text in outputs]
    length = _common_length(reasonings, max(0, limit - sum(map(len, outputs))))
    taken = sum(min(len(text), length) for text in reasonings)
    rest = _common_length(outputs, max(0, limit - taken))
    return [_cut(text, length) for text in reasonings], [_cut(text, rest) for text in outputs]


def _common_length(texts: Sequence[str], limit: int) -> int:
    """The length to which the longest are cut, so that all fit."""
    room, length = limit, 0
    lengths = sorted(map(len, texts))
    for position, size in enumerate(lengths):
        length = room // (len(lengths) - position)
        if size > length:
            return length
        room -= size
    return max(lengths, default=0)


def _cut(text: str, length: int) -> Shortened:
    lost = len(text) - length
    # Beginning and end carry most: the claim stands first, the result last.
    head = length * 2 // 3
    cut = f"{text[:head]} [... {lost} characters left out ...] {text[head + lost :]}"
    return Shortened(cut, lost) if len(cut) < len(text) else Shortened(text)
