"""A task's fields as the columns of a table: what MLflow writes into a model's signature."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import dspy
from mlflow.models import ModelSignature
from mlflow.types.schema import Array, ColSpec, DataType, Map, Object, ParamSchema, ParamSpec, Property, Schema
from pydantic import TypeAdapter

from moa_dspy.results import MoAMetadata
from moa_dspy.values import to_json, to_jsonable

__all__ = ["ACCOUNT", "CONCURRENCY", "OUTPUTS", "Columns"]

OUTPUTS, ACCOUNT = "outputs", "account"
CONCURRENCY = ParamSpec("concurrency", DataType.long, 8)

Type = DataType | Array | Map | Object
_SCALARS = {
    "string": DataType.string,
    "integer": DataType.long,
    "number": DataType.double,
    "boolean": DataType.boolean,
}
_ACCOUNT = {
    "error": DataType.string,
    "agreement": DataType.double,
    "degraded": DataType.boolean,
    "cost_usd": DataType.double,
    "unpriced_calls": DataType.long,
    "seconds": DataType.double,
    "metadata": DataType.string,
}


class Columns:
    """The columns of a task, and its values as they stand in them.

    Types are those of pydantic's JSON schema: a date is text, an enum what its values are. What MLflow has no
    type for is JSON text: as an input a union, a tuple or `Any`; as an output also objects and lists of them,
    as MLflow's Spark function cannot carry one that is missing.

    Example:
        >>> Columns(dspy.Signature("question, year: int -> answer: float, sources: list[str]")).signature.inputs
        ['question': string (required), 'year': long (required)]
    """

    def __init__(self, task: type[dspy.Signature]) -> None:
        self._inputs = {name: _column(field, "validation") for name, field in task.input_fields.items()}
        outputs = {name: _column(field, "serialization")[0] for name, field in task.output_fields.items()}
        self._outputs = {name: type_ if _is_flat(type_) else None for name, type_ in outputs.items()}

    @property
    def signature(self) -> ModelSignature:
        """The signature of the model: a row's inputs, and what comes back for it."""
        return ModelSignature(
            inputs=Schema([ColSpec(_or_text(type_), name, needed) for name, (type_, needed) in self._inputs.items()]),
            # In two objects, where each value may be missing: in a column of its own, MLflow's Spark function
            # makes "None" or "nan" of a text that is missing, and False of a truth value.
            outputs=Schema([_object(OUTPUTS, self._outputs), _object(ACCOUNT, _ACCOUNT)]),
            params=ParamSchema([CONCURRENCY]),
        )

    def cells(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Inputs of the task as they stand in a row."""
        return {name: _cell(inputs[name], type_) for name, (type_, _) in self._inputs.items() if name in inputs}

    def given(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """What a row gives of the inputs; what it lacks, and what is null, is left out."""
        values = {name: _read(row[name], type_) for name, (type_, _) in self._inputs.items() if name in row}
        return {name: value for name, value in values.items() if value is not None}

    @staticmethod
    def account(account: MoAMetadata | None, error: str | None) -> dict[str, Any]:
        """How a row was answered, or why not; what is not known is None."""
        if account is None:
            return {**dict.fromkeys(_ACCOUNT), "error": error}
        return {
            "error": error,
            "agreement": account.agreement,
            "degraded": account.degraded,
            "cost_usd": account.usage.cost_usd,
            "unpriced_calls": account.usage.unpriced_calls,
            "seconds": account.seconds,
            "metadata": to_json(account),
        }

    def outputs(self, values: Mapping[str, Any] | None) -> dict[str, Any]:
        """The task's outputs as they stand in a row; None if there are none.

        Raises:
            ValueError: If a number is none that a table can hold.
        """
        if values is None:
            return dict.fromkeys(self._outputs)
        return {name: _fitting(name, _cell(values[name], type_)) for name, type_ in self._outputs.items()}


def _column(field: Any, mode: Literal["validation", "serialization"]) -> tuple[Type | None, bool]:
    try:
        schema = TypeAdapter(field.annotation).json_schema(mode=mode)
    except Exception:  # a type that pydantic does not know, or that has no JSON form
        return None, bool(field.is_required())
    type_, is_optional = _typed(schema, schema.get("$defs", {}))
    return type_, bool(field.is_required()) and not is_optional


def _typed(schema: Mapping[str, Any], classes: Mapping[str, Any]) -> tuple[Type | None, bool]:
    """The MLflow type of a JSON schema, and whether null is allowed."""
    match schema:
        case {"$ref": str(path)}:
            name = path.rpartition("/")[2]
            # A class is taken out while it is read: one that holds itself has no type of MLflow's.
            rest = {other: fields for other, fields in classes.items() if other != name}
            return _typed(classes[name], rest) if name in classes else (None, False)
        case {"anyOf": [one, {"type": "null"}] | [{"type": "null"}, one]}:
            return _typed(one, classes)[0], True
        case {"type": str(kind)} if kind in _SCALARS:
            return _SCALARS[kind], False
        case {"type": "array", "items": items} if "prefixItems" not in schema:
            item, is_optional = _typed(items, classes)
            return None if item is None or is_optional else Array(item), False
        case {"type": "object", "properties": fields} if fields:
            return _fields(fields, schema.get("required", ()), classes), False
        case {"type": "object", "additionalProperties": Mapping() as values}:
            value, is_optional = _typed(values, classes)
            return None if value is None or is_optional else Map(value), False
    return None, schema == {"type": "null"}


def _fields(fields: Mapping[str, Any], required: Sequence[str], classes: Mapping[str, Any]) -> Object | None:
    properties = []
    for name, field in fields.items():
        type_, is_optional = _typed(field, classes)
        if type_ is None:
            return None
        properties.append(Property(name, type_, name in required and not is_optional))
    return Object(properties)


def _is_flat(type_: Type | None) -> bool:
    return isinstance(type_, DataType) or (isinstance(type_, Array) and isinstance(type_.dtype, DataType))


def _or_text(type_: Type | None) -> Type:
    return DataType.string if type_ is None else type_


def _object(name: str, types: Mapping[str, Type | None]) -> ColSpec:
    return ColSpec(Object([Property(part, _or_text(type_), required=False) for part, type_ in types.items()]), name)


def _cell(value: Any, type_: Type | None) -> Any:
    data = to_jsonable(value)
    return to_json(data) if type_ is None and data is not None else data


def _read(value: Any, type_: Type | None) -> Any:
    data = to_jsonable(value)
    if data != data:  # pandas has NaN where nothing is
        return None
    if type_ is None and isinstance(data, str):
        try:
            return json.loads(data)
        except ValueError:  # text that is meant as it stands
            return data
    return data


def _fitting(name: str, value: Any) -> Any:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, int) and not -(2**63) <= number < 2**63:
            raise ValueError(f"The output {name} is a whole number of more than 64 bits, which no table holds.")
        if isinstance(number, float) and not math.isfinite(number):
            raise ValueError(f"The output {name} is {number}, which JSON cannot say.")
    return value
