"""When two values say the same: decided by their types, and never by guessing."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence, Set
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from itertools import pairwise
from typing import Any, Final, Literal, TypeGuard, get_args, get_origin

import dspy

from moa_dspy.escaping import unicode_form
from moa_dspy.strategies.answers import INEXACT, leaves_of, left_out_of, parts_of, types_of_parts
from moa_dspy.values import cached, validated

__all__ = ["ABSTAIN", "TOLERANCE", "cluster", "fold", "is_refusal", "normalise", "same"]

TOLERANCE: Final = 1e-6
ABSTAIN: Final = None
"""The form of what says nothing."""


def normalise(
    value: Any, annotation: Any = Any, *, exact_text: bool = False, convention: Callable[[Any], Any] | None = None
) -> Hashable:
    """The value in the form in which it is compared, by its declared type; Any compares by the value's own.

    Text is compared with case, white space and invisible characters folded; signs, digits, operators, articles and
    punctuation all count. Code, bytes, UUIDs, paths, secrets, text with a pattern and members of enums are exact.
    A value that is not of the declared type is read as that type the way pydantic does (`"7"` as an `int` is 7), and
    compared by its own type when it cannot be. Integers and booleans are exact, other numbers are left to the
    tolerance of `same`; aware datetimes are instants; the order of lists counts, that of sets and of keys does not;
    models and dataclasses are compared without the parts that explain or grade the others.

    None, NaN, empty text and refusals ("I'm sorry, but I can't help with that.") abstain; inside a structure they
    are no value. An empty list or dict does not: "none were found" is an answer. With `exact_text` every character
    counts, and no text abstains. A `convention`, such as one of `NORMALIZERS`, makes a value comparable first.
    """
    if type(value) is not annotation:
        with suppress(Exception):  # validators are other people's code; what fails here is merely loosely typed
            value = validated(value, annotation)
    form = _form(value, None if exact_text else _labels_of(annotation))
    if form is ABSTAIN or (isinstance(form, str) and _REFUSAL.match(form)):
        return ABSTAIN
    return form if convention is None else _form(convention(value), None)


def same(a: Hashable, b: Hashable, *, tolerance: float = TOLERANCE) -> bool:
    """Whether two forms say the same, numbers within the tolerance wherever they stand.

    Two integers are equal or they are not: at 1e-6, 1000000 would otherwise be 1000001. Other numbers may differ
    by `tolerance` times the larger of them, and by `tolerance` itself from an exact zero, so tiny numbers stay apart
    (6.6e-34 is not 1.1e-34). The relation is symmetric but, for numbers, not transitive.
    """
    if a == b:
        return True
    if _is_number(a) and _is_number(b):
        one, other = _as_float(a), _as_float(b)
        is_close = math.isclose(one, other, rel_tol=tolerance, abs_tol=0 if one and other else tolerance)
        return is_close and math.isfinite(one) and not a[0] is b[0] is int
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return False
    return all(same(x, y, tolerance=tolerance) for x, y in zip(a, b, strict=True))


def cluster(forms: Sequence[Hashable], tolerance: float = TOLERANCE) -> list[int]:
    """Number the forms: those that say the same share a number, also through a chain, in order of first appearance.

    Forms that differ in numbers only are sorted number by number, and cut where two neighbours are not the same.
    """
    numbers_of: dict[Hashable, dict[Hashable, list[Any]]] = defaultdict(dict)
    for form in forms:
        numbers: list[Any] = []
        numbers_of[_without_numbers(form, numbers)][form] = numbers
    leader: dict[Hashable, Hashable] = {}
    for alike in numbers_of.values():
        runs = [list(alike)]
        for column in zip(*alike.values(), strict=True):
            number = dict(zip(alike, column, strict=True))
            runs = [run for group in runs for run in _cut(group, number, tolerance)]
        leader.update({form: run[0] for run in runs for form in run})
    known: dict[Hashable, int] = {}
    return [known.setdefault(leader[form], len(known)) for form in forms]


def fold(text: str) -> str:
    """Text as it is compared: without what nobody sees, NFC, case folded, runs of white space one space. Idempotent."""
    if text.isascii():
        return " ".join(text.lower().split())
    # Without format characters and variation selectors. Case folding can leave NFC, so it is normalised again.
    seen = "".join(one for one in text if unicodedata.category(one) != "Cf" and not "\ufe00" <= one <= "\ufe0f")
    return " ".join(unicode_form("NFC", unicode_form("NFC", seen).casefold()).split())


def is_refusal(value: Any) -> bool:
    """Whether it is a text that begins as a refusal does: I am sorry, but I cannot help with that."""
    return isinstance(value, str) and _REFUSAL.match(fold(value[:200])) is not None


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


@cached
def _labels_of(annotation: Any) -> frozenset[str] | None:
    """The labels that folding would confuse with another or take for an abstention; None if all text is exact."""
    kinds = [kind for _, kind, counts in leaves_of(annotation) if counts]
    if re.Pattern in kinds and str not in kinds:
        return None
    given = {label for kind in kinds if get_origin(kind) is Literal for label in get_args(kind)}
    labels = [label for label in given if isinstance(label, str)]
    number = Counter(map(fold, labels))
    return frozenset(one for one in labels if number[fold(one)] > 1 or not fold(one) or _REFUSAL.match(fold(one)))


# Forms are text, ABSTAIN, or tuples that start with a tag, so that True, 1 and "1" cannot meet by accident. The tag
# `int` marks an exact number, `float` any other number, `dict` whatever has named parts.
def _form(value: Any, labels: frozenset[str] | None) -> Hashable:
    if value is None:
        return ABSTAIN
    if isinstance(value, (bool, Enum)):
        return type(value), value
    if isinstance(value, str):
        return (Literal, value) if labels is None or value in labels else fold(value) or ABSTAIN
    if isinstance(value, int):
        return int, int(value)
    if isinstance(value, INEXACT):
        is_nan = value.is_nan() if isinstance(value, Decimal) else value != value
        return ABSTAIN if is_nan else (float, value)
    if isinstance(value, (list, tuple)):
        return list, *(_form(item, labels) for item in value)
    if isinstance(value, Set):
        return set, *sorted({_form(item, labels) for item in value}, key=_order)
    if (parts := parts_of(value)) is not None:
        return _form_of_parts(value, parts, labels)
    try:
        if callable(listed := getattr(value, "tolist", None)):  # numpy's scalars and arrays
            return _form(listed(), labels)
        hash(value)
        bool(value == value)
    except Exception:  # what cannot be compared is known by its text
        return type(value), repr(value)
    return type(value), value


def _form_of_parts(value: Any, parts: Mapping[Any, Any], labels: frozenset[str] | None) -> Hashable:
    beside = left_out_of(value, parts)
    answering = {name: part for name, part in parts.items() if name not in beside}
    if isinstance(value, Mapping):
        forms = [(_form(name, labels), _form(part, labels)) for name, part in answering.items()]
        return dict, dict, tuple(sorted(forms, key=lambda pair: _order(pair[0])))
    declared = types_of_parts(type(value))
    # Indentation is meaning, and so is the case of an address.
    is_exact = labels is None or isinstance(value, (dspy.Code, dspy.Image, dspy.Audio, dspy.File))
    said = [
        (name, _form(part, None if is_exact else _labels_of(declared.get(name, Any))))
        for name, part in sorted(answering.items())
    ]
    # dspy.Code["python"] is another class each time.
    return dict, (dspy.Code, value.language) if isinstance(value, dspy.Code) else type(value), tuple(said)


def _is_number(form: Any) -> TypeGuard[tuple[Any, Any]]:
    return isinstance(form, tuple) and len(form) == 2 and (form[0] is int or form[0] is float)


def _as_float(number: tuple[Any, Any]) -> float:
    try:
        return float(number[1])
    except OverflowError:
        return math.inf if number[1] > 0 else -math.inf


def _order(form: Hashable) -> tuple[bool, float, str]:
    """A key that sorts numbers by value, so that near sets have their near members at the same places."""
    return (True, _as_float(form), "") if _is_number(form) else (False, 0.0, repr(form))


def _without_numbers(form: Hashable, numbers: list[Any]) -> Hashable:
    """The form with its numbers taken out, into the list."""
    if _is_number(form):
        numbers.append(form)
        return float
    return tuple(_without_numbers(part, numbers) for part in form) if isinstance(form, tuple) else form


def _cut(group: list[Hashable], number: Mapping[Hashable, Any], tolerance: float) -> list[list[Hashable]]:
    """The group sorted by these numbers of its forms, and cut where two neighbours are not the same."""
    ordered = sorted(group, key=lambda form: _as_float(number[form]))
    runs = [ordered[:1]]
    for before, form in pairwise(ordered):
        if not same(number[before], number[form], tolerance=tolerance):
            runs.append([])
        runs[-1].append(form)
    return runs
