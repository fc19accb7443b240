"""Prompts by any of DSPy's adapters: what they ask for, which proposals they show, how they want it written."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from xml.sax.saxutils import escape

from dspy.lm15 import Request

from moa_dspy.simulated.questions import same_answer

__all__ = ["THOUGHTS", "Prompt", "Schema", "Shown", "group", "prompt_text", "read_prompt", "read_proposals", "write"]

Style = Literal["chat", "json", "xml", "none"]
Schema = Mapping[str, Any]

THOUGHTS = frozenset({"reasoning", "rationale", "thought", "thoughts", "next_thought", "explanation", "discussion"})
"""The names of fields that say how an answer came about."""


@dataclass(frozen=True)
class Prompt:
    """A prompt, taken apart.

    Attributes:
        style: The adapter's format; `"none"` for a prompt that no adapter wrote.
        instructions: The objective: what optimizers rewrite.
        inputs: Input field -> its text.
        outputs: Requested output field -> its JSON schema without references, in the order asked for.
        demos: The earlier turns: what was asked and what was answered.
    """

    style: Style
    instructions: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, Schema]
    demos: Sequence[tuple[str, str]] = field(default=())


def read_prompt(request: Request) -> Prompt:
    """Take a request apart.

    Example:
        >>> from dspy.lm15 import Message, Request
        >>> prompt = read_prompt(Request(model="simulated/alice", messages=(Message.user("What is 2+2?"),)))
        >>> prompt.style, dict(prompt.inputs), dict(prompt.outputs)
        ('none', {'prompt': 'What is 2+2?'}, {'answer': {'type': 'string'}})
    """
    system = _text(request.system)
    *demos, (asked, _) = _turns(request)
    # The last one counts: an input may quote such a sentence.
    style = max(_REQUESTS, key=lambda style: asked.rfind(_REQUESTS[style]))
    values, found, _ = asked.rpartition(_REQUESTS[style])
    instructions, inputs, outputs = _describe(system, style)
    if not found or not outputs:
        return Prompt("none", system, {"prompt": asked}, {"answer": {"type": "string"}}, demos)
    return Prompt(style, instructions, _values(values, inputs, style), outputs, demos)


def prompt_text(request: Request) -> str:
    """Return all the text of a request."""
    return "\n".join([_text(request.system), *(_text(message.parts) for message in request.messages)])


def write(style: Style, values: Mapping[str, Any]) -> str:
    r"""Write the values of the output fields as the adapter of this style parses them.

    Example:
        >>> write("chat", {"answer": 4})
        '[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]'
    """
    if style == "json":
        return json.dumps(dict(values), ensure_ascii=False, indent=2)
    texts = {
        name: json.dumps(value, ensure_ascii=False) if value is None or isinstance(value, dict | list) else str(value)
        for name, value in values.items()
    }
    if style == "xml":
        # XMLAdapter reads JSON inside a tag.
        return "\n\n".join(f"<{name}>{escape(text)}</{name}>" for name, text in texts.items())
    if style == "chat":
        sections = [f"[[ ## {name} ## ]]\n{text}" for name, text in texts.items()]
        return "\n\n".join([*sections, "[[ ## completed ## ]]"])
    return "\n".join(texts.values())


@dataclass(frozen=True)
class Shown:
    """One proposal as an aggregator's prompt shows it: its label, how many gave it, and its fields as text."""

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
        Shown(label, int(support or 1), _sections(r"^(\w+): ?", body) or {"answer": body.strip()})
        for label, support, body in _PROPOSAL.findall(text)
    ]


def group(proposals: Sequence[Shown]) -> list[list[Shown]]:
    """Return the proposals grouped by equal answers, the most supported group first."""
    groups: list[list[Shown]] = []
    for proposal in proposals:
        same = next((found for found in groups if same_answer(found[0].answer, proposal.answer)), None)
        if same is None:
            groups.append([proposal])
        else:
            same.append(proposal)
    return sorted(groups, key=lambda found: -sum(proposal.support for proposal in found))


# How each adapter closes its request.
_REQUESTS: dict[Style, str] = {
    "chat": "Respond with the corresponding output fields, starting with the field ",
    "json": "Respond with a JSON object in the following order of fields: ",
    "xml": "Respond with the corresponding output fields wrapped in XML tags ",
}
_LISTED = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)
_PROPOSAL = re.compile(
    r"^Proposal (\w+)(?: \(given by (\d+) of \d+[^)]*\))?:\s*«««\n(.*?)\n?»»»",
    re.MULTILINE | re.DOTALL,
)


def _text(parts: object) -> str:
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        return "\n".join(str(getattr(part, "text", "")) for part in parts)
    return str(parts or "")


def _turns(request: Request) -> list[tuple[str, str]]:
    """Return what the user said at each turn and what was answered; nothing yet to the last."""
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
    """Return the instructions, the names of the inputs, and the outputs with their schemas."""
    head, _, objective = system.partition("In adhering to this structure, your objective is:")
    listed, _, structure = head.partition("All interactions will be structured in the following way")
    inputs, _, outputs = listed.partition("Your output fields are:")
    instructions = "\n".join(line.removeprefix(" " * 8) for line in objective.splitlines()).strip()
    schemas = _schemas(structure, style)
    named = {name: schemas.get(name, {"type": "string"}) for name in _LISTED.findall(outputs)}
    return instructions, _LISTED.findall(inputs), named


def _schemas(structure: str, style: Style) -> dict[str, Schema]:
    """Return the types that the adapter shows in the place of the fields; those of text it leaves out."""
    schemas: dict[str, Schema] = {}
    for name, note in re.findall(r"\{(\w+)\} +# note: the value you produce (.*)", structure):
        # JSONAdapter's note stands inside a JSON string.
        schemas[name] = _schema_of_note(json.loads('"' + note.rstrip(",")) if style == "json" else note)
    if style == "xml":
        for line, name in re.findall(r"^(<(\w+)>.+</\2>)$", structure, re.MULTILINE):
            # Of an object without named fields it shows nothing but dots.
            schemas[name] = _schema_of_element(ET.fromstring(line)) or {"type": "object"}
    return schemas


def _schema_of_note(note: str) -> Schema:
    opening, _, rest = note.partition(": ")
    if opening.endswith("one of"):
        return {"enum": rest.split("; ")}
    if opening.endswith("JSON schema"):
        schema = json.loads(rest)
        return _resolve(schema, schema.get("$defs", {}))
    return {"type": {"must be True or False": "boolean", "must be a single int value": "integer"}.get(note, "number")}


def _schema_of_element(element: ET.Element) -> Schema:
    """Return the schema of XMLAdapter's picture of a nested value, which shows names but no types."""
    children = {child.tag: _schema_of_element(child) for child in element}
    if set(children) == {"item"}:
        return {"type": "array", "items": children["item"]}
    return {"type": "object", "properties": children, "required": list(children)} if children else {}


def _resolve(schema: Any, definitions: Mapping[str, Any], inside: tuple[str, ...] = ()) -> Any:
    """Return the schema with its references written out; a model inside itself may be anything."""
    if isinstance(schema, list):
        return [_resolve(part, definitions, inside) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[-1]
        return {} if name in inside else _resolve(definitions[name], definitions, (*inside, name))
    return {key: _resolve(part, definitions, inside) for key, part in schema.items() if key != "$defs"}


def _values(text: str, names: Sequence[str], style: Style) -> dict[str, str]:
    """Return the values of the input fields; only declared fields count, and the first of each."""
    if style == "xml":
        found = ((name, re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)) for name in names)
        return {name: match[1] for name, match in found if match}
    return _sections(rf"^\[\[ ## ({'|'.join(names)}) ## \]\]$", text)


def _sections(heading: str, text: str) -> dict[str, str]:
    """Return what stands under each heading; of equal ones, under the first."""
    parts = re.split(heading, text, flags=re.MULTILINE)
    sections: dict[str, str] = {}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        sections.setdefault(name, value.strip())
    return sections
