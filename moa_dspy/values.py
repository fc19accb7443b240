"""Any value as JSON, as text and as a hash; a program's outputs typed as the task says."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from contextlib import suppress
from enum import Enum
from functools import lru_cache, wraps
from typing import Any, TypeVar

import dspy
from dspy.adapters.types.base_type import CUSTOM_TYPE_START_IDENTIFIER
from dspy.adapters.utils import annotation_allows_none, apply_output_field_defaults
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

__all__ = [
    "IncompleteProposal",
    "as_text",
    "check_inputs",
    "check_showable",
    "hash_of",
    "refuse_nulls",
    "to_json",
    "to_jsonable",
    "typed_outputs",
    "validated",
]

logger = logging.getLogger(__name__)
T = TypeVar("T")


def cached(function: Callable[[Any], T]) -> Callable[[Any], T]:
    """Remember what a function says of a type; types that cannot be hashed are asked about again."""
    remembered = lru_cache(maxsize=512)(function)

    @wraps(function)
    def ask(annotation: Any) -> T:
        try:
            hash(annotation)
        except TypeError:  # Annotated with metadata that cannot be hashed
            return function(annotation)
        return remembered(annotation)

    return ask


class IncompleteProposal(Exception):
    """A program's prediction lacks an output of the task, or holds one that is of another type or of no use."""


def to_jsonable(value: Any, name_opaque: Callable[[Any], str] | None = None) -> Any:
    """The value as strings, finite numbers, lists and dicts, the same in every process.

    Sets are sorted, lone surrogates replaced; numbers that are not finite are None, as JSON has none.

    Args:
        value: Anything.
        name_opaque: Names what has no such form; by default its repr, without the address in memory.

    Examples:
        >>> to_jsonable({"tags": {"b", "a"}, "ratio": float("nan")})
        {'tags': ['a', 'b'], 'ratio': None}
    """
    try:
        return _to_jsonable(value, name_opaque or _name)
    except Exception:  # a structure that holds itself, or a serializer of somebody's own
        return (name_opaque or _name)(value)


def to_json(value: Any, name_opaque: Callable[[Any], str] | None = None) -> str:
    """The value as JSON, the same for equal values."""
    return _encode(to_jsonable(value, name_opaque))


_encode = json.JSONEncoder(sort_keys=True, ensure_ascii=False).encode


def as_text(value: Any) -> str:
    """The value as a reader likes it: text as it is, structures indented, with real line breaks."""
    if isinstance(value, float):
        return str(value)
    data = to_jsonable(value)
    if not isinstance(data, (dict, list)):
        return str(data)
    # What is nested hundreds deep would be indentation a hundred times its length.
    return _with_line_breaks(json.dumps(data, ensure_ascii=False, indent=None if _is_deeper(data, 24) else 2))


def hash_of(value: Any, digits: int = 16) -> str:
    """A hexadecimal hash, the same for equal values in every process."""
    return hashlib.sha256(to_json(value).encode()).hexdigest()[:digits]


@cached
def fields_of(signature: Any) -> Mapping[str, Any]:
    """All fields of a signature: DSPy makes the dict anew each time."""
    return dict(signature.fields)


@cached
def inputs_of(task: Any) -> Mapping[str, Any]:
    """The task's input fields."""
    return dict(task.input_fields)


@cached
def outputs_of(task: Any) -> Mapping[str, Any]:
    """The task's output fields."""
    return dict(task.output_fields)


def check_inputs(task: type[dspy.Signature], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The task's inputs; others, as a dataset may have them, are left out with a warning."""
    fields = inputs_of(task)
    if inputs.keys() == fields.keys():
        return dict(inputs)
    missing = [name for name, field in fields.items() if name not in inputs and is_needed(field)]
    if missing:
        raise ValueError(
            f"The input {', '.join(missing)} is missing, so the proposers would answer another question. "
            f"Given: {', '.join(inputs) or 'none'}; the task's inputs: {', '.join(fields)}."
        )
    settings = [name for name in ("config", "demos", "lm", "signature") if name in inputs and name not in fields]
    if settings:
        raise ValueError(
            f"`{settings[0]}` cannot be given per call: every agent has its own. Set it on an Agent, or under "
            "dspy.context(...)."
        )
    unknown = [name for name in inputs if name not in fields]
    if unknown:
        logger.warning("%s: no inputs of the task, left out. Its inputs: %s.", ", ".join(unknown), ", ".join(fields))
    return {name: value for name, value in inputs.items() if name in fields}


def is_needed(field: Any) -> bool:
    """Whether an input field must be given: it has no default and does not allow None."""
    return bool(field.is_required()) and not annotation_allows_none(field.annotation)


def typed_outputs(prediction: Any, task: type[dspy.Signature], said: Any = None) -> dict[str, Any]:
    """The task's outputs from a prediction, typed as the task says; for `said` see `refuse_nulls`.

    One that is missing takes its default, as in DSPy's adapters.
    """
    if not isinstance(prediction, dspy.Example):
        raise IncompleteProposal(
            f"The program returned {type(prediction).__name__}; a proposer returns a dspy.Prediction with the "
            f"outputs {', '.join(task.output_fields)}."
        )
    fields = outputs_of(task)
    outputs = {name: prediction[name] for name in fields if name in prediction}
    if len(outputs) < len(fields):
        outputs = apply_output_field_defaults(task, outputs)
    missing = [name for name in fields if name not in outputs]
    if missing:
        raise IncompleteProposal(
            f"The prediction lacks {', '.join(missing)}; it has {', '.join(prediction.keys()) or 'no fields'}."
        )
    typed = {name: _typed(name, outputs[name], field.annotation) for name, field in fields.items()}
    refuse_nulls(typed, task, said)
    return typed


def refuse_nulls(outputs: Mapping[str, Any], task: type[dspy.Signature], said: Any = None) -> None:
    """Refuse a null where the task asks for text: it is no answer.

    Args:
        outputs: Outputs of the task.
        task: The task's signature.
        said: What the LM said, where that is known: DSPy reads a null as the text `None`.
    """
    for name, field in outputs_of(task).items():
        if field.annotation is str and name in outputs:
            value = outputs[name]
            if value is None or (value == "None" and _is_null(name, said)):
                raise IncompleteProposal(f"The output {name} is null: no answer, as the task asks for text.")


def check_showable(values: Mapping[str, Any]) -> None:
    """Refuse what could be neither shown nor compared, before it breaks more than itself."""
    level: list[Any] = [value for value in values.values() if type(value) not in _PLAIN]
    for _ in range(_DEEPEST):
        if not level:
            return
        parts = {id(part): part for held in level for part in _parts(held) if type(part) not in _PLAIN}
        level = list(parts.values())
    raise IncompleteProposal(f"An output has more than {_DEEPEST} levels: it can be neither shown nor compared.")


def validated(value: Any, annotation: Any) -> Any:
    """The value as this type, read the way pydantic does; as it is, if pydantic does not know the type."""
    adapter = adapter_of(annotation)
    return value if adapter is None else adapter.validate_python(value)


def _typed(name: str, value: Any, annotation: Any) -> Any:
    if value is None or type(value) is annotation:
        return value
    try:
        return validated(value, annotation)
    except ValidationError as error:
        raise IncompleteProposal(f"The output {name} is no {annotation}: {value!r:.200}") from error


def _is_null(name: str, said: Any) -> bool:
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in said or ()]
    return any(isinstance(text, str) and re.search(rf'"{re.escape(name)}"\s*:\s*null\b', text) for text in texts)


# Python's own limit is 1,000 calls, of which a walk takes several a level, and whoever asks some hundred.
_DEEPEST = 64
_PLAIN = frozenset((str, bool, float, type(None)))


def _parts(held: Any) -> Iterable[Any]:
    if isinstance(held, Mapping):
        return [*held, *held.values()]
    if isinstance(held, (list, tuple, Set)):
        return held
    if isinstance(held, BaseModel):
        return vars(held).values()
    if dataclasses.is_dataclass(held) and not isinstance(held, type):
        return [getattr(held, field.name) for field in dataclasses.fields(held)]
    try:
        as_text(held)
    except Exception as error:  # somebody's own
        raise IncompleteProposal(f"An output cannot be shown: {type(held).__name__} raised {error!r:.200}") from error
    return ()


@cached
def adapter_of(annotation: Any) -> TypeAdapter[Any] | None:
    """Pydantic's reader of this type; None if pydantic does not know it."""
    # A program of one's own may answer 5 where text is declared. Models take no configuration from outside.
    loose = ConfigDict(coerce_numbers_to_str=True, arbitrary_types_allowed=True)
    for config in (loose, None):
        with suppress(Exception):  # a type that pydantic does not know
            return TypeAdapter(annotation, config=config)
    return None


def _to_jsonable(value: Any, name_opaque: Callable[[Any], str]) -> Any:
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(_to_jsonable(key, name_opaque)): _to_jsonable(item, name_opaque) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_jsonable(item, name_opaque) for item in value]
    if isinstance(value, BaseModel):
        return _to_jsonable(_dump(value), name_opaque)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _to_jsonable({one.name: getattr(value, one.name) for one in dataclasses.fields(value)}, name_opaque)
    if callable(listed := getattr(value, "tolist", None)):  # numpy's scalars and arrays
        return _to_jsonable(listed(), name_opaque)
    if isinstance(value, Set):
        items = [_to_jsonable(item, name_opaque) for item in value]
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, (Iterator, BaseException)):
        return name_opaque(value)
    try:
        return to_jsonable_python(value)  # dates, decimals, paths, ...
    except ValueError:
        return name_opaque(value)


def _dump(value: BaseModel) -> Any:
    if isinstance(value, dspy.Type):
        # An image would be its whole data between DSPy's markers; its repr says which one it is.
        text = value.model_dump()
        return repr(value) if isinstance(text, str) and CUSTOM_TYPE_START_IDENTIFIER in text else text
    return value.model_dump(warnings=False)


def _name(value: Any) -> str:
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", repr(value))  # the address differs between processes


def _is_deeper(data: Any, levels: int) -> bool:
    parts = data.values() if isinstance(data, dict) else data
    return not levels or any(_is_deeper(part, levels - 1) for part in parts if isinstance(part, (dict, list)))


def _with_line_breaks(text: str) -> str:
    """JSON with real line breaks; a backslash before an n stays one."""
    pieces = text.split("\\\\")
    return "\\\\".join(piece.replace("\\n", "\n") for piece in pieces)
