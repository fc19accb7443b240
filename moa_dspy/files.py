"""Files of settings: YAML and JSON in and out, refused in a sentence where they could only be misread."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

__all__ = ["FORMATS", "drafting", "dump_data", "format_of", "read_data"]

FORMATS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}

_MOST_ENTRIES, _MOST_DEPTH = 10_000, 50  # of YAML, written out; far more than any config has


def read_data(path: str | Path) -> dict[str, Any]:
    """Read a YAML or a JSON file that holds a mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds something else; names the file, and the line where there is one.
    """
    path = Path(path)
    kind = format_of(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {path.absolute().parent}).")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ValueError(f"{path} is no file that can be read, but {what}.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes().count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: this is not UTF-8. Save the file as UTF-8.") from None
    try:
        data = _parse_json(text) if kind == "JSON" else _parse_yaml(text)
    except RecursionError:
        raise ValueError(f"{path}: no valid {kind}: it is nested too deeply to be read.") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: no valid JSON: {error.msg}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{path}{_line_of(error, text)}: no valid YAML: {_problem_of(error)}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: no valid {kind}: {error}") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ValueError(f"{path} holds {found} where a mapping of settings belongs, such as `proposer_models: [...]`.")
    return data


def dump_data(data: Mapping[str, Any], kind: str) -> str:
    """The data as YAML, keys in their order, or as JSON."""
    if kind == "JSON":
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def format_of(path: Path) -> str:
    """Whether a file is YAML or JSON, by its name.

    Raises:
        ValueError: If its name says neither.
    """
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} is no config file by its name. It must end in {', '.join(FORMATS)}.")
    return FORMATS[path.suffix.lower()]


@contextmanager
def drafting(target: Path) -> Iterator[Path]:
    """A path beside the target to write to first: `os.replace(draft, target)` puts it there at once, or not at all.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If there is a folder of that name.
    """
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to save {target.name} in. Make it first.")
    if target.is_dir():
        raise ValueError(f"{target} is a folder, so no file can be saved there. Give the file another name.")
    with tempfile.TemporaryDirectory(prefix=".moa-", dir=target.parent) as folder:
        yield Path(folder, target.name)


def _parse_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in pairs:
            if key in data:
                raise ValueError(_twice(key))
            data[key] = value
        return data

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON. Write null.")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def _parse_yaml(text: str) -> Any:
    depth = entries = 0
    for event in yaml.parse(text, Loader=_Loader):  # before anything is built of it
        entries += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if entries > _MOST_ENTRIES or depth > _MOST_DEPTH:
            raise _refuse(event, f"this is more than a config can be ({_MOST_ENTRIES} entries, {_MOST_DEPTH} deep)")
    node = yaml.compose(text, Loader=_Loader)
    if node is None:
        return None
    _check_node(node, {})
    loader = _Loader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_node(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many entries a node has with its aliases written out; refuses keys that stand twice."""
    if id(node) in sizes:
        if sizes[id(node)] == 0:
            raise _refuse(node, "this holds itself, so it has no end")
        return sizes[id(node)]
    sizes[id(node)] = 0
    children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    size = 1 + (0 if isinstance(node, yaml.ScalarNode) else sum(_check_node(child, sizes) for child in children))
    if size > _MOST_ENTRIES:
        raise _refuse(node, f"its aliases unfold to more than {_MOST_ENTRIES} entries")
    if isinstance(node, yaml.MappingNode):
        seen: set[Hashable] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and (key.tag, key.value) in seen:
                raise _refuse(key, _twice(key.value).rstrip("."))
            seen.add((key.tag, str(key.value)))
    sizes[id(node)] = size
    return size


def _twice(key: str) -> str:
    return f"the key {key!r} is given twice, so one of the two would be ignored. Keep one."


def _refuse(where: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _line_of(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = mark.line if mark is not None else text.count("\n", 0, getattr(error, "position", 0))
    return f", line {line + 1}"


def _problem_of(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable")


class _Loader(yaml.SafeLoader):
    """Reads 1e-6 as a number, as YAML 1.2 and people do."""


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and line breaks that YAML would change as escapes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*[eE][-+]?\d+$"), list("-+0123456789")
    )
