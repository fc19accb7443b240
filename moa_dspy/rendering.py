"""Proposals as a model sees them: anonymous, in seeded order, fenced, escaped, shortened to what fits."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy

from moa_dspy.escaping import CLOSE, OPEN, Escape, escaper
from moa_dspy.models import context_window
from moa_dspy.results import Proposal
from moa_dspy.signatures import PROPOSALS, REASONING
from moa_dspy.values import as_text, hash_of, to_json

__all__ = ["SHORTEST", "Rendering", "escape_inputs", "group_identical", "limit_for", "render", "seed_of"]

SHORTEST = 400
"""Characters of proposals below which shortening them further is of no use."""

# English has about four characters a token; fewer are assumed, for code and for other languages.
_CHARACTERS_PER_TOKEN = 3
_ANSWER_TOKENS = 4096
_MEDIA = (dspy.Image, dspy.Audio, dspy.File)


@dataclass(frozen=True)
class Rendering:
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


def render(
    proposals: Sequence[Proposal],
    *,
    seed: int,
    rotation: int = 0,
    limit: int | None = None,
    field_names: Sequence[str] = (),
) -> Rendering:
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
    groups = group_identical(proposals)
    random.Random(seed).shuffle(groups)
    if groups:
        turn = rotation % len(groups)
        groups = groups[turn:] + groups[:turn]
    labels = {f"P{number}": group for number, group in enumerate(groups, start=1)}
    names = dict.fromkeys(name for group in groups for name in group[0].outputs)
    escape = escaper((PROPOSALS, REASONING, *field_names), (REASONING, *names))
    reasonings, outputs = _fit(
        [escape(as_text(_reasoning(group))) for group in groups],
        [_lines(group[0].outputs, escape) for group in groups],
        limit,
    )
    blocks, shortened = [], {}
    for (label, group), reasoning, output in zip(labels.items(), reasonings, outputs, strict=True):
        count = f" (given by {len(group)} of {len(proposals)} proposers)" if len(group) > 1 else ""
        thought = f"{REASONING}: {reasoning.text}\n" if reasoning.text else ""
        blocks.append(f"Proposal {label}{count}:\n{OPEN}\n{thought}{output.text}\n{CLOSE}")
        if lost := reasoning.lost + output.lost:
            shortened.update({proposal.id: lost for proposal in group})
    return Rendering("\n\n".join(blocks), labels, shortened)


def group_identical(proposals: Sequence[Proposal]) -> list[list[Proposal]]:
    """The proposals, those whose outputs are shown alike together, in declared order."""
    groups: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        groups.setdefault(to_json(proposal.outputs, _name_itself), []).append(proposal)
    return list(groups.values())


def escape_inputs(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The task's inputs as they stand beside proposals: texts in them, in lists and dicts too, cannot forge any."""
    return {name: _escaped(value, escaper((PROPOSALS,))) for name, value in inputs.items()}


def seed_of(inputs: Mapping[str, Any]) -> int:
    """A seed that is the same for the same inputs, in every process."""
    return int(hash_of(dict(inputs)), 16)


def limit_for(lm: dspy.BaseLM | None, inputs: Mapping[str, Any], proposals: Sequence[Proposal]) -> int | None:
    """How many characters of proposals a model's context window has room for; None if all fit, or it is not known."""
    size = sum(len(str(proposal.outputs)) + len(proposal.reasoning or "") for proposal in proposals)
    if lm is None or size < _ANSWER_TOKENS:
        return None
    window = context_window(lm.model)
    if window is None:
        return None
    answer = lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens") or _ANSWER_TOKENS
    characters = (window - min(answer, window // 2)) * _CHARACTERS_PER_TOKEN
    # Media are counted by their providers in another way, and far lower than by their text.
    return max(SHORTEST, characters - sum(len(str(v)) for v in inputs.values() if not isinstance(v, _MEDIA)))


def _escaped(value: Any, escape: Escape) -> Any:
    if type(value) is str:
        return escape(value)
    if type(value) in (list, tuple):
        return type(value)(_escaped(item, escape) for item in value)
    is_dict = type(value) is dict
    return {_escaped(key, escape): _escaped(item, escape) for key, item in value.items()} if is_dict else value


def _name_itself(value: Any) -> str:
    # What cannot be hashed may be cut in its repr, as large tables are: alike there is not the same.
    return repr(value) if isinstance(value, Hashable) else f"{type(value)} {id(value)}"


def _reasoning(group: Sequence[Proposal]) -> str:
    return next((proposal.reasoning for proposal in group if proposal.reasoning), "")


def _lines(outputs: Mapping[str, Any], escape: Escape) -> str:
    return "\n".join(f"{name}: {escape(as_text(value))}" for name, value in outputs.items())


@dataclass(frozen=True)
class _Shortened:
    """A text, and how many of its characters are left out."""

    text: str
    lost: int = 0


def _fit(
    reasonings: Sequence[str], outputs: Sequence[str], limit: int | None
) -> tuple[list[_Shortened], list[_Shortened]]:
    """Shorten texts until all fit: reasoning before outputs, and of each kind the longest first."""
    if limit is None:
        return [_Shortened(text) for text in reasonings], [_Shortened(text) for text in outputs]
    length = _common_length(reasonings, max(0, limit - sum(map(len, outputs))))
    taken = sum(min(len(text), length) for text in reasonings)
    rest = _common_length(outputs, max(0, limit - taken))
    return [_cut(text, length) for text in reasonings], [_cut(text, rest) for text in outputs]


def _common_length(texts: Sequence[str], limit: int) -> int:
    """The length to which the longest are cut, so that all fit."""
    room, length = limit, 0
    lengths = sorted(map(len, texts))
    for position, size in enumerate(lengths):
        length = room // (len(lengths) - position)
        if size > length:
            return length
        room -= size
    return max(lengths, default=0)


def _cut(text: str, length: int) -> _Shortened:
    lost = len(text) - length
    # Beginning and end carry most: the claim stands first, the result last.
    head = length * 2 // 3
    cut = f"{text[:head]} [... {lost} characters left out ...] {text[head + lost :]}"
    return _Shortened(cut, lost) if len(cut) < len(text) else _Shortened(text)
