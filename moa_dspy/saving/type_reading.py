"""From text to types: parsed and looked up in a table, never evaluated."""

from __future__ import annotations

import ast
import enum
import importlib
from collections.abc import Mapping
from typing import Annotated, Any, ForwardRef, Literal, Union

import dspy
from pydantic import ConfigDict, RootModel, create_model

from moa_dspy.saving.field_state import read_field
from moa_dspy.saving.saved_format import SavedType
from moa_dspy.saving.type_names import CONSTRAINTS, GENERIC, MARKS, PLAIN

__all__ = ["TypeReader"]


class TypeReader:
    """Reads types from text; the classes that it names are rebuilt.

    Args:
        types: The classes of the file.
        custom_types: Classes of the user's own, used instead of rebuilt ones.
        allow_import: Whether classes may be imported from where the file says they were defined.

    Attributes:
        rebuilt: The names of the classes that are neither the user's own nor imported.

    Example:
        >>> TypeReader().annotation("list[int] | None")
        typing.Optional[list[int]]
    """

    def __init__(
        self,
        types: Mapping[str, SavedType] | None = None,
        custom_types: Mapping[str, type] | None = None,
        allow_import: bool = False,
    ) -> None:
        self._types = types or {}
        self._allow_import = allow_import
        self._built: dict[str, Any] = dict(custom_types or {})
        self._under_way: set[str] = set()
        self._incomplete: list[Any] = []
        self.rebuilt: list[str] = []

    def annotation(self, text: str) -> Any:
        """The type that a text names.

        Raises:
            ValueError: If it is no text of a type, or names one that there is not.
        """
        try:
            return self._parsed(text)
        except _Unknown as unknown:
            raise ValueError(f"The type {text!r:.200} cannot be read from the file: {unknown}.") from None

    def _parsed(self, text: str) -> Any:
        try:
            return self._read(ast.parse(text, mode="eval").body)
        except (SyntaxError, TypeError, ValueError, RecursionError, MemoryError) as error:
            raise _Unknown(str(error)) from None

    def _read(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=None):
                return type(None)
            case ast.Constant(value=value) if value is ...:
                return ...
            case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="dspy"), attr=name):
                return self._named(name if isinstance(node, ast.Name) else f"dspy.{name}")
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return Union[self._read(left), self._read(right)]  # noqa: UP007
            case ast.Subscript(value=ast.Name(id="Literal"), slice=args):
                return Literal[tuple(map(self._value, _items(args)))]
            case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *marks])):
                return Annotated[tuple([self._read(inner), *map(_mark, marks)])]
            case ast.Subscript(value=ast.Attribute(attr="Code"), slice=ast.Constant(value=str(language))):
                return self._code(language)
            case ast.Subscript(value=ast.Name(id=name), slice=args) if name in GENERIC:
                return GENERIC[name][tuple(map(self._read, _items(args)))]
        raise _Unknown(ast.unparse(node))

    def _value(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Attribute(value=ast.Name(id=name), attr=member):
                return self._named(name)[member]
        raise _Unknown(ast.unparse(node))

    def _named(self, name: str) -> Any:
        known = {**PLAIN, **GENERIC, **self._built}
        if name in known:
            return known[name]
        if name not in self._types:
            raise _Unknown(f"there is no {name}")
        if name in self._under_way:
            # A name that nothing else has: pydantic looks it up in this module first.
            return ForwardRef(f"_saved_{name}")
        self._under_way.add(name)
        try:
            self._built[name] = cls = self._class(name, self._types[name])
        finally:
            self._under_way.discard(name)
        if not self._under_way and self._incomplete:
            self._complete()
        return cls

    def _code(self, language: str) -> Any:
        # DSPy makes another class each time.
        return self._built.setdefault(f"dspy.Code[{language!r}]", dspy.Code[language])

    def _class(self, name: str, saved: SavedType) -> Any:
        if self._allow_import and (imported := _imported(saved.cls)) is not None:
            return imported
        self.rebuilt.append(name)
        cls = self._rebuilt(name, saved)
        # Saved again, it is still the class that it was.
        cls.__module__, _, cls.__qualname__ = saved.cls.partition(":")
        cls.__moa_lacks__ = saved.lacks
        return cls

    def _rebuilt(self, name: str, saved: SavedType) -> Any:
        called = saved.name or name
        if saved.members is not None:
            return _enum(called, saved)
        if saved.root is not None:
            base: Any = RootModel
            cls: Any = create_model(called, __base__=base[self._parsed(saved.root)], __doc__=saved.doc)
        elif saved.fields is not None:
            fields: Any = {field.name: read_field(field, self._parsed(field.type)) for field in saved.fields}
            options: Any = {key: tuple(v) if isinstance(v, list) else v for key, v in saved.config.items()}
            config: Any = ConfigDict(**options)  # type: ignore[typeddict-item]
            cls = create_model(called, __config__=config, __doc__=saved.doc, **_checked(fields))
        else:
            raise _Unknown(
                f"{name} ({saved.cls}) is a class that a file cannot hold. Give it as custom_types={{{name!r}: ...}}, "
                "or build the mixture in code and use load()"
            )
        self._incomplete.append(cls)
        return cls

    def _complete(self) -> None:
        names = {f"_saved_{name}": cls for name, cls in self._built.items()}
        for raises in (False, True):  # twice, as classes that name each other complete each other
            for cls in self._incomplete:
                cls.model_rebuild(force=True, raise_errors=raises, _types_namespace=names)
        self._incomplete = []


class _Unknown(Exception):
    """What stands in a text is no type."""


def _items(node: ast.expr) -> list[ast.expr]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def _mark(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords) if name in MARKS:
            given = {keyword.arg or "": ast.literal_eval(keyword.value) for keyword in keywords}
            if set(given) <= {*CONSTRAINTS, "description", "title"}:
                return MARKS[name](**given)
    raise _Unknown(ast.unparse(node))


def _enum(name: str, saved: SavedType) -> Any:
    base = saved.base or ""
    named = getattr(enum, base, None)
    mixin = {"str": str, "StrEnum": str, "int": int, "float": float}.get(base)
    kind: Any = named or enum.Enum
    cls = kind(name, saved.members, **({} if named or mixin is None else {"type": mixin}))
    if saved.doc:
        cls.__doc__ = saved.doc
    return cls


def _checked(fields: dict[str, Any]) -> dict[str, Any]:
    # What starts with an underscore would be an option of `create_model`, not a field.
    wrong = [name for name in fields if not name.isidentifier() or name.startswith("_")]
    if wrong:
        raise _Unknown(f"{wrong[0]!r} cannot name a field")
    return fields


def _imported(path: str) -> Any:
    """The class at `module:Name`; None if it is not there."""
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None
