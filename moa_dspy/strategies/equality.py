"""When two values say the same: decided by their types, and never by guessing."""

from __future__ import annotations

import dataclasses
import math
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Container, Hashable, Mapping, Set
from contextlib import suppress
from datetime import datetime, timezone
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext
from enum import Enum
from fractions import Fraction
from typing import Any, Final, Literal, TypeGuard, get_args, get_origin

import dspy
from pydantic import ConfigDict, TypeAdapter

from moa_dspy.strategies.annotations import cached_by_type, parts_of, type_leaves, types_of_parts
from moa_dspy.strategies.answers import explaining_parts

__all__ = [
    "ABSTAIN",
    "EXACT_MODELS",
    "TOLERANCE",
    "as_float",
    "fold",
    "is_number",
    "normalise",
    "normalise_part",
    "same",
]

TOLERANCE: Final = 1e-6

EXACT_MODELS: Final = (dspy.Code, dspy.Image, dspy.Audio, dspy.File)
"""Models whose every letter counts: indentation is meaning, and so is the case of an address."""


class _Abstain(Enum):
    """An enum, so that the one value there is survives copies and pickles."""

    ABSTAIN = "abstain"

    def __repr__(self) -> str:
        return "ABSTAIN"


ABSTAIN: Final = _Abstain.ABSTAIN


def normalise(
    value: Any, annotation: Any = Any, *, exact_text: bool = False, convention: Callable[[Any], Any] | None = None
) -> Hashable:
    """The value in the form in which it is compared, by its declared type.

    Text is compared with case, white space and invisible characters folded; signs, digits, letters, operators,
    articles and punctuation all count. Code, bytes, UUIDs, paths, secrets, text with a pattern and members of enums
    are exact. A value that is not of the declared type is read as that type the way pydantic does in lax mode (`"7"`
    as an `int` is 7), and compared by its own type when it cannot be. Integers and booleans are exact, other numbers
    are left to the tolerance of `same`; aware datetimes are instants; the order of lists and tuples counts, that of
    sets and of keys does not; models and dataclasses are compared field by field, without those that explain or grade
    the others (see `moa_dspy.strategies.answers`).

    None, NaN, empty text and refusals ("I'm sorry, but I can't help with that.") abstain. An empty list or dict
    does not: "none were found" is an answer. Inside a structure nothing abstains, and None, NaN and empty text are
    alike there: no value.

    Args:
        value: What a field holds.
        annotation: The field's declared type; Any compares by the value's own type.
        exact_text: Take text as it stands: every character counts, and no text abstains.
        convention: What makes a value comparable first, such as one of `NORMALIZERS`. What it gives is compared as it
            stands; None abstains.

    Returns:
        A hashable form, or `ABSTAIN`. Forms are compared with `same`, or with `==` to be exact.

    Example:
        >>> normalise("  The  STRASSE ", str) == normalise("the straße", str)
        True
        >>> normalise("-5", str) == normalise("5", str)
        False
        >>> normalise("7", int) == normalise(7, int)
        True
        >>> normalise("As an AI language model, I cannot say.", str)
        ABSTAIN
    """
    form = normalise_part(value, annotation, exact_text=exact_text)
    if form is ABSTAIN or (isinstance(form, str) and _REFUSAL.match(form)):
        return ABSTAIN
    return form if convention is None else _form(convention(value), True, ())


def normalise_part(value: Any, annotation: Any = Any, *, exact_text: bool = False) -> Hashable:
    """The form of a value that stands inside another: a refusal is text there like any other."""
    adapter = None if type(value) is annotation else _adapter(annotation)
    if adapter is not None:
        # Not only ValidationError: validators are other people's code, and what fails here is merely loosely typed.
        with suppress(Exception):
            value = adapter.validate_python(value)
    text = _text_rules(annotation)
    return _form(value, exact_text or text.exact, text.verbatim)


def same(a: Hashable, b: Hashable, *, tolerance: float = TOLERANCE) -> bool:
    """Whether two forms say the same, numbers within the tolerance wherever they stand.

    Two integers are equal or they are not: at 1e-6, 1000000 would otherwise be 1000001. Other numbers may differ
    by `tolerance` times the larger of them, and by `tolerance` itself from an exact zero, so tiny numbers stay apart
    (6.6e-34 is not 1.1e-34). Two sets are alike when every member of each has its like in the other.

    The relation is symmetric but, for numbers, not transitive.

    Args:
        a: A form that `normalise` gave.
        b: Another.
        tolerance: At least 0; 0 asks for equal numbers.

    Example:
        >>> same(normalise([0.1 + 0.2, "x"]), normalise([0.3, "X"]))
        True
    """
    if a == b:
        return True
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return _covers(a, b, tolerance) and _covers(b, a, tolerance)
    if is_number(a) and is_number(b):
        return not a[0] is b[0] is int and _close(a[1], b[1], tolerance)
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return False
    return all(same(x, y, tolerance=tolerance) for x, y in zip(a, b, strict=True))


def is_number(form: Any) -> TypeGuard[tuple[Any, Any]]:
    """Whether a form is that of a number, exact or not."""
    return isinstance(form, tuple) and len(form) == 2 and (form[0] is int or form[0] is float)


def fold(text: str) -> str:
    r"""Text as it is compared: without what nobody sees, NFC, case folded, runs of white space one space. Idempotent.

    Example:
        >>> fold(" The\u200b  END ")
        'the end'
    """
    if text.isascii():
        return " ".join(text.lower().split())
    seen = "".join(character for character in text if not _is_invisible(character))
    # Case folding can leave NFC, so it is normalised again.
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", seen).casefold())
    return " ".join(folded.split())


# Starts of refusals, in folded text. A vote lost to a pattern is worse than a refusal that is counted, because
# refusals rarely agree word for word: so "sorry" alone, "I cannot help falling in love" and drafts that decline
# ("I'm sorry, but I can't attend") are votes.
_REFUSAL: Final = re.compile(
    r"""
    as\ an\ ai\ (?:language\ )?(?:model|assistant)\b
    | (?: (?: (?:i['\u2019]m\ |i\ am\ )?(?:very\ |so\ )?sorry | i\ apologi[sz]e | unfortunately ) [,.;:]?\ (?:but\ )? )?
      i (?: \ can(?:not|['\u2019]t|\ not) | (?:['\u2019]m|\ am)\ (?:unable|not\ able)\ to )
      \ (?: help (?=\ (?:you|with)\b | [.,!] | $) | (?:assist|answer|comply|discuss|engage|fulfil|fulfill|provide)\b )
    """,
    re.VERBOSE,
)


def _is_invisible(character: str) -> bool:
    # Variation selectors, Mongolian ones too, and the grapheme joiner are marks (Mn); the rest are formats (Cf).
    return unicodedata.category(character) == "Cf" or (
        character in "\u034f\u180b\u180c\u180d\u180f"
        or "\ufe00" <= character <= "\ufe0f"
        or "\U000e0100" <= character <= "\U000e01ef"
    )


# Forms are text, ABSTAIN, or tuples that start with a tag, so that True, 1 and "1" cannot meet by accident. The tag
# `int` marks an exact number, `float` any other number.
def _form(value: Any, exact: bool, verbatim: Container[str]) -> Hashable:
    if value is None:
        return ABSTAIN
    if isinstance(value, (bool, Enum)):
        return type(value), value
    if isinstance(value, str):
        return (Literal, value) if exact or value in verbatim else fold(value) or ABSTAIN
    if isinstance(value, int):
        return int, int(value)
    if isinstance(value, (float, Decimal, Fraction)):
        nan = value.is_nan() if isinstance(value, Decimal) else value != value
        return ABSTAIN if nan else (float, value)
    if isinstance(value, datetime):
        return datetime, _instant(value)
    if isinstance(value, (list, tuple)):
        return list, *(_form(item, exact, verbatim) for item in value)
    if isinstance(value, Set):
        return set, frozenset(_form(item, exact, verbatim) for item in value)
    if (parts := parts_of(value)) is not None:
        return _form_of_parts(value, parts, exact, verbatim)
    if callable(listed := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        return _form(listed(), exact, verbatim)
    try:
        hash(value)
    except TypeError:
        return type(value), repr(value)
    return type(value), value


def _form_of_parts(value: Any, parts: dict[Any, Any], exact: bool, verbatim: Container[str]) -> Hashable:
    beside = explaining_parts(value, parts)
    kept = {name: part for name, part in parts.items() if name not in beside}
    if isinstance(value, Mapping):
        pairs = [(_form(name, exact, verbatim), _form(part, exact, verbatim)) for name, part in kept.items()]
        return dict, tuple(sorted(pairs, key=lambda pair: repr(pair[0])))
    exact = exact or isinstance(value, EXACT_MODELS)
    rules = _rules_by_part(type(value))
    forms = []
    for name in sorted(kept):
        text = rules.get(name, _NO_RULES)
        forms.append((name, _form(kept[name], exact or text.exact, text.verbatim or verbatim)))
    return _family(type(value)), tuple(forms)


def _family(kind: type) -> Hashable:
    # dspy.Code["python"] is another class each time.
    return (dspy.Code, getattr(kind, "language", None)) if issubclass(kind, dspy.Code) else kind


@dataclasses.dataclass(frozen=True)
class _TextRules:
    exact: bool = False
    verbatim: frozenset[str] = frozenset()  # labels that folding would confuse with another or take for an abstention


_NO_RULES = _TextRules()


@cached_by_type
def _text_rules(annotation: Any) -> _TextRules:
    leaves = type_leaves(annotation)
    literals = [leaf for leaf in leaves if get_origin(leaf) is Literal]
    labels = {label for leaf in literals for label in get_args(leaf) if isinstance(label, str)}
    folded = [fold(label) for label in labels]
    confusing = {label for label in labels if folded.count(form := fold(label)) > 1 or not form or _REFUSAL.match(form)}
    return _TextRules(re.Pattern in leaves and str not in leaves, frozenset(confusing))


@cached_by_type
def _rules_by_part(kind: Any) -> dict[str, _TextRules]:
    return {name: _text_rules(part) for name, part in (types_of_parts(kind) or {}).items()}


@cached_by_type
def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (Any, object):
        return None
    # A module of one's own that answers 5 where `str` is declared means "5". Models take no configuration from outside.
    loose = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    for config in (loose, None):
        with suppress(Exception):  # a type that pydantic does not know
            return TypeAdapter(annotation, config=config)
    return None


def _instant(value: datetime) -> datetime:
    if value.utcoffset() is not None:
        with suppress(OverflowError):  # within hours of year 1 or 9999 there may be no such instant in UTC
            return value.astimezone(timezone.utc)
    return value


def _close(a: Any, b: Any, tolerance: float) -> bool:
    if a == b:
        return True
    if type(a) is type(b) is float:
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=0 if a and b else tolerance)
    if any(x in (math.inf, -math.inf) for x in (a, b)):
        return False
    # A Decimal or a large int does not fit a float, and as a Fraction 1e999999 would fill the memory.
    with localcontext(Context(prec=50, Emax=MAX_EMAX, Emin=MIN_EMIN)):
        a, b = _as_decimal(a), _as_decimal(b)
        return bool(abs(a - b) <= Decimal(tolerance) * (max(abs(a), abs(b)) if a and b else 1))


def _as_decimal(number: Any) -> Decimal:
    return Decimal(number.numerator) / number.denominator if isinstance(number, Fraction) else Decimal(number)


def as_float(number: Any) -> float:
    """The nearest float, to sort by; infinite where the number is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _covers(members: frozenset[Any], others: frozenset[Any], tolerance: float) -> bool:
    """Whether every member has its like among the others."""
    missing = members - others
    numbers = sorted((form for form in others if is_number(form)), key=lambda form: as_float(form[1]))
    rest = [form for form in others if not is_number(form)]
    keys = [as_float(form[1]) for form in numbers]
    return all(
        _has_near(form, numbers, keys, tolerance)
        if is_number(form)
        else any(same(form, other, tolerance=tolerance) for other in rest)
        for form in missing
    )


def _has_near(form: Any, numbers: list[Any], keys: list[float], tolerance: float) -> bool:
    place = bisect_left(keys, as_float(form[1]))
    return any(same(form, near, tolerance=tolerance) for near in numbers[max(0, place - 2) : place + 2])
