"""The types that a prompt asks for, as JSON schemas, read from the adapters' several ways to show them."""

from __future__ import annotations

import ast
import json
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]


def schema_of_note(note: str) -> Schema:
    """Return the schema that one of the adapters' notes about a type stands for.

    Example:
        >>> schema_of_note("must be one of: red; blue")
        {'enum': ['red', 'blue']}
    """
    opening, _, rest = note.partition(": ")
    if opening in ("must be one of", "must exactly match (no extra characters) one of"):
        return {"enum": rest.split("; ")}
    if opening == "must adhere to the JSON schema":
        return dict(json.loads(rest))
    return {"type": _NOTED.get(note, "string")}


def schema_of_annotation(annotation: str) -> Schema | None:
    """Return the schema of a Python type as prompts spell it; None if it names a class.

    Example:
        >>> schema_of_annotation("dict[str, int]"), schema_of_annotation("Invoice")
        ({'type': 'object', 'additionalProperties': {'type': 'integer'}}, None)
    """
    try:
        return _schema_of_node(ast.parse(annotation, mode="eval").body)
    except (LookupError, SyntaxError, ValueError):
        return None


def schema_of_xml(xml: str) -> Schema:
    """Return the schema of XMLAdapter's picture of a nested value, which shows names but no types.

    Example:
        >>> schema_of_xml("<item><name>...</name></item>")
        {'type': 'array', 'items': {'type': 'object', 'properties': {'name': {}}, 'required': ['name']}}
    """
    return _schema_of_element(ET.fromstring(f"<value>{xml}</value>"))


_NOTED = {
    "must be True or False": "boolean",
    "must be a single int value": "integer",
    "must be a single float value": "number",
}
_BUILTIN: dict[str, Schema] = {
    "str": {"type": "string"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "NoneType": {"type": "null"},
    "list": {"type": "array"},
    "dict": {"type": "object"},
    "Any": {},
}


def _schema_of_node(node: ast.expr) -> Schema:
    match node:
        case ast.Name(id=name):
            return _BUILTIN[name]
        case ast.Subscript(value=ast.Name(id="Literal"), slice=options):
            values = ast.literal_eval(options)
            return {"enum": list(values) if isinstance(values, tuple) else [values]}
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=options)):
            return {"anyOf": [_schema_of_node(option) for option in options]}
        case ast.Subscript(value=ast.Name(id="list"), slice=item):
            return {"type": "array", "items": _schema_of_node(item)}
        case ast.Subscript(value=ast.Name(id="dict"), slice=ast.Tuple(elts=[_, item])):
            return {"type": "object", "additionalProperties": _schema_of_node(item)}
    raise ValueError("not a builtin type")


def _schema_of_element(element: ET.Element) -> Schema:
    children = {child.tag: _schema_of_element(child) for child in element}
    if set(children) == {"item"}:
        return {"type": "array", "items": children["item"]}
    return {"type": "object", "properties": children, "required": list(children)} if children else {}
