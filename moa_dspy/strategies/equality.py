"""When two values say the same: decided by their types, and never by guessing."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Set
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any, Final, Literal, NamedTuple, TypeGuard, get_args, get_origin

import dspy

from moa_dspy.escaping import unicode_form
from moa_dspy.strategies.answers import leaves_of, left_out_of, parts_of, types_of_parts
from moa_dspy.values import cached, validated

__all__ = ["ABSTAIN", "TOLERANCE", "as_float", "fold", "is_number", "is_refusal", "normalise", "same"]

TOLERANCE: Final = 1e-6

# Indentation is meaning, and so is the case of an address.
_EXACT_MODELS: Final = (dspy.Code, dspy.Image, dspy.Audio, dspy.File)


class _Abstain(Enum):
    ABSTAIN = "abstain"  # an enum, so that the one value there is survives copies and pickles

    def __repr__(self) -> str:
        return "ABSTAIN"


ABSTAIN: Final = _Abstain.ABSTAIN


def normalise(
    value: Any, annotation: Any = Any, *, exact_text: bool = False, convention: Callable[[Any], Any] | None = None
) -> Hashable:
    """The value in the form in which it is compared, by its declared type.

    Text is compared with case, white space and invisible characters folded; signs, digits, operators, articles and
    punctuation all count. Code, bytes, UUIDs, paths, secrets, text with a pattern and members of enums are exact.
    A value that is not of the declared type is read as that type the way pydantic does (`"7"` as an `int` is 7), and
    compared by its own type when it cannot be. Integers and booleans are exact, other numbers are left to the
    tolerance of `same`; aware datetimes are instants; the order of lists counts, that of sets and of keys does not;
    models and dataclasses are compared without the parts that explain or grade the others.

    None, NaN, empty text and refusals ("I'm sorry, but I can't help with that.") abstain; inside a structure they
    are no value. An empty list or dict does not: "none were found" is an answer.

    Args:
        value: What a field holds.
        annotation: The field's declared type; Any compares by the value's own type.
        exact_text: Take text as it stands: every character counts, and no text abstains.
        convention: What makes a value comparable first, such as one of `NORMALIZERS`; None abstains.

    Returns:
        A hashable form, or `ABSTAIN`. Forms are compared with `same`, or with `==` to be exact.

    Examples:
        >>> normalise("  The  STRASSE ", str) == normalise("the straße", str)
        True
        >>> normalise("-5", str) == normalise("5", str), normalise("7", int) == normalise(7, int)
        (False, True)
        >>> normalise("As an AI language model, I cannot say.", str)
        ABSTAIN
    """
    if type(value) is not annotation:
        with suppress(Exception):  # validators are other people's code; what fails here is merely loosely typed
            value = validated(value, annotation)
    rules = _text_rules(annotation)
    form = _form(value, exact_text or rules.exact, rules.verbatim)
    if form is ABSTAIN or (isinstance(form, str) and _REFUSAL.match(form)):
        return ABSTAIN
    return form if convention is None else _form(convention(value), True, frozenset())


def same(a: Hashable, b: Hashable, *, tolerance: float = TOLERANCE) -> bool:
    """Whether two forms say the same, numbers within the tolerance wherever they stand.

    Two integers are equal or they are not: at 1e-6, 1000000 would otherwise be 1000001. Other numbers may differ
    by `tolerance` times the larger of them, and by `tolerance` itself from an exact zero, so tiny numbers stay apart
    (6.6e-34 is not 1.1e-34). The relation is symmetric but, for numbers, not transitive.

    Examples:
        >>> same(normalise([0.1 + 0.2, "x"]), normalise([0.3, "X"]))
        True
    """
    if a == b:
        return True
    if is_number(a) and is_number(b):
        return not a[0] is b[0] is int and _is_close(a[1], b[1], tolerance)
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return False
    return all(same(x, y, tolerance=tolerance) for x, y in zip(a, b, strict=True))


def is_number(form: Any) -> TypeGuard[tuple[Any, Any]]:
    """Whether a form is that of a number, exact or not."""
    return isinstance(form, tuple) and len(form) == 2 and (form[0] is int or form[0] is float)


def as_float(number: Any) -> float:
    """The nearest float; infinite where the number is too large."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def fold(text: str) -> str:
    r"""Text as it is compared: without what nobody sees, NFC, case folded, runs of white space one space. Idempotent.

    Examples:
        >>> fold(" The\u200b  END ")
        'the end'
    """
    if text.isascii():
        return " ".join(text.lower().split())
    seen = "".join(character for character in text if not _is_invisible(character))
    # Case folding can leave NFC, so it is normalised again.
    folded = unicode_form("NFC", unicode_form("NFC", seen).casefold())
    return " ".join(folded.split())


def is_refusal(value: Any) -> bool:
    """Whether it is a text that begins as a refusal does: I am sorry, but I cannot help with that."""
    return isinstance(value, str) and _REFUSAL.match(fold(value[:_REFUSAL_LENGTH])) is not None


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"  # variation selectors


_REFUSAL_LENGTH: Final = 200

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


class _TextRules(NamedTuple):
    exact: bool
    verbatim: frozenset[str]  # labels that folding would confuse with another or take for an abstention


@cached
def _text_rules(annotation: Any) -> _TextRules:
    kinds = [leaf.kind for leaf in leaves_of(annotation) if leaf.counts]
    literals = [kind for kind in kinds if get_origin(kind) is Literal]
    labels = {label for literal in literals for label in get_args(literal) if isinstance(label, str)}
    number = Counter(fold(label) for label in labels)
    confusing = (label for label in labels if number[fold(label)] > 1 or not fold(label) or _REFUSAL.match(fold(label)))
    return _TextRules(re.Pattern in kinds and str not in kinds, frozenset(confusing))


# Forms are text, ABSTAIN, or tuples that start with a tag, so that True, 1 and "1" cannot meet by accident. The tag
# `int` marks an exact number, `float` any other number, `dict` whatever has named parts.
def _form(value: Any, exact: bool, verbatim: frozenset[str]) -> Hashable:
    if value is None:
        return ABSTAIN
    if isinstance(value, (bool, Enum)):
        return type(value), value
    if isinstance(value, str):
        return (Literal, value) if exact or value in verbatim else fold(value) or ABSTAIN
    if isinstance(value, int):
        return int, int(value)
    if isinstance(value, (float, Decimal, Fraction)):
        is_nan = value.is_nan() if isinstance(value, Decimal) else value != value
        return ABSTAIN if is_nan else (float, value)
    if isinstance(value, (list, tuple)):
        return list, *(_form(item, exact, verbatim) for item in value)
    if isinstance(value, Set):
        return set, *sorted({_form(item, exact, verbatim) for item in value}, key=_order)
    if (parts := parts_of(value)) is not None:
        return _form_of_parts(value, parts, exact, verbatim)
    try:
        if callable(listed := getattr(value, "tolist", None)):  # numpy's scalars and arrays
            return _form(listed(), exact, verbatim)
        hash(value)
        bool(value == value)
    except Exception:  # what cannot be compared is known by its text
        return type(value), repr(value)
    return type(value), value


def _form_of_parts(value: Any, parts: dict[Any, Any], exact: bool, verbatim: frozenset[str]) -> Hashable:
    beside = left_out_of(value, parts)
    answering = {name: part for name, part in parts.items() if name not in beside}
    forms: list[tuple[Hashable, Hashable]] = []
    if isinstance(value, Mapping):
        forms += [(_form(name, exact, verbatim), _form(part, exact, verbatim)) for name, part in answering.items()]
        return dict, dict, tuple(sorted(forms, key=lambda pair: _order(pair[0])))
    exact = exact or isinstance(value, _EXACT_MODELS)
    declared = types_of_parts(type(value))
    for name, part in sorted(answering.items()):
        rules = _text_rules(declared.get(name, Any))
        forms.append((name, _form(part, exact or rules.exact, rules.verbatim)))
    # dspy.Code["python"] is another class each time.
    kind = (dspy.Code, value.language) if isinstance(value, dspy.Code) else type(value)
    return dict, kind, tuple(forms)


def _order(form: Hashable) -> tuple[bool, float, str]:
    """A key that sorts numbers by value, so that near sets have their near members at the same places."""
    return (True, as_float(form[1]), "") if is_number(form) else (False, 0.0, repr(form))


def _is_close(a: Any, b: Any, tolerance: float) -> bool:
    a, b = as_float(a), as_float(b)
    return math.isfinite(a) and math.isclose(a, b, rel_tol=tolerance, abs_tol=0 if a and b else tolerance)
