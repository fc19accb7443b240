"""What a client asks of an answer's form: calls of tools, a JSON schema, an end."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import litellm
from jsonschema import SchemaError, ValidationError
from jsonschema.validators import validator_for
from pydantic import RootModel, model_validator

from moa_dspy.results import MoAPrediction

__all__ = ["Calls", "Cut", "answer_type", "calls_of", "tools_of"]


@dataclass(frozen=True)
class Calls:
    """Which calls of tools an answer may hold, so that others are no proposals, and are asked for again."""

    names: tuple[str, ...]
    is_needed: bool
    is_single: bool

    @property
    def desc(self) -> str:
        if self.is_needed:
            return f"{'One call' if self.is_single else 'Calls, at least one,'} of `tools`."
        return "Calls of `tools` that are needed before the message can be answered; null if none is."

    def type(self) -> Any:
        asked = self

        class Checked(dspy.ToolCalls):
            @model_validator(mode="after")
            def _check(self) -> Any:
                if unknown := sorted({call.name for call in self.tool_calls} - {*asked.names}):
                    raise ValueError(f"There is no tool {', '.join(unknown)}. There is: {', '.join(asked.names)}.")
                if (asked.is_needed and not self.tool_calls) or (asked.is_single and len(self.tool_calls) > 1):
                    raise ValueError(f"Give {asked.desc}")
                return self

        return Checked if self.is_needed else Checked | None


def tools_of(given: dict[str, Any]) -> tuple[list[dspy.Tool], Calls | None]:
    """The tools that a request offers, taken from it, and which calls its answer may hold."""
    functions, choice = [tool["function"] for tool in given.pop("tools", [])], given.pop("tool_choice", "auto")
    is_single = not given.pop("parallel_tool_calls", True)
    if isinstance(choice, dict) and "function" in choice:
        wanted, choice = choice["function"]["name"], "required"
        functions = [function for function in functions if function["name"] == wanted]
    if choice not in ("auto", "none", "required") or (choice == "required" and not functions):
        raise ValueError("tool_choice is auto, none, required, or the name of one of tools.")
    if choice == "none" or not functions:
        return [], None
    tools = [
        dspy.Tool(
            lambda **_: None,  # the client's to call
            name=function["name"],
            desc=function.get("description") or "",
            args=(function.get("parameters") or {}).get("properties") or {},
        )
        for function in functions
    ]
    return tools, Calls(tuple(function["name"] for function in functions), choice == "required", is_single)


def calls_of(prediction: MoAPrediction) -> list[Any]:
    """The calls that an answer holds, as OpenAI writes them."""
    found = prediction.get("tool_calls")
    functions = [
        {"name": call.name, "arguments": json.dumps(call.args)} for call in (found.tool_calls if found else ())
    ]
    return [
        {"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "index": index, "function": function}
        for index, function in enumerate(functions)
    ]


def answer_type(schema: dict[str, Any]) -> type[RootModel[Any]]:
    """A type whose values have this schema."""
    kind = validator_for(schema)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"response_format holds no JSON schema: {error.message}") from None

    class Answer(RootModel[Any]):
        @model_validator(mode="after")
        def _check(self) -> Any:
            try:
                kind(schema).validate(self.root)
            except ValidationError as error:
                raise ValueError(error.message) from None
            return self

        @classmethod
        def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
            return schema

    return Answer


class Cut:
    """The end that a client wants of an answer that comes in pieces.

    Args:
        stops: Before the first of these it ends.
        tokens: So many at most; None for any number.

    Attributes:
        heard: The whole answer, as far as it has come.
        is_short: Whether tokens are missing.
    """

    def __init__(self, stops: Sequence[str], tokens: int | None) -> None:
        self.stops, self.left = stops, tokens
        self.heard, self.sent, self.is_short = "", 0, False

    def take(self, piece: str, is_last: bool = False) -> str:
        """As much of the answer, of which this is the next piece, as the client wants by now."""
        self.heard += piece
        found = [at for stop in self.stops if (at := self.heard.find(stop, self.sent)) >= 0]
        begun = 0 if is_last else max((_begun(self.heard, stop) for stop in self.stops), default=0)
        until = min(found, default=len(self.heard) - begun)
        piece, self.sent = self.heard[self.sent : until], until
        if self.left is None:
            return piece
        tokens: list[int] = litellm.encode(model="", text=piece)
        self.is_short = self.is_short or len(tokens) > self.left
        kept, self.left = tokens[: self.left], max(0, self.left - len(tokens))
        return piece if len(kept) == len(tokens) else litellm.decode(model="", tokens=kept)


def _begun(text: str, stop: str) -> int:
    """How many characters at the end of a text may be the beginning of what stops it."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)
