"""What a prompt asks for, read from any of DSPy's adapters, and a reply written the way that adapter parses it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

from dspy.lm15 import Message, Request

from moa_dspy.simulated.schemas import Schema, schema_of_annotation, schema_of_note, schema_of_xml

Style = Literal["chat", "json", "xml", "plain"]


@dataclass(frozen=True)
class Prompt:
    """A prompt, taken apart.

    Attributes:
        style: The adapter's format; `"plain"` for a prompt that no adapter wrote.
        instructions: The objective: what optimizers rewrite.
        inputs: Input field -> its text.
        outputs: Requested output field -> its JSON schema, in the order asked for.
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
        ('plain', {'prompt': 'What is 2+2?'}, {'answer': {'type': 'string'}})
    """
    system, turns = _turns(request)
    asked = turns[-1][0]
    demos = tuple(turns[:-1])
    # The last one counts: an input may quote such a sentence.
    style = max(_REQUESTS, key=lambda style: asked.rfind(_REQUESTS[style][0]))
    sentence, marker = _REQUESTS[style]
    values, found, wanted = asked.rpartition(sentence)
    first = re.match(marker, wanted)
    if not found or first is None:
        return Prompt("plain", system, {"prompt": asked}, {"answer": {"type": "string"}}, demos)
    names = [first[1], *re.findall(rf", then {marker}", wanted)]
    described = _describe(system, style)
    schemas = {**described.schemas, **_schemas_of_format(request.config.response_format)}
    outputs = {name: schemas.get(name, {"type": "string"}) for name in names}
    return Prompt(style, described.instructions, _values(values, described.inputs, style), outputs, demos)


def prompt_text(request: Request) -> str:
    r"""Return all the text of a request.

    Example:
        >>> from dspy.lm15 import Message, Request
        >>> prompt_text(Request(model="m", system="Be brief.", messages=(Message.user("Hello"),)))
        'Be brief.\nHello'
    """
    return "\n".join([_system_text(request), *map(_message_text, request.messages)])


def write_reply(style: Style, values: Mapping[str, Any]) -> str:
    r"""Write the values of the output fields as the adapter of this style parses them.

    Example:
        >>> write_reply("chat", {"answer": 4})
        '[[ ## answer ## ]]\n4\n\n[[ ## completed ## ]]'
    """
    if style == "json":
        return json.dumps(dict(values), ensure_ascii=False, indent=2)
    if style == "xml":
        return "\n\n".join(_xml(value, name) for name, value in values.items())
    if style == "plain":
        return "\n".join(map(_text, values.values()))
    sections = [f"[[ ## {name} ## ]]\n{_text(value)}" for name, value in values.items()]
    return "\n\n".join([*sections, "[[ ## completed ## ]]"])


# How each adapter closes its request, and how it spells a field there.
_REQUESTS: dict[Style, tuple[str, str]] = {
    "chat": ("Respond with the corresponding output fields, starting with the field ", r"`\[\[ ## (\w+) ## \]\]`"),
    "json": ("Respond with a JSON object in the following order of fields: ", r"`(\w+)`"),
    "xml": ("Respond with the corresponding output fields wrapped in XML tags ", r"`<(\w+)>`"),
}
_OBJECTIVE = "In adhering to this structure, your objective is:"
_NOTE = r"\{\w+\} +# note: the value you produce (.*)"


@dataclass(frozen=True)
class _Description:
    instructions: str
    inputs: tuple[str, ...]
    schemas: dict[str, Schema]


def _turns(request: Request) -> tuple[str, list[tuple[str, str]]]:
    """Return the system text, and each user turn with the answer to it (none to the last)."""
    texts = [_system_text(request)]
    turns: list[tuple[str, str]] = []
    for message in request.messages:
        if message.role == "developer":
            texts.append(_message_text(message))
        elif message.role == "assistant" and turns:
            turns[-1] = (turns[-1][0], _message_text(message))
        elif message.role == "user":
            turns.append((_message_text(message), ""))
    return "\n".join(texts), turns or [("", "")]


def _system_text(request: Request) -> str:
    system = request.system
    return system if isinstance(system, str) else "\n".join(str(getattr(part, "text", "")) for part in system or ())


def _message_text(message: Message) -> str:
    return "\n".join(str(getattr(part, "text", "")) for part in message.parts)


# Reading the same system message again for every question would cost more than all the rest.
@lru_cache(maxsize=256)
def _describe(system: str, style: Style) -> _Description:
    head, _, objective = system.partition(_OBJECTIVE)
    fields, _, structure = head.partition("All interactions will be structured in the following way")
    inputs, _, outputs = fields.partition("Your output fields are:")
    schemas = {name: schema_of_annotation(annotation) for name, annotation in _LISTED.findall(outputs)}
    for name, text in _structure(structure, style).items():
        note = re.fullmatch(_NOTE, text)
        if note:
            schemas[name] = schema_of_note(note[1])
        elif schemas.get(name) is None and style == "xml":
            schemas[name] = schema_of_xml(text)
    instructions = "\n".join(line.removeprefix(" " * 8) for line in objective.splitlines()).strip()
    known = {name: schema for name, schema in schemas.items() if schema is not None}
    return _Description(instructions, tuple(name for name, _ in _LISTED.findall(inputs)), known)


_LISTED = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)


def _structure(text: str, style: Style) -> dict[str, str]:
    """Return what the system message shows in the place of each field."""
    if style == "json":
        _, _, template = text.partition("Outputs will be a JSON object with the following fields.")
        try:
            shown = json.JSONDecoder().raw_decode(template.strip())[0]
        except ValueError:
            return {}
        return {name: str(value) for name, value in shown.items()} if isinstance(shown, dict) else {}
    pattern = r"^<(\w+)>\n?(.*)\n?</\1>$" if style == "xml" else r"^\[\[ ## (\w+) ## \]\]\n(.*)$"
    return dict(re.findall(pattern, text, re.MULTILINE))


def _schemas_of_format(response_format: Mapping[str, Any] | None) -> dict[str, Schema]:
    schema = (response_format or {}).get("schema")
    if not isinstance(schema, Mapping):
        return {}
    definitions = {"$defs": schema.get("$defs", {})}
    return {name: {**definitions, **field} for name, field in schema.get("properties", {}).items()}


def _values(text: str, names: Sequence[str], style: Style) -> dict[str, str]:
    """Return the values of the input fields; only declared fields count, and the first of each."""
    if style == "xml":
        found = ((name, re.search(rf"<{name}>\n(.*?)\n</{name}>", text, re.DOTALL)) for name in names)
        return {name: match[1] for name, match in found if match}
    parts = re.split(rf"^\[\[ ## ({'|'.join(names)}) ## \]\]$", text, flags=re.MULTILINE) if names else [text]
    values: dict[str, str] = {}
    for name, value in zip(parts[1::2], parts[2::2], strict=True):
        values.setdefault(name, value.strip())
    return values


def _text(value: object) -> str:
    if value is None:
        return "null"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def _xml(value: object, tag: str, key: str | None = None) -> str:
    attribute = f" key={quoteattr(key)}" if key is not None else ""
    if isinstance(value, list):
        inner = "".join(_xml(item, "item") for item in value)
    elif isinstance(value, dict):
        names = {str(name): item for name, item in value.items()}
        inner = "".join(
            _xml(item, name) if name.isidentifier() and name.isascii() else _xml(item, "entry", name)
            for name, item in names.items()
        )
    else:
        inner = "" if value is None else escape(str(value))
    return f"<{tag}{attribute}>{inner}</{tag}>"
