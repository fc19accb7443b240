"""The task's signature, as it stands in a file, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import dspy
from dspy.signatures.field import PYDANTIC_CONSTRAINT_MAP
from dspy.signatures.signature import infer_prefix
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import SchemaError

from moa_dspy.saving.field_state import field_state, json_or_none, read_field
from moa_dspy.saving.saved_format import SavedField, SavedSignature
from moa_dspy.saving.type_reading import TypeReader
from moa_dspy.saving.type_writing import TypeWriter

__all__ = ["read_signature", "signature_state"]


def signature_state(signature: type[dspy.Signature]) -> SavedSignature:
    """A signature as it stands in a file.

    What the file cannot hold of it is said at the field or class it belongs to, under `lacks`.

    Example:
        >>> signature_state(dspy.Signature("question -> score: float")).outputs
        [SavedField(name='score', type='float', ...
    """
    writer = TypeWriter()
    inputs = [_field(name, info, writer) for name, info in signature.input_fields.items()]
    outputs = [_field(name, info, writer) for name, info in signature.output_fields.items()]
    state: dict[str, Any] = {"inputs": inputs, "outputs": outputs}
    if writer.types:
        state["types"] = writer.types
    saved = SavedSignature(name=signature.__name__, instructions=signature.instructions, **state)
    return _compared(saved, writer) if writer.types else saved


def read_signature(
    saved: SavedSignature, custom_types: Mapping[str, type] | None = None, allow_import: bool = False
) -> tuple[type[dspy.Signature], list[str]]:
    """The signature of a file, and what of its classes it has to do without.

    Args:
        saved: The signature as it stands in the file.
        custom_types: Classes of the user's own, used instead of rebuilt ones.
        allow_import: Whether classes may be imported from where the file says they were defined.

    Raises:
        ValueError: If a type is not one that a file can name, or a class cannot be rebuilt.
    """
    unknown = sorted(set(custom_types or {}) - set(saved.types))
    if unknown:
        raise ValueError(
            f"The signature names no type {unknown[0]!r}, so custom_types would have no effect. "
            f"It names: {', '.join(saved.types) or 'none of your own'}."
        )
    reader = TypeReader(saved.types, custom_types, allow_import)
    try:
        signature = _made(saved, reader)
    except (
        TypeError,
        SchemaError,
        PydanticUserError,
        PydanticUndefinedAnnotation,
    ) as error:  # constraints that do not fit
        raise ValueError(f"The signature cannot be made from the file: {error}") from None
    return signature, list(_lacking(saved, reader.rebuilt))


def _made(saved: SavedSignature, reader: TypeReader) -> type[dspy.Signature]:
    fields = {
        field.name: read_field(field, reader.annotation(field.type), _extra(field, kind))
        for kind, given in (("input", saved.inputs), ("output", saved.outputs))
        for field in given
    }
    name = saved.name if saved.name.isidentifier() else "Task"
    make: Any = dspy.Signature  # which makes classes, and not what a type checker expects of a class
    signature: type[dspy.Signature] = make(fields, saved.instructions, signature_name=name)
    return signature


def _lacking(saved: SavedSignature, rebuilt: list[str]) -> Iterator[str]:
    """What the file lacks of the signature's fields, and of these classes."""
    for field in [*saved.inputs, *saved.outputs]:
        yield from (f"{field.name}: {lost}" for lost in field.lacks)
    for name in rebuilt:
        cls = saved.types[name]
        yield from (f"{name}: {lost}" for lost in cls.lacks)
        yield from (f"{name}.{field.name}: {lost}" for field in cls.fields or [] for lost in field.lacks)


def _field(name: str, info: FieldInfo, writer: TypeWriter) -> SavedField:
    field = field_state(name, info, writer.text)
    given: dict[str, Any] = dict(info.json_schema_extra or {})  # type: ignore[arg-type]
    implied = _extra(field, given["__dspy_field_type"])
    state = field.state()
    if given["desc"] != implied["desc"]:
        state["desc"] = given["desc"]
    if given.get(IS_TYPE_UNDEFINED):
        del state["type"]
    own = {key: value for key, value in given.items() if key not in (*implied, IS_TYPE_UNDEFINED)}
    own |= {key: given[key] for key in ("prefix", "constraints") if given.get(key) != implied.get(key)}
    extra = {key: json_or_none(value) for key, value in own.items()}
    if lost := [key for key, value in extra.items() if value is None and own[key] is not None]:
        state["lacks"] = [*field.lacks, *lost]
    if extra := {key: value for key, value in extra.items() if key not in lost}:
        state["extra"] = extra
    return SavedField(**state)


def _extra(field: SavedField, kind: str) -> dict[str, Any]:
    """What DSPy's `InputField` and `OutputField` say of a field."""
    told = [f"{PYDANTIC_CONSTRAINT_MAP[n]}{v}" for n, v in field.constraints.items() if n in PYDANTIC_CONSTRAINT_MAP]
    return {
        "__dspy_field_type": kind,
        "desc": field.desc or field.description or f"${{{field.name}}}",
        "prefix": f"{infer_prefix(field.name)}:",
        **({"constraints": ", ".join(told)} if told else {}),
        **({} if "type" in field.model_fields_set else {IS_TYPE_UNDEFINED: True}),
        **field.extra,
    }


def _compared(saved: SavedSignature, writer: TypeWriter) -> SavedSignature:
    """The state, with a word at every class of which the file would make another JSON schema."""
    reader = TypeReader(saved.types)
    types = dict(saved.types)
    for name, cls in writer.classes.items():
        with suppress(Exception):  # a class that is only named, or that has no JSON schema
            if _schema(reader.annotation(name)) != _schema(cls) and not types[name].lacks:
                types[name] = types[name].model_copy(update={"lacks": ["JSON schema"]})
    return saved.model_copy(update={"types": types})


def _schema(cls: Any) -> dict[str, Any]:
    return TypeAdapter(cls).json_schema()
