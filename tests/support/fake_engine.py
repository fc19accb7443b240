"""The engines behind FakeLM: they take the next answer, write it as asked, and keep the record."""

import asyncio
import itertools
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from dspy.lm15 import Message, Request, Response, StreamDeltaEvent, TextDelta, TextPart, Usage, response_to_events

from .gate import Gate
from .misuse import FakeMisuse
from .rendering import asked, words

Answer: TypeAlias = Mapping[str, Any] | str | BaseException
Answers: TypeAlias = Sequence[Answer] | Callable[[str], Answer]

current_rollout: ContextVar[int | None] = ContextVar("fake_lm_rollout", default=None)
"""DSPy strips rollout ids before the engine, so they take this way round."""

_live: "weakref.WeakValueDictionary[str, FakeEngine]" = weakref.WeakValueDictionary()
_serial = itertools.count()


@dataclass
class Call:
    """One call as the engine saw it; times are of the monotonic clock, in seconds."""

    prompt: str
    request: Request
    rollout_id: int | None
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None
    cancelled: bool = False


class FakeEngine:
    """The sync engine, and the record."""

    owner: Any = None  # the FakeLM it was made for

    def __init__(self, name: str, answers: Answers, usage: Usage, delay: float, gate: Gate | None) -> None:
        if isinstance(answers, str | Mapping):
            raise TypeError(f"fake {name!r} takes a list of answers, or a callable, not one answer")
        self.name = name
        self.answers = answers if callable(answers) else tuple(answers)
        self.usage = usage
        self.delay = delay
        self.gate = gate
        self.log: list[Call] = []
        self.key = f"{name}#{next(_serial)}"
        self._lock = threading.Lock()
        _live[self.key] = self

    def __reduce__(self) -> tuple[Any, ...]:  # copies, deep copies and pickles all lead back to this one
        return _alive, (self.key,)

    def dump_state(self) -> dict[str, Any]:
        return {"fake": self.key}  # "key" would be taken for a secret when saved

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> "FakeEngine":
        return _alive(state["fake"])

    def complete(self, request: Request) -> Response:
        call, number = self.begin(request)
        try:
            if self.gate is not None:
                self.gate.wait()
            time.sleep(self.delay)
            return self.respond(call, number)
        finally:
            call.ended = time.monotonic()

    def stream(self, request: Request) -> Iterator[Any]:
        yield from _in_words(self.complete(request))

    def close(self) -> None:
        pass

    def begin(self, request: Request) -> tuple[Call, int]:
        call = Call(_text(request), request, current_rollout.get())
        with self._lock:
            self.log.append(call)
            return call, len(self.log)

    def respond(self, call: Call, number: int) -> Response:
        answer = self._answer(call, number)
        if isinstance(answer, BaseException):
            raise answer
        text = answer if isinstance(answer, str) else self._render(answer, call, number)
        message = Message.assistant([TextPart(text)])
        return Response(id=None, model=self.name, message=message, finish_reason="stop", usage=self.usage)

    def _answer(self, call: Call, number: int) -> Answer:
        if not isinstance(self.answers, Sequence):
            return self.answers(call.prompt)
        if number > len(self.answers):
            raise self._misuse(f"has no answer left for call {number}")
        return self.answers[number - 1]

    def _render(self, answer: Mapping[str, Any], call: Call, number: int) -> str:
        wanted = asked(call.request.messages[-1].text or "")
        if wanted is None:
            raise self._misuse(f"was asked for no output fields in call {number}: answer it with text, not with a dict")
        missing = [name for name in wanted.fields if name not in answer]
        if missing:
            raise self._misuse(f"was asked for {list(wanted.fields)} in call {number}, its answer lacks {missing}")
        return wanted.render(answer)

    def _misuse(self, what: str) -> FakeMisuse:
        return FakeMisuse(f"fake {self.name!r} {what}")


def _alive(key: str) -> FakeEngine:
    return _live[key]


class AsyncFakeEngine:
    """The async engine: the same answers, the same record."""

    def __init__(self, sync: FakeEngine) -> None:
        self.sync = sync

    def dump_state(self) -> dict[str, Any]:
        return self.sync.dump_state()

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> "AsyncFakeEngine":
        return cls(FakeEngine.load_state(state))

    async def complete(self, request: Request) -> Response:
        call, number = self.sync.begin(request)
        try:
            if self.sync.gate is not None:
                await self.sync.gate.wait_async()
            await asyncio.sleep(self.sync.delay)
            return self.sync.respond(call, number)
        except asyncio.CancelledError:
            call.cancelled = True
            raise
        finally:
            call.ended = time.monotonic()

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        for event in _in_words(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        pass


def _text(request: Request) -> str:
    system = request.system or ""
    head = system if isinstance(system, str) else "\n".join(_part(part) for part in system)
    return "\n\n".join(filter(None, [head, *(_part(part) for m in request.messages for part in m.parts)]))


def _part(part: Any) -> str:
    return part.text if part.type == "text" else f"<{part.type}>"


def _in_words(response: Response) -> Iterator[Any]:
    for event in response_to_events(response):
        if isinstance(event, StreamDeltaEvent) and isinstance(event.delta, TextDelta):
            for word in words(event.delta.text):
                yield replace(event, delta=replace(event.delta, text=word))
        else:
            yield event
