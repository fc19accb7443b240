"""Where something stands in a YAML file, and what PyYAML lets pass there."""

from __future__ import annotations

from pathlib import Path

import yaml

from moa_dspy.secrets import KeyPath

__all__ = ["line_of_error", "line_of_key", "problem", "refuse_twice", "twice"]


def refuse_twice(path: Path, node: yaml.Node, inside: tuple[yaml.Node, ...] = ()) -> None:
    """Refuse keys that stand twice, of which YAML and JSON readers silently take the last.

    Raises:
        ValueError: Naming the key and its line.
    """
    if any(node is outer for outer in inside):
        raise ValueError(f"{path}, line {node.start_mark.line + 1}: this holds itself, so it has no end.")
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise ValueError(f"{path}, line {key.start_mark.line + 1}: {twice(key.value)}")
            seen.add(str(key.value))
            refuse_twice(path, value, (*inside, node))
    elif isinstance(node, yaml.SequenceNode):
        for entry in node.value:
            refuse_twice(path, entry, (*inside, node))


def twice(key: str) -> str:
    """What is wrong with a key that stands twice."""
    return f"the key {key!r} is given twice, so one of the two would be ignored. Keep one."


def line_of_key(node: yaml.Node, path: KeyPath) -> int:
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


def line_of_error(error: yaml.YAMLError, text: str = "") -> int:
    """The line that PyYAML could not read."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return mark.line + 1 if mark is not None else text.count("\n", 0, getattr(error, "position", 0)) + 1


def problem(error: yaml.YAMLError) -> str:
    """What PyYAML did not like."""
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable")
