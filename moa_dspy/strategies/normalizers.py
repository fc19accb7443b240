"""What graders call the same by convention: never guessed, used where they are asked for by name."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from datetime import date, datetime
from fractions import Fraction
from typing import Any, Final, Literal

from moa_dspy.escaping import unicode_form
from moa_dspy.strategies.equality import fold

__all__ = ["NORMALIZERS", "Convention", "NormalizerName", "find_convention"]

Convention = Callable[[Any], Any]
NormalizerName = Literal["number", "choice", "latex", "date"]


def find_convention(normalize: Convention | NormalizerName | None) -> Convention | None:
    """The function that a name stands for, or the function that was given."""
    if isinstance(normalize, str):
        if normalize not in NORMALIZERS:
            raise ValueError(
                f"There is no normalizer {normalize!r}, so nothing would be made comparable. "
                f"Choose one of: {', '.join(NORMALIZERS)}; or give a function."
            )
        return NORMALIZERS[normalize]
    if normalize is not None and not callable(normalize):
        raise TypeError(f"normalize={normalize!r} is neither a function nor one of: {', '.join(NORMALIZERS)}.")
    return normalize


def _number(text: str) -> Any:
    """A number however it is written: `$1,000` is `1e3`, `50%` is `1/2` and `½`. Other text as without."""
    number = _read_number(text)
    return fold(text) if number is None else number


def _choice(text: str) -> Any:
    """The letter or the one digit of a multiple choice: `(B)`, `b.`, `Answer: **B**` and `B) Paris` are `B`."""
    said = re.sub(r"[*_`$]|\\(?:boxed|text|mathrm|mathbf)\b|[{}]", "", unicode_form("NFKC", text)).strip()
    introduction = r"(?i)^(?:the\s+)?(?:(?:correct|final|best)\s+)*(?:answer|option|choice)\s*(?:is\b)?\s*:?\s*"
    said = re.sub(r"(?i)^(?:option|choice)\s+", "", re.sub(introduction, "", said))
    found = re.fullmatch(r"[(\[]?([A-Za-z]|\d)(?:[)\].:]+(?:\s.*)?|\s*)", said, re.DOTALL)
    return found[1].upper() if found else fold(text)


def _latex(text: str) -> Any:
    r"""The last boxed formula, or the whole, without what only sets it: `\boxed{\frac12}` is `$1/2$`. Case counts."""
    said = _unbox(text)
    for pattern, instead in _SETTING:
        said = re.sub(pattern, instead, said.strip())
    number = _read_number(re.sub(r"\\frac\{([^{}]+)\}\{([^{}]+)\}", r"\1/\2", said))
    return re.sub(r"\s+", "", said) if number is None else number


def _date(text: str) -> date | str:
    """A calendar day, where it can be only one: `1 May 2024` is `2024-05-01`, but `05/06/2024` stays text."""
    folded, days = fold(text), set()
    said = re.sub(r"^(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+", "", folded[:100])
    said = re.sub(r"(?<=\d)(?:st|nd|rd|th)\b|,|\bof\b|(?<=[a-z])\.|t00:00(?::00)?z?$", " ", said.rstrip("."))
    for pattern in _DATES if len(text) <= 100 else ():
        with suppress(ValueError):
            days.add(datetime.strptime(" ".join(said.split()), pattern).date())
    return days.pop() if len(days) == 1 else folded


def _on_texts(convention: Callable[[str], Any]) -> Convention:
    """The convention for any value: used on each text in it, and on nothing else."""

    def normalizer(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [normalizer(item) for item in value]
        return convention(value) if isinstance(value, str) else value

    return normalizer


_ALL: dict[str, Callable[[str], Any]] = {"number": _number, "choice": _choice, "latex": _latex, "date": _date}
NORMALIZERS: Final[dict[str, Convention]] = {name: _on_texts(convention) for name, convention in _ALL.items()}
"""The bundled conventions by name."""


def _read_number(text: str) -> int | Fraction | None:
    if len(text) > 400:  # no answer, and Python refuses to read numbers of thousands of digits
        return None
    # NFKC would make 1½ of three characters 11/2.
    said = re.sub(r"(?<=\d)(?=[\u00bc-\u00be\u2150-\u215e])", " ", fold(text))
    said = unicodedata.normalize("NFKC", said).replace("\u2044", "/").replace("\u2212", "-").replace("\u2013", "-")
    if (amount := _AMOUNT.fullmatch(said)) is None:
        return None
    value = None
    if found := re.fullmatch(r"(?:(\d+) )?(\d+) ?/ ?(\d+)", amount["body"]):
        whole, top, bottom = (int(digits or 0) for digits in found.groups())
        value = whole + Fraction(top, bottom) if bottom else None
    elif found := _DECIMAL.fullmatch(amount["body"]):
        tens = int(found["tens"] or found["power"] or 0)
        if abs(tens) <= 400:  # its digits would fill the memory
            value = Fraction(re.sub(r"[,' _]", "", found["digits"])) * Fraction(10) ** tens
    if value is None:
        return None
    value = (-value if amount["sign"] == "-" else value) / (100 if amount["percent"] else 1)
    return value.numerator if value.denominator == 1 else value


_AMOUNT: Final = re.compile(
    r"(?:[$€£¥₹] ?)?(?P<sign>[+-]?) ?(?:[$€£¥₹] ?)?(?P<body>[\d.].*?) ?(?:[$€£¥₹]|(?P<percent>\\?%))?\.?"
)
_DECIMAL: Final = re.compile(
    r"""
    (?P<digits> (?: \d{1,3} (?P<gap>[,'\ _]) \d{3} (?: (?P=gap) \d{3} )* | \d+ ) (?:\.\d+)? | \.\d+ )
    (?: e (?P<tens> [+-]?\d{1,5} ) | \ ?(?:x|\*|\u00d7|\\times)\ ?10\^\{? (?P<power> [+-]?\d{1,5} ) \}? )?
    """,
    re.VERBOSE,
)


def _unbox(text: str) -> str:
    """What stands in the last box, braces matched; the text, if there is none."""
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    begin, depth = text.find("{", start) + 1, 1
    for place in range(begin, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[begin:place] or text
    return text


_SETTING: Final = (
    (r"^(?:\$\$?|\\\(|\\\[)|(?:\$\$?|\\\)|\\\])\s*\.?$", ""),
    (r"\\[dtc]frac", r"\\frac"),
    (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
    (r"\\sqrt\s*(\w)", r"\\sqrt{\1}"),
    (r"\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}", r"\1"),
    (r"\\(?:left|right|displaystyle|q?quad)(?![a-zA-Z])|\\[,;:! ]|~", ""),
    (r"\{,\}", ","),
    (r"\\([%$])", r"\1"),
    (r"\^\{?\\circ\}?", ""),
)
_DATES: Final = (
    *("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d.%m.%Y"),
    *("%d %B %Y", "%d %b %Y", "%d-%b-%Y", "%B %d %Y", "%b %d %Y"),
    *("%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"),
)
