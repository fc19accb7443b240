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

    Raises:
        ValueError: If the text is none, or a field has the name of what every signature has.
    """
    make: Any = dspy.Signature  # which makes classes, and not what a type checker expects of a class
    try:
        return make(text)
    except ValueError:
        types = _types_named(text)
        if not types:
            raise
        return make(text, custom_types={"NoneType": type(None), **types})
    except TypeError as error:
        taken = sorted(name for name in _names(text) if hasattr(dspy.Signature, name))
        if not taken:
            raise
        raise ValueError(
            f"The task's field `{taken[0]}` collides with a name that is taken: every signature has an attribute of "
            f"that name, so DSPy can make no field of it. Rename it, for example to `task_{taken[0]}`."
        ) from error


def _types_named(text: str) -> dict[str, type]:
    """The classes that a text names, as the running code knows them, the innermost scope first."""
    names, found = _names(text), dict[str, type]()
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        for name in names - found.keys():
            value = frame.f_locals.get(name, frame.f_globals.get(name))
            if isinstance(value, type):
                found[name] = value
        frame = frame.f_back
    return found


def _names(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", text))
