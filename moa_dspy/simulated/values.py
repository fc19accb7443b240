"""Values of any type that a prompt may ask for, made to fit the type's JSON schema."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Any

from moa_dspy.simulated.questions import same_answer
from moa_dspy.simulated.schemas import Schema

Suggest = Callable[[str], Iterable[object]]


def fill(schema: Schema, name: str, suggest: Suggest) -> Any:
    """Return a value that fits the schema: the first suggestion that does, else a plain one of its type.

    Args:
        schema: JSON schema, with its `$defs` at the top.
        name: The field's name, about which `suggest` is asked; so it is about the fields inside an object.
        suggest: Name -> values to try, best first; text may stand for a number, a list or an object.

    Example:
        >>> fill({"type": "integer"}, "answer", lambda name: ["forty-two", "42"])
        42
        >>> fill({"type": "array", "items": {"type": "string"}}, "tags", lambda name: [])
        []
    """
    return _Filler(schema.get("$defs", {}), suggest).value(schema, name)


class _UnfitError(ValueError):
    """A suggestion cannot take the type asked for."""


class _Filler:
    def __init__(self, definitions: Mapping[str, Schema], suggest: Suggest) -> None:
        self.definitions = definitions
        self.suggest = suggest

    def value(self, schema: Schema, name: str, *first: object) -> Any:
        for suggestion in (*first, *self.suggest(name)):
            try:
                return self.fit(suggestion, schema)
            except _UnfitError:
                continue
        return self.plain(schema, name)

    def fit(self, value: object, schema: Schema) -> Any:
        """Return the value as the schema's type, or raise."""
        schema = self.resolve(schema)
        if "enum" in schema:
            return next(_checked(option for option in schema["enum"] if same_answer(str(option), str(value))))
        if "anyOf" in schema:
            return next(_checked(self.fits(value, schema["anyOf"])))
        kind = schema.get("type")
        if kind == "array":
            return self.fit_list(_parsed(value, list), schema)
        if kind == "object":
            return self.fit_object(_parsed(value, dict), schema)
        return _SCALARS.get(kind, _same)(value, schema)

    def fits(self, value: object, options: Iterable[Schema]) -> Iterator[Any]:
        for option in options:
            try:
                yield self.fit(value, option)
            except _UnfitError:
                continue

    def fit_list(self, value: object, schema: Schema) -> list[Any]:
        values = value if isinstance(value, list) else [value]
        if "prefixItems" in schema:
            if len(values) != len(schema["prefixItems"]):
                raise _UnfitError
            return [self.fit(item, kind) for item, kind in zip(values, schema["prefixItems"], strict=True)]
        if not schema.get("minItems", 0) <= len(values) <= schema.get("maxItems", len(values)):
            raise _UnfitError
        return [self.fit(item, schema.get("items", {})) for item in values]

    def fit_object(self, value: object, schema: Schema) -> dict[str, Any]:
        fields: Mapping[str, Schema] = schema.get("properties", {})
        if isinstance(value, dict) and not fields:
            rest = schema.get("additionalProperties", {})
            return {
                str(name): self.fit(item, rest if isinstance(rest, Mapping) else {}) for name, item in value.items()
            }
        required = set(schema.get("required", fields))
        if not isinstance(value, dict):
            # A lone answer goes into the first field that takes it.
            place = next((name for name, kind in fields.items() if list(self.fits(value, [kind]))), None)
            if place is None:
                raise _UnfitError
            value = {place: value}
        return {
            name: self.value(kind, name, *([value[name]] if name in value else []))
            for name, kind in fields.items()
            if name in required or name in value
        }

    def plain(self, schema: Schema, name: str) -> Any:
        """Return the plainest value of the type."""
        schema = self.resolve(schema)
        if "default" in schema:
            return schema["default"]
        if "enum" in schema:
            # The way out of a loop over tools, as in ReAct, rather than the first tool.
            return "finish" if "finish" in schema["enum"] else schema["enum"][0]
        if "anyOf" in schema:
            null = any(option.get("type") == "null" for option in schema["anyOf"])
            return None if null else self.plain(schema["anyOf"][0], name)
        kind: Any = schema.get("type")
        if kind == "array":
            kinds = schema.get("prefixItems") or [schema.get("items", {})] * schema.get("minItems", 0)
            return [self.value(item, name) for item in kinds]
        if kind == "object":
            fields = {field: schema["properties"][field] for field in schema.get("required", [])}
            return {field: self.value(item, field) for field, item in fields.items()}
        if kind in ("integer", "number"):
            return max(0, schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
        formats = {"date": "2000-01-01", "date-time": "2000-01-01T00:00:00", "time": "00:00:00"}
        # "0" is the one text that is a string, a number and a truth value, where the type is not known.
        return {"boolean": False, "null": None, "string": formats.get(schema.get("format", ""), "")}.get(kind, "0")

    def resolve(self, schema: Schema) -> Schema:
        """Return the schema without references, and with one spelling of choices."""
        while "$ref" in schema:
            schema = self.definitions[schema["$ref"].rsplit("/", 1)[-1]]
        if "const" in schema:
            return {"enum": [schema["const"]]}
        if len(schema.get("allOf", [])) == 1:
            return self.resolve(schema["allOf"][0])
        if "oneOf" in schema:
            return {"anyOf": schema["oneOf"]}
        if isinstance(schema.get("type"), list):
            return {"anyOf": [{**schema, "type": kind} for kind in schema["type"]]}
        return schema


def _checked(values: Iterable[Any]) -> Iterator[Any]:
    yield from values
    raise _UnfitError


def _parsed(value: object, kind: type) -> object:
    """Return the value, read from JSON where it is the JSON of this kind of value."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            # Not strict: proposals are shown with real line breaks inside their strings.
            parsed: object = json.loads(value, strict=False)
        except ValueError:
            return value
        return parsed if isinstance(parsed, kind) else value
    return value


def _same(value: object, schema: Schema) -> object:
    return value


def _text(value: object, schema: Schema) -> str:
    if isinstance(value, dict | list) or value is None:
        raise _UnfitError
    if schema.get("format") == "date" and not _is_date(str(value)):
        raise _UnfitError
    return str(value)


def _is_date(text: str) -> bool:
    try:
        return bool(date.fromisoformat(text))
    except ValueError:
        return False


def _truth(value: object, schema: Schema) -> bool:
    truths = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    try:
        return truths[str(value).strip().casefold()]
    except KeyError:
        raise _UnfitError from None


def _whole(value: object, schema: Schema) -> int:
    number = _number(value, schema)
    if number != int(number):
        raise _UnfitError
    return int(number)


def _number(value: object, schema: Schema) -> float:
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", str(value).strip())
    if isinstance(value, bool) or not re.fullmatch(r"[-+]?\d+(\.\d+)?", text):
        raise _UnfitError
    return float(text)


def _nothing(value: object, schema: Schema) -> None:
    if value is not None:
        raise _UnfitError


_SCALARS: dict[Any, Callable[[object, Schema], object]] = {
    "string": _text,
    "boolean": _truth,
    "integer": _whole,
    "number": _number,
    "null": _nothing,
}
