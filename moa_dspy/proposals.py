"""A proposal, and how proposals are shown to a model: anonymous, fenced, in seeded order."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from moa_dspy.escaping import CLOSE, OPEN, Escape, escaper
from moa_dspy.plain import as_json, as_text, plain
from moa_dspy.shortening import fit
from moa_dspy.signatures import PROPOSALS, REASONING

__all__ = ["Exhibit", "Proposal", "exhibit", "identical", "seed_of"]


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

    @field_serializer("outputs", "reasoning", when_used="json")
    def _jsonable(self, value: Any) -> Any:
        return plain(value)


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
    groups = identical(proposals)
    random.Random(seed).shuffle(groups)
    if groups:
        turn = rotation % len(groups)
        groups = groups[turn:] + groups[:turn]
    labels = {f"P{number}": group for number, group in enumerate(groups, start=1)}
    parts = [REASONING, *(name for group in groups for name in group[0].outputs)]
    escape = escaper([PROPOSALS, REASONING, *field_names], parts)
    reasonings, outputs = fit(
        [escape(as_text(_reasoning(group))) for group in groups],
        [_render(group[0].outputs, escape) for group in groups],
        limit,
    )
    blocks, shortened = [], {}
    for (label, group), reasoning, output in zip(labels.items(), reasonings, outputs, strict=True):
        count = f" (given by {len(group)} of {len(proposals)} proposers)" if len(group) > 1 else ""
        thought = f"{REASONING}: {reasoning.text}\n" if reasoning.text else ""
        blocks.append(f"Proposal {label}{count}:\n{OPEN}\n{thought}{output.text}\n{CLOSE}")
        if lost := reasoning.lost + output.lost:
            shortened.update({proposal.id: lost for proposal in group})
    return Exhibit("\n\n".join(blocks), labels, shortened)


def identical(proposals: Sequence[Proposal]) -> list[list[Proposal]]:
    """The proposals, those whose outputs are shown alike together, in declared order."""
    groups: dict[str, list[Proposal]] = {}
    for proposal in proposals:
        groups.setdefault(as_json(proposal.outputs, _itself), []).append(proposal)
    return list(groups.values())


def seed_of(inputs: Mapping[str, Any]) -> int:
    """A seed that is the same for the same inputs, in every process."""
    return int.from_bytes(hashlib.sha256(as_json(dict(inputs)).encode()).digest()[:8], "big")


def _itself(value: Any) -> str:
    # What cannot be hashed may be cut in its repr, as large tables are: alike there is not the same.
    return repr(value) if isinstance(value, Hashable) else f"{type(value)} {id(value)}"


def _reasoning(group: Sequence[Proposal]) -> str:
    return next((proposal.reasoning for proposal in group if proposal.reasoning), "")


def _render(outputs: Mapping[str, Any], escape: Escape) -> str:
    return "\n".join(f"{name}: {escape(as_text(value))}" for name, value in outputs.items())
