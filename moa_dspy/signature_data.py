"""A signature as data, and back: as DSPy's text, or field by field with types as Python writes them.

Types are looked up in a table and never evaluated, and nothing is imported. Classes of the user's own stand there by
name: whoever reads the data gives them.
"""

from __future__ import annotations

import ast
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import pathlib
import re
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
import dspy
import pydantic
from dspy.signatures.signature import infer_prefix
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic.fields import FieldInfo

from moa_dspy.values import to_jsonable, validated

__all__ = ["UnknownTypes", "describe_signature", "read_signature", "read_type", "type_text"]


class UnknownTypes(ValueError):
    """Types that are neither Python's nor DSPy's: whoever reads the data has to give them."""


def describe_signature(signature: type[dspy.Signature]) -> dict[str, Any]:
    """The signature as JSON-able data, which `read_signature` reads.

    Examples:
        >>> describe_signature(dspy.Signature("question -> score: float"))["outputs"]
        {'score': 'float'}
    """
    return {
        "name": signature.__name__,
        "instructions": signature.instructions,
        "inputs": {name: _describe_field(name, info) for name, info in signature.input_fields.items()},
        "outputs": {name: _describe_field(name, info) for name, info in signature.output_fields.items()},
    }


def read_signature(
    data: str | Mapping[str, Any], custom_types: Mapping[str, Any] | None = None
) -> type[dspy.Signature]:
    """The signature that a text or data describes.

    Args:
        data: `"question -> answer: int"`, or a mapping of `inputs`, `outputs` (name -> type, or a mapping of `type`,
            `desc`, `default`), and optionally `instructions`.
        custom_types: Classes of the user's own, by the names that they have in the data.

    Raises:
        ValueError: If it is none, or names types that are not given.
    """
    given = _split(data) if isinstance(data, str) else dict(data)
    if unknown := given.keys() - {"name", "instructions", "inputs", "outputs"}:
        raise ValueError(f"signature: unknown key {min(unknown)!r}. Allowed: name, instructions, inputs, outputs.")
    names, fields, missing = {**_TYPES, **(custom_types or {})}, dict[str, Any](), dict[str, None]()
    for kind in ("input", "output"):
        described = given.get(f"{kind}s")
        if not isinstance(described, Mapping) or not described:
            raise ValueError(f"signature: `{kind}s` is a mapping of names to types, such as {{question: str}}.")
        for name, field in described.items():
            try:
                fields[str(name)] = _read_field(str(name), field, kind, names)
            except UnknownTypes as error:
                missing[str(error)] = None
    if missing:
        classes = ", ".join(f"{name!r}: {name}" for name in missing if name.isidentifier())
        raise UnknownTypes(
            f"The signature names types that are not Python's or DSPy's own ({', '.join(missing)}): pass the signature "
            "itself as signature=" + (f", or the classes as custom_types={{{classes}}}." if classes else ".")
        )
    make: Any = dspy.make_signature
    name = str(given.get("name", "Task"))
    try:
        return make(fields, given.get("instructions"), signature_name=name if name.isidentifier() else "Task")
    except (TypeError, NameError) as error:  # names that every signature has, constraints that do not fit
        raise ValueError(f"The signature cannot be made of this: {error}") from None


def type_text(annotation: Any) -> str:
    """The type as Python writes it; classes of the user's own, and what is more than a constraint, by their names.

    Examples:
        >>> type_text(list[Annotated[int, pydantic.Field(ge=1)]] | None)
        'list[Annotated[int, Field(ge=1)]] | None'
    """
    annotation = getattr(annotation, "__value__", annotation)  # of `type Price = float`
    origin, args = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "None"
    if origin is Literal:
        members = [f"{type(a).__name__}.{a.name}" if isinstance(a, enum.Enum) else repr(a) for a in args]
        return f"Literal[{', '.join(members)}]"
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_text, args))
    if origin is Annotated:
        marks = [_mark_text(mark) for mark in args[1:] if mark is not None]
        return f"Annotated[{', '.join([type_text(args[0]), *marks])}]"
    if origin in _NAMES and args:
        return f"{_NAMES[origin]}[{', '.join('...' if arg is ... else type_text(arg) for arg in args)}]"
    if getattr(annotation, "__module__", None) == dspy.Code.__module__ and annotation is not dspy.Code:
        return f"dspy.Code[{annotation.language!r}]"  # DSPy makes another class each time
    known = _NAMES.get(annotation) if isinstance(annotation, collections.abc.Hashable) else None
    return known or re.sub(r"\W+", "_", getattr(annotation, "__name__", str(annotation)))


def read_type(text: str, names: Mapping[str, Any] | None = None) -> Any:
    """The type that a text names, as `type_text` writes it.

    Args:
        text: The text.
        names: The types there are, by name; the builtin ones by default.
    """
    try:
        return _read(ast.parse(text.strip(), mode="eval").body, _TYPES if names is None else names)
    except UnknownTypes:
        raise
    except (SyntaxError, TypeError, ValueError, AttributeError, RecursionError, MemoryError):
        raise ValueError(f"{text!r:.100} is no type. Write it as Python does, such as list[str] | None.") from None


def _describe_field(name: str, info: FieldInfo) -> Any:
    extra: dict[str, Any] = dict(info.json_schema_extra or {})  # type: ignore[arg-type]
    del extra["__dspy_field_type"]
    described = {} if extra.pop(IS_TYPE_UNDEFINED, False) else {"type": type_text(info.rebuild_annotation())}
    if not info.is_required():
        described["default"] = to_jsonable(info.get_default(call_default_factory=True))
    described |= {key: to_jsonable(value) for key, value in extra.items() if value != _implied(name).get(key)}
    return described["type"] if described.keys() == {"type"} else described


def _read_field(name: str, data: Any, kind: str, names: Mapping[str, Any]) -> tuple[Any, Any]:
    described = {"type": data} if isinstance(data, str) else dict(data or {})
    annotation = read_type(str(described.get("type", "str")), names)
    extra = _implied(name) | {key: described[key] for key in described if key not in ("type", "default")}
    if kind == "input" and "type" not in described:
        extra[IS_TYPE_UNDEFINED] = True
    default = {"default": validated(described["default"], annotation)} if "default" in described else {}
    return annotation, pydantic.Field(json_schema_extra={"__dspy_field_type": kind, **extra}, **default)


def _implied(name: str) -> dict[str, Any]:
    """What DSPy's fields say when nothing else is said."""
    return {"desc": f"${{{name}}}", "prefix": f"{infer_prefix(name)}:"}


def _split(text: str) -> dict[str, Any]:
    """The fields of DSPy's text, read without importing what it names."""
    try:
        [inputs, outputs] = [ast.parse(f"def f({part}): ...").body[0] for part in text.split("->")]
    except (SyntaxError, ValueError):
        raise ValueError(f"{text!r:.200} is no signature. Write it as in 'question -> answer: float'.") from None

    def fields(function: Any) -> dict[str, Any]:
        return {arg.arg: ast.unparse(arg.annotation) if arg.annotation else {} for arg in function.args.args}

    return {"name": "StringSignature", "inputs": fields(inputs), "outputs": fields(outputs)}


def _read(node: ast.expr, names: Mapping[str, Any], holds_values: bool = False) -> Any:
    """What a node stands for; values only where a type holds them, as a text elsewhere would be evaluated later."""
    match node:
        case ast.Constant(value=value) if holds_values or value in (None, ...):
            return value
        case ast.UnaryOp() if holds_values:
            return ast.literal_eval(node)
        case ast.Name() | ast.Attribute() if not holds_values and (found := names.get(_bare(node))) is not None:
            return found
        case ast.Attribute(value=ast.Name() as holder, attr=member) if holds_values:  # of an enum
            return _read(holder, names)[member]
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return Union[_read(left, names), _read(right, names)]  # noqa: UP007
        case ast.Subscript(value=value, slice=inner):
            generic = _read(value, names)
            return generic[_read(inner, names, generic in (Literal, dspy.Code))]
        case ast.Tuple(elts=parts):
            return tuple(_read(part, names, holds_values) for part in parts)
        case ast.Call(func=ast.Name(id=mark), args=[], keywords=keywords) if mark in _MARKS:
            given = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in keywords}
            if given.keys() <= _CONSTRAINTS:
                return _MARKS[mark](**given)
    raise UnknownTypes(ast.unparse(node))


def _bare(node: ast.expr) -> str:
    return re.sub(r"^(typing|datetime)\.", "", ast.unparse(node))


def _mark_text(mark: Any) -> str:
    """A constraint beside a type in `Annotated`, as the call that makes it; what is more than that cannot be read."""
    given: dict[str, Any] = {}
    for part in mark.metadata if isinstance(mark, FieldInfo) else [mark]:
        names = [field.name for field in dataclasses.fields(part)] if dataclasses.is_dataclass(part) else ()
        given |= {name: getattr(part, name) for name in names} or getattr(part, "__dict__", {"": part})
    name, told = type(mark).__name__, {key: value for key, value in given.items() if value is not None}
    if not told.keys() <= _CONSTRAINTS:
        return f"{name}()"
    listed = ", ".join(f"{key}={getattr(value, 'pattern', value)!r}" for key, value in told.items())
    return f"{name if name in _MARKS else 'Field'}({listed})"


_CONSTRAINTS = {
    *("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "pattern", "max_digits", "decimal_places"),
    *("allow_inf_nan", "strict", "strip_whitespace", "to_upper", "to_lower", "ascii_only"),
}
_MARKS: dict[str, Any] = {
    "Field": pydantic.Field,
    "StringConstraints": pydantic.StringConstraints,
    **{name: getattr(annotated_types, name) for name in ("Ge", "Gt", "Le", "Len", "Lt", "MaxLen", "MinLen")},
}
_CLASSES: tuple[Any, ...] = (
    *(str, bool, int, float, complex, bytes, list, dict, set, frozenset, tuple),
    *(datetime.date, datetime.time, datetime.datetime, datetime.timedelta, decimal.Decimal, uuid.UUID, pathlib.Path),
    *(collections.abc.Collection, collections.abc.Iterable, collections.abc.Mapping, collections.abc.Sequence),
    *(pydantic.AnyUrl, pydantic.HttpUrl),
)
_OF_DSPY = ("Audio", "Code", "File", "History", "Image", "Reasoning", "Tool", "ToolCalls")
_OF_TYPING = ("Annotated", "Any", "Dict", "List", "Literal", "Optional", "Set", "Tuple", "Union")
_TYPES: dict[str, Any] = {
    **{cls.__name__: cls for cls in _CLASSES},
    **{f"dspy.{name}": getattr(dspy, name) for name in _OF_DSPY},
    **{name: getattr(typing, name) for name in _OF_TYPING},
}
_NAMES = {cls: name for name, cls in reversed(_TYPES.items())}
