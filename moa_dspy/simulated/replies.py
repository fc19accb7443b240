"""The reply of a simulated model: every field asked for, in its type; for optimizers, better instructions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

from dspy.lm15 import Request

from moa_dspy.simulated.mind import Belief, believe, improve
from moa_dspy.simulated.models import SimulatedModel
from moa_dspy.simulated.prompts import THOUGHTS, Prompt, Schema, Shown, group, read_prompt, write
from moa_dspy.simulated.questions import read_number, same_answer

__all__ = ["reply"]

# What output fields are called that ask for the label of a proposal, for how sure the model is from 0 to 1, and for
# a better prompt.
_VERDICTS = frozenset({"choice", "chosen", "best", "winner", "selected", "selection", "label"})
_CONFIDENCES = frozenset({"confidence", "certainty", "probability"})
_COACHED = re.compile(r"instruction|advice|rules", re.IGNORECASE)


def reply(model: SimulatedModel, request: Request, sample: str = "") -> str:
    """Return the text that the model answers.

    Args:
        model: Who answers.
        request: The prompt, by any of DSPy's adapters or by none.
        sample: Which of its answers is asked for; `""` is the one it gives at temperature 0.

    Example:
        >>> from dspy.lm15 import Message
        >>> request = Request(model="simulated/ace", messages=(Message.user("What is 17*23?"),))
        >>> reply(SimulatedModel("ace"), request)
        '391'
    """
    prompt = read_prompt(request)
    # GEPA asks without an adapter, and quotes the present instruction first.
    text = prompt.inputs.get("prompt", "")
    quoted = re.search(r"```\w*\n(.*?)\n?```", text, re.DOTALL)
    if prompt.style == "none" and quoted and "instruction" in text.casefold():
        return f"```\n{improve(quoted[1], text[quoted.end() :], sample)}\n```"
    belief = believe(model, prompt, sample)
    return write(
        prompt.style,
        {name: _fill(schema, _suggest(name, prompt, belief, sample)) for name, schema in prompt.outputs.items()},
    )


def _suggest(name: str, prompt: Prompt, belief: Belief, sample: str) -> Iterator[object]:
    """Yield what a field of this name could hold, best first; what does not fit its type is passed over."""
    is_main, schema, kept = name == _main_field(prompt, belief), prompt.outputs[name], belief.kept
    if _COACHED.search(name):
        yield _advise(prompt, sample) or _instruct(prompt, sample)
    elif "prefix" in name:  # COPRO asks how to introduce the answer
        yield "Answer:"
    elif name in THOUGHTS:
        yield belief.reasoning
    elif name in _CONFIDENCES:
        yield belief.confidence
    elif kept is not None:
        if not _is_verdict(name, belief):
            if name in kept.fields and (not is_main or kept.answer == belief.answer or kept.gives(belief.answer)):
                yield kept.fields[name]
        elif name.startswith("group"):
            yield [[shown.label for shown in same] for same in group(belief.proposals)]
        elif name.startswith("element"):
            yield _take_apart(belief.proposals, kept)
        else:
            yield kept.label
    if is_main:
        yield belief.answer
    if schema.get("type") == "string":
        yield belief.reasoning


def _main_field(prompt: Prompt, belief: Belief) -> str:
    """Return which of the fields asks for the answer itself."""
    others = THOUGHTS | _CONFIDENCES
    answers = [name for name in prompt.outputs if name not in others and not _is_verdict(name, belief)]
    return "answer" if "answer" in answers else next(iter(answers), "")


def _is_verdict(name: str, belief: Belief) -> bool:
    """Whether a field is about the proposals, and not one that they have themselves."""
    about = name in _VERDICTS or name.startswith(("group", "element"))
    return about and belief.kept is not None and name not in belief.kept.fields


def _take_apart(proposals: Sequence[Shown], kept: Shown) -> list[dict[str, Any]]:
    """Return what the proposals say, field by field, with who says it and what becomes of contradictions."""
    elements: list[dict[str, Any]] = []
    for name in dict.fromkeys(name for shown in proposals for name in shown.fields if name not in THOUGHTS):
        groups = group(
            [replace(shown, fields={"answer": shown.fields[name]}) for shown in proposals if name in shown.fields]
        )
        for same in groups:
            labels, kind, resolution = [shown.label for shown in same], "unique", None
            if len(groups) > 1:
                kind, resolution = "contradiction", "It stands." if kept.label in labels else "It was dropped."
            elif sum(shown.support for shown in same) > 1:
                kind = "consensus"
            statement = {"statement": f"{name}: {same[0].answer}", "kind": kind}
            elements.append({**statement, "supported_by": labels, "resolution": resolution})
    return elements


def _fill(schema: Schema, suggestions: Iterator[object]) -> Any:
    """Return the first suggestion that fits the schema, else the simplest value of its type."""
    try:
        return _first_fit((suggestion, schema) for suggestion in suggestions)
    except ValueError:
        return _simplest(schema)


def _first_fit(candidates: Iterable[tuple[object, Schema]]) -> Any:
    for value, schema in candidates:
        with suppress(ValueError):
            return _fit(value, schema)
    raise ValueError("no value fits its type")


def _fit(value: object, schema: Schema) -> Any:
    """Return the value in the type of the schema, or raise ValueError; text may be a number, or JSON."""
    if "enum" in schema:
        return _first_fit((option, {}) for option in schema["enum"] if same_answer(str(option), str(value)))
    if "anyOf" in schema:
        return _first_fit((value, option) for option in schema["anyOf"])
    match schema.get("type"):
        case "array":
            parsed = _parse(value)
            items = parsed if isinstance(parsed, list) else [value]
            if len(items) < schema.get("minItems", 0):
                raise ValueError(f"{value!r} are too few")
            return [_fit(item, schema.get("items", {})) for item in items]
        case "object":
            return _fit_object(_parse(value), schema.get("properties", {}), _simplest(schema))
        case "integer" | "number" as kind:
            number = read_number(str(value))
            if number is None or (kind == "integer" and number.denominator != 1):
                raise ValueError(f"{value!r} is no such number")
            return int(number) if kind == "integer" else float(number)
        case "boolean":
            return _first_fit((truth, {}) for truth, word in _TRUTHS.items() if word == str(value).casefold())
        case "string":
            if value is None or isinstance(value, dict | list):
                raise ValueError(f"{value!r} is no text")
            read, _ = _FORMATS.get(schema.get("format", ""), (str, ""))
            read(str(value))
            return str(value)
        case "null" if value is not None:
            raise ValueError(f"{value!r} is something")
    return value


def _fit_object(value: object, fields: Mapping[str, Schema], simplest: dict[str, Any]) -> dict[str, Any]:
    if isinstance(value, dict):
        return {**simplest, **{str(name): _fit(item, fields.get(name, {})) for name, item in value.items()}}
    # A lone answer goes into the first field that takes it.
    for name, schema in fields.items():
        with suppress(ValueError):
            return {**simplest, name: _fit(value, schema)}
    raise ValueError(f"{value!r} is no such object")


def _parse(value: object) -> object:
    """Return what the text is the JSON of, if it is; proposals are shown with real line breaks inside strings."""
    try:
        return json.loads(value, strict=False) if isinstance(value, str) else value
    except ValueError:
        return value


def _simplest(schema: Schema) -> Any:
    """Return the simplest value of the type."""
    if "default" in schema:
        return schema["default"]
    if "enum" in schema:
        # The way out of a loop over tools, as in ReAct, rather than the first tool.
        return "finish" if "finish" in schema["enum"] else schema["enum"][0]
    if "anyOf" in schema:
        return None if {"type": "null"} in schema["anyOf"] else _simplest(schema["anyOf"][0])
    match schema.get("type"):
        case "array":
            items = schema.get("prefixItems") or [schema.get("items", {})] * schema.get("minItems", 0)
            return [_simplest(item) for item in items]
        case "object":
            return {name: _simplest(schema["properties"][name]) for name in schema.get("required", [])}
        case "integer" | "number":
            return max(0, schema.get("minimum", 0), schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return False
        case "null":
            return None
        case "string":
            return _FORMATS.get(schema.get("format", ""), (str, "-" * schema.get("minLength", 0)))[1]
    # The one text that is a string, a number and a truth value, where the type is not known.
    return "0"


_TRUTHS = {True: "yes", False: "no"}
_FORMATS: dict[str, tuple[Callable[[str], object], str]] = {
    "date": (date.fromisoformat, "2000-01-01"),
    "date-time": (datetime.fromisoformat, "2000-01-01T00:00:00"),
    "time": (time.fromisoformat, "00:00:00"),
    "uuid": (UUID, "00000000-0000-0000-0000-000000000000"),
}


def _instruct(prompt: Prompt, sample: str) -> str:
    """Return an instruction for the task that an optimizer's prompt describes."""
    given = [text for name, text in prompt.inputs.items() if "instruction" in name]
    # COPRO lists the attempts by their scores, the best one last.
    attempts = re.findall(r"Instruction #\d+: (.*)", "\n".join(given))
    current = attempts[-1] if attempts else given[-1] if given else ""
    return improve(current.strip("«» \n"), "\n".join(prompt.inputs.values()), sample)


def _advise(prompt: Prompt, sample: str) -> dict[str, str]:
    """Return a hint for each of the modules that an optimizer's prompt names."""
    evidence = "\n".join(prompt.inputs.values())
    modules = re.findall(r"[«\"]([^«»\"]+)[»\"]", prompt.inputs.get("module_names", ""))
    return {module: improve("", evidence, f"{sample} {module}") for module in modules}
