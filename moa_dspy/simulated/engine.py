"""Simulated models as `dspy.LM`s, and as engines of `dspy.LM`."""

from __future__ import annotations

import asyncio
import itertools
import math
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias

import dspy
from dspy import lm15
from pydantic_core import to_jsonable_python

from moa_dspy.simulated.mind import reply
from moa_dspy.simulated.models import SIMULATED_MODELS, SimulatedModel
from moa_dspy.simulated.prompts import prompt_text

__all__ = ["AsyncSimulatedEngine", "SimulatedEngine", "SimulatedLM", "simulated_lm"]

Event: TypeAlias = lm15.StreamStartEvent | lm15.StreamDeltaEvent | lm15.StreamEndEvent
_CHARACTERS_PER_TOKEN = 4
# DSPy keeps rollout ids and the number of a candidate from engines, so they take this way: a call's rollout, and
# the count of its candidates.
_call: ContextVar[tuple[object, Iterator[int]] | None] = ContextVar("simulated_call", default=None)


class SimulatedLM(dspy.LM):
    """A `dspy.LM` answered by a simulated model, the same way every time, in every process.

    To hear another answer, ask for another sample: a `rollout_id`, a `seed` or `n` above 1, at a temperature that is
    not 0.

    Args:
        model: The model's name, with or without `simulated/` before it.
        profile: The model's numbers; by default those of the model that is named so.
        latency: Seconds that each answer takes.
        **kwargs: What `dspy.LM` takes. `cache` is False by default.

    Raises:
        ValueError: If no profile is given and no simulated model has this name, or the latency is negative.

    Examples:
        >>> ace = SimulatedModel("ace", skills={"geography": 1.0})
        >>> with dspy.context(lm=SimulatedLM("ace", profile=ace)):
        ...     dspy.Predict("question -> answer")(question="What is the capital of Turkey?").answer
        'Ankara'
    """

    def __init__(
        self,
        model: str,
        profile: SimulatedModel | None = None,
        latency: float = 0.0,
        # Off, unlike dspy.LM: cached calls would take no time and count no tokens, and DSPy's cache, which outlives
        # the process, knows models by name only: a profile with other numbers would get the old one's answers.
        cache: bool = False,
        **kwargs: Any,
    ) -> None:
        name = model.removeprefix("simulated/")
        if "engine" not in kwargs:  # a saved program brings it
            profile = profile or SIMULATED_MODELS.get(name)
            if profile is None:
                raise ValueError(
                    f"There is no simulated model {name!r}; there are {', '.join(SIMULATED_MODELS)}. "
                    "Describe one of your own with SimulatedLM(name, profile=SimulatedModel(name, skills=...))."
                )
            kwargs["engine"] = SimulatedEngine(profile, latency)
            kwargs["async_engine"] = AsyncSimulatedEngine(profile, latency)
        super().__init__(f"simulated/{name}", cache=cache, **kwargs)

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with _sampling({**self.kwargs, **kwargs}.get("rollout_id")):
            return super().__call__(prompt, messages=messages, **kwargs)

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with _sampling({**self.kwargs, **kwargs}.get("rollout_id")):
            return await super().acall(prompt, messages=messages, **kwargs)


simulated_lm = SimulatedLM


@contextmanager
def _sampling(rollout: object) -> Iterator[None]:
    token = _call.set((rollout, itertools.count()))
    try:
        yield
    finally:
        _call.reset(token)


class _Engine:
    """What the sync and the async engine share."""

    supports_response_schema = True
    supported_params = frozenset({"max_tokens", "response_format", "seed", "temperature"})

    def __init__(self, profile: SimulatedModel, latency: float = 0.0) -> None:
        if not latency >= 0:
            raise ValueError(f"latency is the seconds that each answer takes, 0 or more: not {latency!r}.")
        self.profile, self.latency = profile, latency

    def dump_state(self) -> dict[str, Any]:
        return {"profile": to_jsonable_python(self.profile), "latency": self.latency}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> Any:
        return cls(SimulatedModel(**state["profile"]), state["latency"])

    def answer(self, request: lm15.Request) -> lm15.Response:
        """The whole answer, at once."""
        text, finish, limit = reply(self.profile, request, _read_sample(request)), "stop", request.config.max_tokens
        if limit is not None and _count_tokens(text) > limit:
            text, finish = text[: limit * _CHARACTERS_PER_TOKEN], "length"
        read, written = _count_tokens(prompt_text(request)), _count_tokens(text)
        # DSPy prices the answers of known providers only, unless an engine says what they cost.
        price = self.profile.price
        priced: dict[str, Any] = {"response_cost": (price[0] * read + price[1] * written) / 1e6} if price else {}
        usage = lm15.Usage(input_tokens=read, output_tokens=written)
        return lm15.Response(None, request.model, lm15.Message.assistant(text), finish, usage, provider_data=priced)


class SimulatedEngine(_Engine):
    """Answers as a simulated model, for `dspy.LM(..., engine=SimulatedEngine(profile, latency=0.5))`."""

    def complete(self, request: lm15.Request) -> lm15.Response:
        time.sleep(self.latency)
        return self.answer(request)

    def stream(self, request: lm15.Request) -> Iterator[Event]:
        yield from _events(self.complete(request))

    def close(self) -> None:
        """Do nothing: there is no connection."""


class AsyncSimulatedEngine(_Engine):
    """The same for `async_engine`."""

    async def complete(self, request: lm15.Request) -> lm15.Response:
        await asyncio.sleep(self.latency)
        return self.answer(request)

    async def stream(self, request: lm15.Request) -> AsyncIterator[Event]:
        for event in _events(await self.complete(request)):
            yield event

    async def aclose(self) -> None:
        """Do nothing: there is no connection."""


def _read_sample(request: lm15.Request) -> str:
    """Which of the model's answers is asked for; `""` is the one that it gives by default."""
    rollout, candidates = _call.get() or (None, itertools.count())
    numbers = {"rollout": rollout, "candidate": next(candidates) or None, "seed": request.config.seed}
    asked = [f"{name} {value}" for name, value in numbers.items() if value is not None]
    return "" if request.config.temperature == 0 else ", ".join(asked)


def _count_tokens(text: str) -> int:
    return math.ceil(len(text) / _CHARACTERS_PER_TOKEN)


def _events(response: lm15.Response) -> Iterator[Event]:
    """The answer word by word."""
    yield lm15.StreamStartEvent(model=response.model)
    for word in re.findall(r"\s*\S+|\s+", response.text or ""):
        yield lm15.StreamDeltaEvent(lm15.TextDelta(word))
    yield lm15.StreamEndEvent(response.finish_reason, response.usage)
