"""Values made comparable by type, so that a vote counts what was meant and not how it was written."""

import dataclasses
import math
import re
import unicodedata
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter
from typing_extensions import is_typeddict

__all__ = ["ABSTAIN", "TOLERANCE", "approximate", "canonical", "equivalent", "fold", "free_text"]

TOLERANCE: Final = 1e-6


class _Abstain(Enum):
    """An enum, so that the one value there is survives copies and pickles."""

    ABSTAIN = "abstain"

    def __repr__(self) -> str:
        return "ABSTAIN"


ABSTAIN: Final = _Abstain.ABSTAIN


def canonical(value: object, annotation: Any = Any, *, exact_text: bool = False) -> Hashable:
    """The value in the form in which it is compared, by its declared type.

    Text is compared in Unicode NFC with case and white space folded; nothing else is taken from it: signs,
    operators, articles and punctuation all count. A value that is not of the declared type is read as that type
    the way pydantic does in lax mode (`"7"` as an `int` is 7), and compared by its own type when it cannot be.
    Integers and booleans are exact, other numbers are left to the tolerance of `equivalent`; aware datetimes
    are instants; the order of lists and tuples counts, that of sets and of keys does not; models and
    dataclasses are compared field by field.

    None, NaN, empty text and refusals ("I'm sorry, but I can't help with that.") abstain. An empty list or dict
    does not: "none were found" is an answer. Inside a structure nothing abstains, and None, NaN and empty text
    are alike there: no value.

    Args:
        value: What a field holds.
        annotation: The field's declared type; Any compares by the value's own type.
        exact_text: Take text as it stands: case and white space count, and no text abstains.

    Returns:
        A hashable form, or `ABSTAIN`. Forms are compared with `equivalent`, or with `==` to be exact.

    Example:
        >>> canonical("  The  STRASSE ", str) == canonical("the straße", str)
        True
        >>> canonical("-5", str) == canonical("5", str)
        False
        >>> canonical("7", int) == canonical(7, int)
        True
        >>> canonical("As an AI language model, I cannot say.", str)
        ABSTAIN
    """
    traits = _traits(annotation)
    if type(value) is not annotation and traits.adapter is not None:
        # Not only ValidationError: validators are other people's code, and what fails here is merely loosely typed.
        with suppress(Exception):
            value = traits.adapter.validate_python(value)
    form = _form(value, _EVERY_TEXT if exact_text else traits.verbatim)
    return ABSTAIN if isinstance(form, str) and _REFUSAL.match(form) else form


def equivalent(a: Hashable, b: Hashable, *, tolerance: float = TOLERANCE) -> bool:
    """Whether two canonical forms say the same, numbers within the tolerance wherever they stand.

    Two integers are equal or they are not: at 1e-6, 1000000 would otherwise be 1000001. Other numbers may differ
    by `tolerance` times the larger of them, and by `tolerance` itself from an exact zero, so tiny numbers stay apart
    (6.6e-34 is not 1.1e-34). Two sets are alike when every member of each has its like in the other.

    The relation is symmetric but, for numbers, not transitive.

    Args:
        a: A canonical form.
        b: Another.
        tolerance: At least 0; 0 asks for equal numbers.

    Returns:
        True when the forms are equal up to the tolerance.

    Example:
        >>> equivalent(canonical([0.1 + 0.2, "x"]), canonical([0.3, "X"]))
        True
    """
    if a == b:
        return True
    if isinstance(a, frozenset) and isinstance(b, frozenset):
        return _covers(a, b, tolerance) and _covers(b, a, tolerance)
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b)):
        return False
    if a and b and a[0] in _NUMBERS and b[0] in _NUMBERS:
        return not a[0] is b[0] is int and _close(a[1], b[1], tolerance)
    return all(equivalent(x, y, tolerance=tolerance) for x, y in zip(a, b, strict=True))


def free_text(annotation: Any) -> bool:
    """Whether text that nothing constrains may occur anywhere in values of this type.

    Literals and enums are not free text. Types that say nothing (Any, object, a bare `list`) may hold it.

    Example:
        >>> free_text(list[str]), free_text(Literal["yes", "no"] | None)
        (True, False)
    """
    return _traits(annotation).text


def approximate(annotation: Any) -> bool:
    """Whether numbers that are compared with a tolerance may occur anywhere in values of this type.

    Example:
        >>> approximate(dict[int, float]), approximate(int)
        (True, False)
    """
    return _traits(annotation).approximate


def fold(text: str) -> str:
    """Text as it is compared: NFC, case folded, runs of white space one space, stripped. Idempotent."""
    if text.isascii():
        return " ".join(text.lower().split())
    # Case folding can leave NFC, so it is normalized again.
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
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

# Forms are text, ABSTAIN, or tuples that start with a tag, so that True, 1 and "1" cannot meet by accident. The tag
# `int` marks an exact number, `float` any other number.
_NUMBERS: Final = (int, float)


class _EveryText:
    def __contains__(self, text: object) -> bool:
        return True


_EVERY_TEXT: Final = _EveryText()


def _form(value: object, verbatim: Container[str]) -> Hashable:
    if value is None:
        return ABSTAIN
    if isinstance(value, (bool, Enum)):
        return type(value), value
    if isinstance(value, str):
        return (Literal, value) if value in verbatim else fold(value) or ABSTAIN
    if isinstance(value, int):
        return int, int(value)
    if isinstance(value, (float, Decimal, Fraction)):
        nan = value.is_nan() if isinstance(value, Decimal) else value != value
        return ABSTAIN if nan else (float, value)
    if isinstance(value, datetime):
        return datetime, _instant(value)
    if isinstance(value, (list, tuple)):
        return list, *(_form(item, verbatim) for item in value)
    if isinstance(value, Set):
        return set, frozenset(_form(item, verbatim) for item in value)
    if isinstance(value, Mapping):
        return dict, frozenset((_form(key, verbatim), _form(item, verbatim)) for key, item in value.items())
    if (fields := _fields(value)) is not None:
        return type(value), frozenset((name, _form(item, verbatim)) for name, item in fields.items())
    if callable(plain := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        return _form(plain(), verbatim)
    try:
        hash(value)
    except TypeError:
        return type(value), repr(value)
    return type(value), value


def _fields(value: object) -> dict[str, object] | None:
    if isinstance(value, BaseModel):
        named = {name: getattr(value, name, None) for name in type(value).model_fields}
        return {**named, **(value.model_extra or {})}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value) if field.compare}
    return None


def _instant(value: datetime) -> datetime:
    if value.utcoffset() is not None:
        with suppress(OverflowError):  # within hours of year 1 or 9999 there may be no such instant in UTC
            return value.astimezone(timezone.utc)
    return value


def _covers(members: frozenset[Any], others: frozenset[Any], tolerance: float) -> bool:
    return all(any(equivalent(a, b, tolerance=tolerance) for b in others) for a in members)


def _close(a: Any, b: Any, tolerance: float) -> bool:
    if a == b:
        return True
    if type(a) is type(b) is float:
        return math.isclose(a, b, rel_tol=tolerance, abs_tol=0 if a and b else tolerance)
    if any(x in (math.inf, -math.inf) for x in (a, b)):
        return False
    # Exact, because a Decimal or a large int does not fit a float.
    a, b = Fraction(a), Fraction(b)
    return bool(abs(a - b) <= Fraction(tolerance) * (max(abs(a), abs(b)) if a and b else 1))


@dataclasses.dataclass(frozen=True)
class _Traits:
    """What an annotation says about how its values are compared."""

    adapter: TypeAdapter[Any] | None  # None: values are taken as they are
    text: bool
    approximate: bool
    verbatim: frozenset[str]  # labels that folding would confuse with another one or take for an abstention


def _traits(annotation: Any) -> _Traits:
    try:
        return _cached_traits(annotation)
    except TypeError:  # Annotated with metadata that cannot be hashed
        return _cached_traits.__wrapped__(annotation)


@lru_cache(maxsize=512)
def _cached_traits(annotation: Any) -> _Traits:
    leaves = list(_leaves(annotation, []))
    labels = {label for leaf in leaves for label in _labels(leaf)}
    folded = [fold(label) for label in labels]
    return _Traits(
        adapter=_adapter(annotation),
        text=any(_may_hold(leaf, str) for leaf in leaves),
        approximate=any(_may_hold(leaf, (float, Decimal, Fraction)) for leaf in leaves),
        verbatim=frozenset(
            label for label in labels if folded.count(f := fold(label)) > 1 or not f or _REFUSAL.match(f)
        ),
    )


def _adapter(annotation: Any) -> TypeAdapter[Any] | None:
    if annotation in (Any, object):
        return None
    # A module of one's own that answers 5 where `str` is declared means "5". Models take no configuration from outside.
    loose = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    for config in (loose, None):
        with suppress(Exception):  # a type that pydantic does not know
            return TypeAdapter(annotation, config=config)
    return None


def _labels(leaf: Any) -> Iterable[str]:
    return [label for label in get_args(leaf) if isinstance(label, str)] if get_origin(leaf) is Literal else []


def _may_hold(leaf: Any, kinds: type | tuple[type, ...]) -> bool:
    if get_origin(leaf) is Literal or leaf is None:
        return False
    if leaf in (Any, object) or not isinstance(leaf, type):  # nothing is known, or a name that is not resolved
        return True
    return issubclass(leaf, kinds) and not issubclass(leaf, Enum)


def _leaves(annotation: Any, seen: list[Any]) -> Iterator[Any]:
    """The types that values of this type are made of in the end; Literals whole."""
    if annotation in seen:  # a model may hold its own kind
        return
    seen.append(annotation)
    parts = _parts(annotation)
    if not parts:
        yield annotation
    for part in parts:
        yield from _leaves(part, seen)


def _parts(annotation: Any) -> list[Any]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return []
    if origin is Annotated:
        return [args[0]]
    if isinstance(annotation, TypeVar):
        return [*annotation.__constraints__] or [annotation.__bound__ or Any]
    for alias in ("__supertype__", "__value__"):  # NewType, and `type X = ...`
        if hasattr(annotation, alias):
            return [getattr(annotation, alias)]
    kind = origin or annotation
    inside = _declared(kind) if isinstance(kind, type) else []
    if not args and kind in (list, tuple, set, frozenset, dict):
        return [Any]
    return [*inside, *(arg for arg in args if arg is not Ellipsis)]


def _declared(kind: type) -> list[Any]:
    """The types of the fields of a model, dataclass, TypedDict or NamedTuple."""
    if issubclass(kind, BaseModel):
        return [field.annotation for field in kind.model_fields.values()]
    if dataclasses.is_dataclass(kind) or is_typeddict(kind) or hasattr(kind, "_fields"):
        try:
            return list(get_type_hints(kind).values())
        except Exception:  # a forward reference that cannot be resolved
            return [Any]
    return []
