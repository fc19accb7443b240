"""A proposal, and how proposals are shown to a model: anonymous, fenced, in seeded order."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer
from pydantic_core import to_json, to_jsonable_python

__all__ = ["Exhibit", "Proposal", "exhibit", "seed_of"]

OPEN, CLOSE = "«««", "»»»"


class Proposal(BaseModel):
    """One agent's answer to the task.

    Attributes:
        id: Unique within a call: the agent's name, then `#2`, `#3`, ... for its further samples.
        agent: The agent's name.
        model: Its LM's model name; None for a module that brings LMs of its own.
        layer: The layer it answered in, from 1.
        sample: The number of the sample, from 1.
        outputs: The task's output fields, typed as the signature says.
        reasoning: How the agent came to it, where the agent says so.
        seconds: Wall time.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    agent: str
    model: str | None = None
    layer: int = 1
    sample: int = 1
    outputs: dict[str, Any]
    reasoning: str | None = None
    seconds: float = Field(default=0.0, ge=0)

    @field_serializer("outputs", when_used="json")
    def _jsonable(self, outputs: dict[str, Any]) -> Any:
        return to_jsonable_python(outputs, fallback=str)


@dataclass(frozen=True)
class Exhibit:
    """Proposals as a model sees them.

    Attributes:
        text: What goes into the prompt.
        labels: Label shown -> the proposals behind it, in declared order (several if they are identical).
        shortened: Proposal id -> characters left out.
    """

    text: str
    labels: dict[str, list[Proposal]]
    shortened: dict[str, int] = field(default_factory=dict)

    @property
    def order(self) -> list[str]:
        """The ids in the order shown, the first of identical ones."""
        return [group[0].id for group in self.labels.values()]


def exhibit(
    proposals: Sequence[Proposal],
    *,
    seed: int,
    rotation: int = 0,
    limit: int | None = None,
    field_names: Sequence[str] = (),
) -> Exhibit:
    """Lay proposals out for a model.

    Args:
        proposals: In declared order. Those with identical outputs are shown once, with their count.
        seed: Fixes the order shown; take it from the inputs (`seed_of`), so that the same question
            makes the same prompt and hits the cache.
        rotation: By how many places the order is turned.
        limit: The most characters that the proposals may take; the longest are shortened first,
            reasoning before outputs, and say so.
        field_names: The prompt's field names; tags of these names inside a proposal are escaped.

    Returns:
        The text and what stands behind each of its labels.
    """
    groups = _identical(proposals)
    random.Random(seed).shuffle(groups)
    if groups:
        turn = rotation % len(groups)
        groups = groups[turn:] + groups[:turn]
    escape = _escaper(field_names)
    reasonings = [escape(group[0].reasoning or "") for group in groups]
    outputs = [escape(_render(group[0].outputs)) for group in groups]
    kept_reasonings, kept_outputs = _fit(reasonings, outputs, limit)
    blocks, labels, shortened = [], {}, {}
    for number, group in enumerate(groups):
        label = f"P{number + 1}"
        labels[label] = group
        body = kept_outputs[number]
        if kept_reasonings[number]:
            body = f"reasoning: {kept_reasonings[number]}\n{body}"
        count = f" (given by {len(group)} of {len(proposals)} proposers)" if len(group) > 1 else ""
        blocks.append(f"Proposal {label}{count}:\n{OPEN}\n{body}\n{CLOSE}")
        lost = _lost(reasonings[number], kept_reasonings[number]) + _lost(outputs[number], kept_outputs[number])
        if lost:
            shortened.update({proposal.id: lost for proposal in group})
    return Exhibit("\n\n".join(blocks), labels, shortened)


def seed_of(inputs: Mapping[str, Any]) -> int:
    """A seed that is the same for the same inputs, in every process."""
    canonical = json.dumps(to_jsonable_python(dict(inputs), fallback=_stable), sort_keys=True, ensure_ascii=False)
    return int.from_bytes(hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _stable(value: Any) -> str:
    # The default repr holds an address, which differs between processes.
    return type(value).__qualname__ if type(value).__repr__ is object.__repr__ else repr(value)


def _identical(proposals: Sequence[Proposal]) -> list[list[Proposal]]:
    groups: dict[bytes, list[Proposal]] = {}
    for proposal in proposals:
        key = to_json(proposal.outputs, fallback=repr)
        groups.setdefault(key, []).append(proposal)
    return list(groups.values())


def _render(outputs: Mapping[str, Any]) -> str:
    return "\n".join(f"{name}: {_text(value)}" for name, value in outputs.items())


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    plain = to_jsonable_python(value, fallback=str)
    if isinstance(plain, str):
        return plain
    # Indented, and with real line breaks: escaped ones are hard to read, for models too.
    return json.dumps(plain, ensure_ascii=False, indent=2).replace("\\n", "\n")


def _escaper(field_names: Sequence[str]) -> Any:
    """Make it impossible for a proposal to close its fence or to forge a field of the prompt."""
    tags = re.compile(rf"<(?=/?\s*(?:{'|'.join(map(re.escape, field_names))})\s*>)") if field_names else None

    def escape(text: str) -> str:
        text = text.replace(OPEN, "‹‹‹").replace(CLOSE, "›››")
        text = re.sub(r"\[(?=\[\s*##)", "[ ", text)
        text = re.sub(r"(##\s*\])(?=\])", r"\1 ", text)
        return tags.sub("&lt;", text) if tags else text

    return escape


def _fit(reasonings: list[str], outputs: list[str], limit: int | None) -> tuple[list[str], list[str]]:
    if limit is None or sum(map(len, reasonings + outputs)) <= limit:
        return reasonings, outputs
    room = max(0, limit - sum(map(len, outputs)))
    kept = _shorten(reasonings, room)
    return kept, _shorten(outputs, max(0, limit - sum(map(len, kept))))


def _shorten(texts: list[str], limit: int) -> list[str]:
    """Cut the longest down to a common length that makes all of them fit."""
    if sum(map(len, texts)) <= limit:
        return texts
    room, length = limit, 0
    lengths = sorted(map(len, texts))
    for position, size in enumerate(lengths):
        length = room // (len(lengths) - position)
        if size > length:
            break
        room -= size
    return [_cut(text, length) for text in texts]


def _cut(text: str, length: int) -> str:
    if len(text) <= length:
        return text
    # Beginning and end carry most: the claim stands first, the result last.
    head = length * 2 // 3
    tail = length - head
    return f"{text[:head]} [... {len(text) - length} characters left out ...] {text[len(text) - tail :]}"


def _lost(text: str, kept: str) -> int:
    if text == kept:
        return 0
    match = re.search(r"\[\.\.\. (\d+) characters left out \.\.\.\]", kept)
    return int(match[1]) if match else len(text)
