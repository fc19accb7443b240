"""Foreign text on a terminal."""

from __future__ import annotations

import re

__all__ = ["printable"]

# Control characters, what turns the direction of writing, what nobody sees, odd line breaks, halves of characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: object) -> str:
    r"""The text, doing nothing to a terminal and hiding nothing: no control, bidi or invisible characters.

    Examples:
        >>> printable("red: \x1b[31m")
        'red: �[31m'
    """
    return _UNPRINTABLE.sub("\ufffd", str(text).replace("\r\n", "\n"))
