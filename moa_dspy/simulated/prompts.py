"""Prompts by DSPy's adapters: what they ask for, which proposals they show, and how they want the answer written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from dspy.lm15 import Request
from pydantic import TypeAdapter, ValidationError

from moa_dspy.simulated.questions import same_answer

__all__ = ["THOUGHTS", "Prompt", "ShownProposal", "fit", "prompt_text", "read_prompt", "read_proposals", "write"]

Style = Literal["chat", "json", "none"]
Schema = Mapping[str, Any]

THOUGHTS = frozenset({"reasoning", "rationale", "thought", "next_thought", "explanation", "discussion"})
"""The names of fields that say how an answer came about."""
# How each adapter closes its request.
_REQUESTS: dict[Style, str] = {
    "chat": "Respond with the corresponding output fields, starting with the field ",
    "json": "Respond with a JSON object in the following order of fields: ",
}
_LISTED = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)
_NOTED = re.compile(r"\{(\w+)\} +# note: the value you produce (.*)")
_PROPOSAL = re.compile(
    r"^Proposal (\w+)(?: \(given by (\d+) of \d+[^)]*\))?:\s*«««\n(.*?)\n?»»»", re.DOTALL | re.MULTILINE
)
_PYTHON_TYPES: dict[str, type] = {"integer": int, "number": float, "boolean": bool, "object": dict}


@dataclass(frozen=True)
class Prompt:
    """A prompt, taken apart."""

    style: Style  # "none": none of these adapters wrote it
    instructions: str  # what optimizers rewrite
    inputs: Mapping[str, str]
    outputs: Mapping[str, Schema]  # in the order asked for
    demos: Sequence[tuple[str, str]]  # the earlier turns: what was asked and what was answered


def read_prompt(request: Request) -> Prompt:
    """Take a request apart."""
    system = _text(request.system)
    *demos, (asked, _) = _turns(request)
    # The last one counts: an input may quote such a sentence.
    style = max(_REQUESTS, key=lambda style: asked.rfind(_REQUESTS[style]))
    values, found, _ = asked.rpartition(_REQUESTS[style])
    instructions, inputs, outputs = _describe(system, style)
    if not found or not outputs:
        return Prompt("none", system, {"prompt": asked}, {"answer": {"type": "string"}}, demos)
    # Only declared fields count: an input may quote the heading of another.
    sections = _sections(rf"^\[\[ ## ({'|'.join(inputs)}) ## \]\]$", values)
    return Prompt(style, instructions, sections, outputs, demos)


def prompt_text(request: Request) -> str:
    """All the text of a request."""
    return "\n".join([_text(request.system), *(_text(message.parts) for message in request.messages)])


@dataclass(frozen=True)
class ShownProposal:
    """One proposal as an aggregator's prompt shows it: its label, how many gave it, and its fields as text."""

    label: str
    support: int
    fields: Mapping[str, str]

    @property
    def answers(self) -> dict[str, str]:
        """Its fields without the reasoning."""
        return {name: text for name, text in self.fields.items() if name not in THOUGHTS}

    @property
    def answer(self) -> str:
        """What it answers: the field of that name, else all its fields."""
        return self.answers.get("answer", "\n".join(self.answers.values()))

    def gives(self, answer: str) -> bool:
        """Whether one of its fields is this answer, or a list of nothing else."""
        return any(same_answer(text.strip('[]"\n '), answer) for text in self.answers.values())


def read_proposals(text: str) -> list[ShownProposal]:
    """The proposals shown in a text."""
    return [
        ShownProposal(label, int(support or 1), _sections(r"^(\w+): ?", body) or {"answer": body.strip()})
        for label, support, body in _PROPOSAL.findall(text)
    ]


def fit(value: object, schema: Schema) -> Any:
    """The value in the type of the schema, or the simplest value of that type.

    Examples:
        >>> fit("300", {"type": "integer"}), fit("Ankara", {"type": "integer"}), fit("Ankara", {"type": "array"})
        (300, 0, ['Ankara'])
    """
    if "enum" in schema:
        same = [option for option in schema["enum"] if same_answer(str(option), str(value))]
        # "finish" is the way out of a loop over tools, as in ReAct.
        return [*same, *({"finish"} & set(schema["enum"])), *schema["enum"]][0]
    try:  # proposals are shown with real line breaks inside strings
        parsed = json.loads(value, strict=False) if isinstance(value, str) else value
    except ValueError:
        parsed = value
    kind = schema.get("type", "")
    if kind == "array":
        items = parsed if isinstance(parsed, list) else [] if value is None else [value]
        return [fit(item, schema.get("items", {})) for item in items]
    if kind not in _PYTHON_TYPES:
        return value
    try:
        return TypeAdapter(_PYTHON_TYPES[kind]).validate_python(parsed)
    except ValidationError:
        return _PYTHON_TYPES[kind]()


def write(style: Style, values: Mapping[str, Any]) -> str:
    """The output fields as the adapter of this style parses them."""
    if style == "json":
        return json.dumps(values, ensure_ascii=False, indent=2)
    texts = {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
        for name, value in values.items()
    }
    if style == "none":
        return "\n".join(texts.values())
    sections = [f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


def _text(parts: object) -> str:
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        return "\n".join(str(getattr(part, "text", "")) for part in parts)
    return str(parts or "")


def _turns(request: Request) -> list[tuple[str, str]]:
    """What the user said at each turn and what was answered; nothing yet to the last."""
    turns: list[tuple[str, str]] = []
    for message in request.messages:
        if message.role == "user":
            turns.append((_text(message.parts), ""))
        elif message.role == "assistant" and turns:
            turns[-1] = turns[-1][0], _text(message.parts)
    return turns or [("", "")]


# Reading the same system message again for every question would cost more than all the rest.
@lru_cache(maxsize=256)
def _describe(system: str, style: Style) -> tuple[str, list[str], dict[str, Schema]]:
    """The instructions, the names of the inputs, and the outputs with their schemas."""
    head, _, objective = system.partition("In adhering to this structure, your objective is:")
    listed, _, structure = head.partition("All interactions will be structured in the following way")
    inputs, _, outputs = listed.partition("Your output fields are:")
    instructions = "\n".join(line.removeprefix(" " * 8) for line in objective.splitlines()).strip()
    # The adapters note the types of all fields but those of text.
    schemas: dict[str, Schema] = {name: {"type": "string"} for name in _LISTED.findall(outputs)}
    for name, note in _NOTED.findall(structure):
        # JSONAdapter's note stands inside a JSON string.
        schemas[name] = _schema(json.loads('"' + note.rstrip(",")) if style == "json" else note)
    return instructions, _LISTED.findall(inputs), schemas


def _schema(note: str) -> Schema:
    opening, _, rest = note.partition(": ")
    if opening.endswith("one of"):
        return {"enum": rest.split("; ")}
    if opening.endswith("JSON schema"):
        return json.loads(rest)
    return {"type": {"must be True or False": "boolean", "must be a single int value": "integer"}.get(note, "number")}


def _sections(heading: str, text: str) -> dict[str, str]:
    """What stands under each heading; of equal ones, under the first."""
    pieces = re.split(heading, text, flags=re.MULTILINE)
    sections: dict[str, str] = {}
    for name, value in zip(pieces[1::2], pieces[2::2], strict=True):
        sections.setdefault(name, value.strip())
    return sections
