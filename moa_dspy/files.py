"""Files of settings: YAML and JSON in and out, refused in a sentence where they could only be misread."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

__all__ = ["drafting", "dump_data", "format_of", "parse_json", "read_data", "require_file"]

_FORMATS = {".yaml": "YAML", ".yml": "YAML", ".json": "JSON"}

_MOST_BYTES = {"YAML": 2**20, "JSON": 2**28}  # compiled mixtures are JSON, and hold demos
_MOST_ENTRIES = 10_000  # of YAML with its aliases written out; far more than any config has


def read_data(path: str | Path) -> dict[str, Any]:
    """Read a YAML or a JSON file that holds a mapping."""
    path = Path(path)
    kind = format_of(path)
    require_file(path)
    most = _MOST_BYTES[kind]
    if path.stat().st_size > most:
        raise ValueError(f"{path} is larger than any config, over {most // 2**20} MB. Is it the file that you mean?")
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = parse_json(text) if kind == "JSON" else yaml.load(text, Loader=_Loader)
    except UnicodeDecodeError:
        raise ValueError(f"{path}: this is not UTF-8. Save the file as UTF-8.") from None
    except RecursionError:
        raise ValueError(f"{path}: no valid {kind}: it is nested too deeply to be read.") from None
    except yaml.YAMLError as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"{path}{line}: no valid YAML: {problem or 'it holds characters that it cannot'}.") from None
    except ValueError as error:
        raise ValueError(f"{path}: no valid {kind}: {error}.") from None
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        raise ValueError(f"{path} holds {found} where a mapping of settings belongs, such as `proposer_models: [...]`.")
    return data


def require_file(path: Path) -> None:
    """Refuse what would give no end of bytes, or none at all."""
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path} (looked in {path.absolute().parent}).")
    if not path.is_file():
        raise ValueError(f"{path} is no file that can be read, but a folder, a pipe or a device.")


def dump_data(data: Mapping[str, Any], kind: str) -> str:
    """The data as YAML, keys in their order, or as JSON."""
    if kind == "JSON":
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def format_of(path: Path) -> str:
    """Whether a file is YAML or JSON, by its name."""
    if path.suffix.lower() not in _FORMATS:
        raise ValueError(f"{path} is no config file by its name. It must end in {', '.join(_FORMATS)}.")
    return _FORMATS[path.suffix.lower()]


@contextmanager
def drafting(target: Path) -> Iterator[Path]:
    """A path beside the target to write to: at the end it takes the target's place at once, or after an error never."""
    if not target.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {target.parent} to save {target.name} in. Make it first.")
    if target.is_dir():
        raise ValueError(f"{target} is a folder, so no file can be saved there. Give the file another name.")
    with tempfile.TemporaryDirectory(prefix=".moa-", dir=target.parent) as folder:
        draft = Path(folder, target.name)
        yield draft
        with open(draft, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)


def parse_json(text: str) -> Any:
    """The data of a JSON text; ValueError where a key stands twice, or for NaN."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        data = dict(pairs)
        if len(data) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(_twice(next(key for key in keys if keys.count(key) > 1)))
        return data

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON, write null")

    return json.loads(text, object_pairs_hook=unique, parse_constant=refuse)


def _check_node(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many entries a node has with its aliases written out; refuses keys that stand twice."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_ENTRIES  # what holds itself has no end
        children = node.value
        if isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
            keys = [(key.tag, str(key.value)) for key, _ in node.value]
            if len(set(keys)) < len(keys):
                index = next(index for index, key in enumerate(keys) if key in keys[:index])
                raise _refuse(node.value[index][0], _twice(keys[index][1]))
        sizes[id(node)] = 1 + sum(_check_node(child, sizes) for child in children)
        if sizes[id(node)] > _MOST_ENTRIES:
            raise _refuse(node, f"this is more than a config can be, over {_MOST_ENTRIES} entries")
    return sizes[id(node)]


def _twice(key: str) -> str:
    return f"the key {key!r} is given twice, so one of the two would be ignored"


def _refuse(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Loader(yaml.SafeLoader):
    """Reads 1e-6 as a number, as YAML 1.2 and people do, and only what a config can be."""

    def compose_document(self) -> Any:
        node: Any = super().compose_document()
        _check_node(node, {})
        return node


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as such, and line breaks that YAML would change as escapes."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if re.search("[\r\x85\u2028\u2029\ufeff]", text) else "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represent_text)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d[\d_]*[eE][-+]?\d+$"), list("-+0123456789")
    )
