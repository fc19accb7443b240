"""A signature from its text, with types of one's own wherever they stand in it."""

from __future__ import annotations

import re
import sys
from types import FrameType
from typing import Any

import dspy


def from_text(text: str) -> type[dspy.Signature]:
    """The signature that a text describes.

    DSPy finds types of one's own where they stand alone (`item: Item`), but not inside others
    (`items: list[Item]`): those are looked up where the text was written.
    """
    make: Any = dspy.Signature  # which makes classes, and not what a type checker expects of a class
    try:
        return make(text)
    except ValueError:
        types = _types_named(text)
        if not types:
            raise
        return make(text, custom_types={"NoneType": type(None), **types})


def _types_named(text: str) -> dict[str, type]:
    """The classes that a text names, as the running code knows them, the innermost scope first."""
    names, found = set(re.findall(r"[A-Za-z_]\w*", text)), dict[str, type]()
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        for name in names - found.keys():
            value = frame.f_locals.get(name, frame.f_globals.get(name))
            if isinstance(value, type):
                found[name] = value
        frame = frame.f_back
    return found
