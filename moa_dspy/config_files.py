"""Configs as files: YAML and JSON in and out, and errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from moa_dspy.config_secrets import KeyPath

__all__ = ["Document", "as_text", "read", "to_json", "to_yaml"]

FORMATS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}


@dataclass(frozen=True)
class Document:
    """What a file holds, and where."""

    path: Path
    data: Mapping[str, Any]
    node: yaml.Node | None

    def explain(self, error: ValidationError) -> str:
        """What is wrong, line by line of the file."""
        return "\n".join(self._explain(problem["loc"], problem["msg"]) for problem in error.errors())

    def _explain(self, path: KeyPath, message: str) -> str:
        where = ", ".join(f"entry {step + 1}" if isinstance(step, int) else str(step) for step in path)
        line = "" if self.node is None else f", line {_line(self.node, path)}"
        return f"{self.path}{line}: {f'{where}: ' if where else ''}{message}"


def read(path: str | Path) -> Document:
    """Read a YAML or a JSON file that holds a mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else; names the file, and the line where there is one.
    """
    path = Path(path)
    kind = _format(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no config file {path} (looked in {path.absolute().parent}).")
    text = _decoded(path)
    node = _composed(path, text, lenient=kind == "JSON")
    if node is not None:
        _refuse_twice(path, node)
    data = _json(path, text) if kind == "JSON" else _yaml(path, node)
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ValueError(f"{path} holds {found} where a mapping of settings belongs, such as `proposer_models: [...]`.")
    return Document(path, data, node)


def as_text(path: str | Path, data: Mapping[str, Any]) -> str:
    """The data in the format that the file's name asks for."""
    return to_json(data) if _format(Path(path)) == "JSON" else to_yaml(data)


def to_yaml(data: Mapping[str, Any]) -> str:
    """The data as YAML, keys in their order."""
    return yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=100)


def to_json(data: Mapping[str, Any]) -> str:
    """The data as JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


def _format(path: Path) -> str:
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} is no config file by its name. It must end in {', '.join(FORMATS)}.")
    return FORMATS[path.suffix.lower()]


def _decoded(path: Path) -> str:
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8. Save the file as UTF-8.") from None


def _composed(path: Path, text: str, lenient: bool) -> yaml.Node | None:
    """The file with the lines of its keys; JSON is read as YAML here, where it can be."""
    try:
        # A tab in JSON is white space; in YAML it is none.
        return yaml.compose(text.replace("\t", " ") if lenient else text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        if lenient:
            return None
        raise ValueError(f"{path}, line {_line_of(error, text)}: no valid YAML: {_problem(error)}.") from None


def _yaml(path: Path, node: yaml.Node | None) -> Any:
    if node is None:
        return None
    try:
        return yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}, line {_line_of(error)}: no valid YAML: {_problem(error)}.") from None


def _json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for index, (key, _) in enumerate(pairs):
            if key in dict(pairs[:index]):
                raise ValueError(f"{path}: {_twice(key)}")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no valid JSON: {error.msg}.") from None


def _refuse_twice(path: Path, node: yaml.Node, inside: tuple[yaml.Node, ...] = ()) -> None:
    """Refuse keys that stand twice, of which YAML and JSON readers silently take the last."""
    if any(node is outer for outer in inside):
        raise ValueError(f"{path}, line {node.start_mark.line + 1}: this holds itself, so it has no end.")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ValueError(f"{path}, line {key.start_mark.line + 1}: {_twice(key.value)}")
            seen.add(str(key.value))
            _refuse_twice(path, value, (*inside, node))
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            _refuse_twice(path, entry, (*inside, node))


def _twice(key: str) -> str:
    return f"the key {key!r} is given twice, so one of the two would be ignored. Keep one."


def _line(node: yaml.Node, path: KeyPath) -> int:
    """The line of the key at this path, or of the nearest one around it."""
    line = node.start_mark.line
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = [(key, value) for key, value in node.value if key.value == str(step)]
            if not found:
                break
            key, node = found[-1]
            line = key.start_mark.line
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
            node = node.value[step]
            line = node.start_mark.line
    return line + 1


def _line_of(error: yaml.YAMLError, text: str = "") -> int:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark is not None else text.count("\n", 0, getattr(error, "position", 0)) + 1


def _problem(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable")
