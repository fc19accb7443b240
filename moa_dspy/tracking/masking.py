"""What is written into a trace, without its secrets."""

from __future__ import annotations

import copy
import dataclasses
import traceback
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic import BaseModel

from moa_dspy.secrets import is_secret, mask, secret_values

__all__ = ["Mask"]


class Mask:
    """Takes secrets out of data, texts and errors: by their names, by their looks, and those of the LMs seen so far."""

    def __init__(self) -> None:
        self._known: frozenset[str] = frozenset()
        self._longest_first: tuple[str, ...] = ()

    def learn(self, *lms: dspy.BaseLM | None) -> None:
        """Know the secrets of these LMs, and those of the environment, from now on."""
        found = self._known.union(secret_values(*lms))
        if found != self._known:
            self._known, self._longest_first = found, tuple(sorted(found, key=len, reverse=True))

    def text(self, text: str) -> str:
        """The text with secrets masked."""
        return mask(text, self._longest_first)

    def data(self, value: Any, name: str = "") -> Any:
        """A copy of the data with secrets masked, at any depth."""
        if is_secret(name) and isinstance(value, (str, bytes, Mapping, list, tuple)):
            return "***"
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, BaseModel):
            return self.data(value.model_dump())
        if isinstance(value, (dspy.Example, dspy.Prediction)):
            return self.data(value.toDict())
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {f.name: self.data(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {key: self.data(item, str(key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.data(item) for item in value]
        return value

    def lm(self, lm: Any) -> Any:
        """A stand-in for an LM, with secrets masked in its settings."""
        shown = copy.copy(lm)
        shown.kwargs = self.data(lm.kwargs)
        return shown

    def error(self, error: BaseException | None) -> Any:
        """The error, or one of the same name that says the same without secrets; its causes are left out then."""
        if error is None:
            return None
        told = "".join(traceback.format_exception(error))
        if self.text(told) == told:
            return error
        return type(type(error).__name__, (Exception,), {})(self.text(str(error)))
