"""Configs as files: YAML and JSON in and out, and errors that name the file and the line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from moa_dspy.config.lines import line_of_error, line_of_key, problem, refuse_twice, twice
from moa_dspy.secrets import KeyPath

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
        return "\n".join(self._explain(found["loc"], found["msg"]) for found in error.errors())

    def _explain(self, path: KeyPath, message: str) -> str:
        where = ", ".join(f"entry {step + 1}" if isinstance(step, int) else str(step) for step in path)
        line = "" if self.node is None else f", line {line_of_key(self.node, path)}"
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
        refuse_twice(path, node)
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
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def to_json(data: Mapping[str, Any]) -> str:
    """The data as JSON."""
    return json.dumps(data, indent=2, ensure_ascii=False) + "\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and line breaks that YAML would change as escapes."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _text)


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
        raise ValueError(f"{path}, line {line_of_error(error, text)}: no valid YAML: {problem(error)}.") from None


def _yaml(path: Path, node: yaml.Node | None) -> Any:
    if node is None:
        return None
    try:
        return yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}, line {line_of_error(error)}: no valid YAML: {problem(error)}.") from None


def _json(path: Path, text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for index, (key, _) in enumerate(pairs):
            if key in dict(pairs[:index]):
                raise ValueError(f"{path}: {twice(key)}")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no valid JSON: {error.msg}.") from None
