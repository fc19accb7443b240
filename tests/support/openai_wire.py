"""The bodies of the OpenAI chat-completions protocol."""

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .rendering import words

_serial = itertools.count(1)

# What OpenAI answers with, by status: (type, code).
_ERRORS = {
    400: ("invalid_request_error", None),
    401: ("invalid_request_error", "invalid_api_key"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}


@dataclass(eq=False)
class ChatRequest:
    """A chat completion as it was asked for; times are of the monotonic clock, in seconds."""

    model: str
    messages: list[dict[str, Any]]
    body: dict[str, Any]
    headers: Mapping[str, str]  # case does not matter
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    cancelled: bool = False
    """Whether the client went away (or the server was stopped) before the answer was out."""

    @property
    def prompt(self) -> str:
        """The text of the last user message."""
        return next((_text(m) for m in reversed(self.messages) if m["role"] == "user"), "")

    @property
    def text(self) -> str:
        """The text of all messages."""
        return "\n\n".join(_text(message) for message in self.messages)


@dataclass(frozen=True)
class Tokens:
    """What a reply is said to have cost; `cached` and `reasoning` are parts of the first two."""

    prompt: int
    completion: int
    cached: int = 0
    reasoning: int = 0


@dataclass(frozen=True)
class Reply:
    """What the server does with a request.

    Args:
        text: The answer, or the error's message.
        status: 200, or an HTTP error.
        usage: Tokens to report; by default a quarter of the characters.
        latency: Seconds from arrival to answer; by default the server's.
        pace: Seconds between the pieces of a stream; of a whole body, between its hundredths.
        hang: Never answer, keep the connection open; in the "body": after half of it.
        drop: Reset the connection without an answer, or in the middle of a stream.
        raw: Send this instead of a well-formed body.
        content_type: What the body is said to be.
        message: What else the message says than its text: {"content": None, "refusal": "..."}.
        code: The error's code, e.g. "context_length_exceeded", "insufficient_quota".
        finish_reason: "stop", or "length" for an answer cut off, "content_filter" for one that was filtered.
        headers: More response headers, e.g. {"Retry-After": "1"}.
    """

    text: str = ""
    status: int = 200
    usage: Tokens | None = None
    latency: float | None = None
    pace: float = 0.0
    hang: bool | Literal["body"] = False
    drop: bool = False
    raw: str | None = None
    content_type: str = "application/json"
    message: Mapping[str, Any] = field(default_factory=dict)
    code: str | None = None
    finish_reason: str = "stop"
    headers: Mapping[str, str] | None = None


def completion(request: ChatRequest, replies: list[Reply]) -> dict[str, Any]:
    """Make the body of an answer, with a choice for each reply."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": reply.text, **reply.message},
            "finish_reason": reply.finish_reason,
        }
        for index, reply in enumerate(replies)
    ]
    return {**_head(request, "chat.completion"), "choices": choices, "usage": _usage(request, replies)}


def events(request: ChatRequest, reply: Reply) -> Iterator[bytes]:
    """Make the server-sent events of an answer, up to and including [DONE]."""
    head = _head(request, "chat.completion.chunk")
    options = request.body.get("stream_options") or {}
    for delta in ({"role": "assistant", "content": ""}, *({"content": word} for word in words(reply.text))):
        yield event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    yield event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reply.finish_reason}]})
    if options.get("include_usage"):
        yield event({**head, "choices": [], "usage": _usage(request, [reply])})
    yield b"data: [DONE]\n\n"


def event(body: dict[str, Any]) -> bytes:
    """Make one server-sent event."""
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def error(status: int, message: str, code: str | None = None) -> dict[str, Any]:
    """Make the body of an error."""
    kind, usual = _ERRORS.get(status, ("server_error" if status >= 500 else "invalid_request_error", None))
    return {"error": {"message": message, "type": kind, "param": None, "code": code or usual}}


def _head(request: ChatRequest, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{next(_serial)}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "service_tier": "default",
        "system_fingerprint": None,
    }


def _usage(request: ChatRequest, replies: list[Reply]) -> dict[str, Any]:
    said = [reply.usage or Tokens(len(request.text) // 4, len(reply.text) // 4) for reply in replies]
    completion = sum(tokens.completion for tokens in said)
    return {
        "prompt_tokens": said[0].prompt,
        "completion_tokens": completion,
        "total_tokens": said[0].prompt + completion,
        "prompt_tokens_details": {"cached_tokens": said[0].cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": sum(tokens.reasoning for tokens in said), "audio_tokens": 0},
    }


def _text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", f"<{part.get('type')}>") for part in content)
