"""The proposals that an aggregator's prompt shows: read, compared and taken apart."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moa_dspy.simulated.questions import same_answer

THOUGHTS = frozenset({"reasoning", "rationale", "thought", "thoughts", "next_thought", "explanation", "discussion"})
"""The names of fields that say how an answer came about."""


@dataclass(frozen=True)
class Shown:
    """One proposal as the prompt shows it: its label, how many gave it, and its fields as text."""

    label: str
    support: int
    fields: Mapping[str, str]

    @property
    def answer(self) -> str:
        """What it answers: the field of that name, else all that is no reasoning."""
        answers = {name: text for name, text in self.fields.items() if name not in THOUGHTS}
        return answers.get("answer", "\n".join(answers.values()))

    def gives(self, answer: str) -> bool:
        """Whether one of its fields is this answer, or a list of nothing else."""
        texts = (text.strip('[]"\n ') for name, text in self.fields.items() if name not in THOUGHTS)
        return any(same_answer(text, answer) for text in texts)


def read_proposals(text: str) -> list[Shown]:
    r"""Return the proposals shown in a text.

    Example:
        >>> read_proposals("Proposal P1 (given by 2 of 3 proposers):\n«««\nreasoning: ...\nanswer: 42\n»»»")
        [Shown(label='P1', support=2, fields={'reasoning': '...', 'answer': '42'})]
    """
    return [
        Shown(match["label"], int(match["support"] or 1), _fields(match["body"])) for match in _PROPOSAL.finditer(text)
    ]


def group(proposals: Sequence[Shown]) -> list[list[Shown]]:
    """Return the proposals grouped by equal answers, the most supported group first.

    Example:
        >>> one, two, three = (Shown(f"P{n}", 1, {"answer": text}) for n, text in enumerate(("4", "5", "4.0")))
        >>> [[shown.label for shown in same] for same in group([one, two, three])]
        [['P0', 'P2'], ['P1']]
    """
    groups: list[list[Shown]] = []
    for proposal in proposals:
        same = next((found for found in groups if same_answer(found[0].answer, proposal.answer)), None)
        if same is None:
            groups.append([proposal])
        else:
            same.append(proposal)
    return sorted(groups, key=lambda found: -sum(proposal.support for proposal in found))


def elements(proposals: Sequence[Shown], kept: Shown) -> list[dict[str, Any]]:
    """Return what the proposals say, field by field, with who says it and what was made of contradictions."""
    names = dict.fromkeys(name for proposal in proposals for name in proposal.fields if name not in THOUGHTS)
    found: list[dict[str, Any]] = []
    for name in names:
        saying = [
            Shown(shown.label, shown.support, {"answer": shown.fields[name]})
            for shown in proposals
            if name in shown.fields
        ]
        groups = group(saying)
        for same in groups:
            support = sum(shown.support for shown in same)
            kind = "contradiction" if len(groups) > 1 else "consensus" if support > 1 else "unique"
            stands = any(shown.label == kept.label for shown in same)
            found.append(
                {
                    "statement": f"{name}: {same[0].answer}",
                    "kind": kind,
                    "supported_by": [shown.label for shown in same],
                    "resolution": None if kind != "contradiction" else "It stands." if stands else "It was dropped.",
                }
            )
    return found


_PROPOSAL = re.compile(
    r"^Proposal (?P<label>\w+)(?: \(given by (?P<support>\d+) of \d+[^)]*\))?:\s*«««\n(?P<body>.*?)\n?»»»",
    re.MULTILINE | re.DOTALL,
)


def _fields(body: str) -> dict[str, str]:
    names, texts = re.findall(r"^(\w+): ?", body, re.MULTILINE), re.split(r"^\w+: ?", body, flags=re.MULTILINE)[1:]
    fields: dict[str, str] = {}
    for name, text in zip(names, texts, strict=True):
        fields.setdefault(name, text.strip())
    return fields or {"answer": body.strip()}
