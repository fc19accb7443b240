"""From types to text: as Python writes them, with the classes that they name."""

from __future__ import annotations

import enum
import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dspy

from moa_dspy.saving.class_state import class_state
from moa_dspy.saving.saved_format import SavedType
from moa_dspy.saving.type_names import GENERIC, MARKS, PLAIN, mark_of

__all__ = ["TypeWriter"]


class TypeWriter:
    """Writes types as text and keeps the classes they name.

    Attributes:
        types: The classes that were named so far, under their names in the text.

    Example:
        >>> from typing import Optional
        >>> TypeWriter().text(Optional[list[int]])
        ('list[int] | None', [])
    """

    def __init__(self) -> None:
        self.types: dict[str, SavedType] = {}
        self.classes: dict[str, Any] = {}
        self._lacks: list[str] = []

    def text(self, annotation: Any) -> tuple[str, list[str]]:
        """The type as text, and what of it could not be written."""
        before, self._lacks = self._lacks, []
        text = self._text(annotation)
        lacks, self._lacks = self._lacks, before
        return text, lacks

    def _text(self, annotation: Any) -> str:
        if annotation is None or annotation is type(None):
            return "None"
        if type(annotation).__name__ == "TypeAliasType":  # `type Price = float`
            return self._text(annotation.__value__)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin is Literal:
            return f"Literal[{', '.join(map(self._value, args))}]"
        if origin in (Union, types.UnionType):
            return " | ".join(map(self._text, args))
        if origin is Annotated:
            return self._annotated(*args)
        if origin in _GENERIC_NAMES:
            parts = ", ".join("..." if arg is ... else self._text(arg) for arg in args)
            return f"{_GENERIC_NAMES[origin]}[{parts}]" if args else _GENERIC_NAMES[origin]
        return self._name(annotation)

    def _annotated(self, annotation: Any, *metadata: Any) -> str:
        marks = []
        for name, arguments in map(mark_of, metadata):
            if name and all(isinstance(value, (str, int, float)) for value in arguments.values()):
                marks.append(f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
            else:
                self._lacks += arguments
        text = self._text(annotation)
        return f"Annotated[{', '.join([text, *marks])}]" if marks else text

    def _value(self, value: Any) -> str:
        if isinstance(value, enum.Enum):
            return f"{self._name(type(value))}.{value.name}"
        return repr(value)

    def _name(self, annotation: Any) -> str:
        for name, known in _NAMED.items():
            if annotation is known:
                return name
        if getattr(annotation, "__module__", None) == dspy.Code.__module__:  # made by dspy.Code["java"]
            return f"dspy.Code[{annotation.language!r}]"
        return self._class(annotation)

    def _class(self, annotation: Any) -> str:
        for name, known in self.classes.items():
            if annotation is known:
                return name
        called = getattr(annotation, "__name__", "Type")
        stem = name = re.sub(r"\W+", "_", called).strip("_")
        number = 2
        while name in self.classes or name in _RESERVED:
            name, number = f"{stem}_{number}", number + 1
        # Before its parts are written: they may name it again.
        self.classes[name] = annotation
        state = class_state(annotation, self.text)
        self.types[name] = state if name == called else state.model_copy(update={"name": called})
        return name


_NAMED = {**PLAIN, **GENERIC}
_GENERIC_NAMES = {cls: name for name, cls in GENERIC.items()}
_RESERVED = frozenset({*_NAMED, *MARKS, "Annotated", "Literal", "dspy"})
