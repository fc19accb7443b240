"""What all parts of a config have in common: strict keys, no secrets, errors that say what to write."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from moa_dspy.secrets import KeyPath, secrets

__all__ = ["MODEL_TAG", "NAME_TAG", "ConfigModel", "nearest", "refuse_unknown", "refused", "sentence"]

NAME_TAG, MODEL_TAG = "<name>", "<model>"
Model = TypeVar("Model", bound="ConfigModel")


class ConfigModel(BaseModel):
    """A part of a config: frozen, strictly typed, without unknown keys and without secrets.

    Its errors do not hold the data that was given: there may be a secret in it, in the wrong place.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls: type[Model], data: Any, handler: Callable[[Any], Model]) -> Model:
        found = list(secrets(data))
        if found:
            raise refused(*found)
        try:
            return handler(data)
        except ValidationError as error:
            raise refused(*(cls._in_words(problem) for problem in error.errors())) from None

    @classmethod
    def _in_words(cls, problem: Mapping[str, Any]) -> tuple[KeyPath, str]:
        # Pydantic adds the tags of unions to its paths: they are no keys of the data.
        path = tuple(step for step in problem["loc"] if step not in (NAME_TAG, MODEL_TAG))
        if problem["type"] == "extra_forbidden" and len(path) == 1:
            return path, _unknown_key(path[0], cls.model_fields)
        if problem["type"] == "missing" and len(path) == 1:
            return path, f"the key is missing. Required: {', '.join(_required(cls))}."
        return path, sentence(problem["msg"])


def sentence(message: str) -> str:
    """What pydantic says, as the other errors say it."""
    text = message.removeprefix("Value error, ")
    return text if text.endswith(".") else f"{text}."


def refused(*problems: tuple[KeyPath, str]) -> ValidationError:
    """The error that says what is wrong where, and holds nothing that was given."""
    details = [
        InitErrorDetails(type=PydanticCustomError("config", "{text}", {"text": text}), loc=path, input=None)
        for path, text in problems
    ]
    return ValidationError.from_exception_data("config", details, hide_input=True)


def refuse_unknown(data: Any, allowed: Iterable[str]) -> None:
    """Refuse the keys of a mapping that are not among these.

    Raises:
        ValidationError: Naming the nearest allowed key.
    """
    known = list(allowed)
    unknown = [key for key in data if key not in known] if isinstance(data, Mapping) else []
    if unknown:
        raise refused(*(((key,), _unknown_key(key, known)) for key in unknown))


def nearest(name: object, allowed: Iterable[str]) -> str:
    """`Did you mean 'x'? Allowed: x, y.`"""
    known = list(allowed)
    close = difflib.get_close_matches(str(name), known, n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"Allowed: {', '.join(known)}."


def _unknown_key(key: object, allowed: Iterable[str]) -> str:
    return f"unknown key. {nearest(key, allowed)}"


def _required(cls: type[BaseModel]) -> list[str]:
    return [name for name, field in cls.model_fields.items() if field.is_required()]
