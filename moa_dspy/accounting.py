"""One row per LM call: who asked which model, tokens, cost, seconds, cache hit, error."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.usage_tracker import UsageTracker
from pydantic import BaseModel

__all__ = ["LMCall", "Meter", "Usage", "metered"]


class LMCall(BaseModel):
    """One LM call.

    Attributes:
        agent: Name of the agent that made it.
        model: Model name of its LM.
        prompt_tokens: Billed prompt tokens, those read from the provider's prompt cache included.
        completion_tokens: Billed completion tokens, reasoning included.
        cached_tokens: Prompt tokens read from the provider's prompt cache.
        reasoning_tokens: Completion tokens spent on hidden reasoning.
        cost_usd: Cost in USD; None when it is not known, 0 for a hit in DSPy's cache.
        seconds: Wall time.
        cache_hit: Answered from DSPy's cache: nothing was billed.
        error: Type of the error that ended it; `"Unfinished"` for a call that was abandoned under way.
    """

    agent: str
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None
    seconds: float = 0.0
    cache_hit: bool = False
    error: str | None = None


class Usage(BaseModel):
    """LM calls added up.

    `cost_usd` is the sum of the known costs, None when none is known; `unpriced_calls` counts the
    calls whose cost is not in it.
    """

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float | None = None
    unpriced_calls: int = 0
    seconds: float = 0.0
    cache_hits: int = 0
    failed_calls: int = 0

    @classmethod
    def of(cls, calls: Iterable[LMCall]) -> Usage:
        """The sum of these calls."""
        rows = list(calls)
        known = [row.cost_usd for row in rows if row.cost_usd is not None]
        return cls(
            calls=len(rows),
            prompt_tokens=sum(row.prompt_tokens for row in rows),
            completion_tokens=sum(row.completion_tokens for row in rows),
            cached_tokens=sum(row.cached_tokens for row in rows),
            reasoning_tokens=sum(row.reasoning_tokens for row in rows),
            cost_usd=sum(known) if known or not rows else None,
            unpriced_calls=len(rows) - len(known),
            seconds=sum(row.seconds for row in rows),
            cache_hits=sum(row.cache_hit for row in rows),
            failed_calls=sum(row.error is not None for row in rows),
        )


class Meter(BaseCallback, UsageTracker):
    """Watches the LM calls made in one context, nested mixtures included.

    Three of DSPy's hooks see each call, under one call id: the callback (start, end, error), the
    usage tracker (what is billed: never a cache hit) and the history (the cost).
    """

    def __init__(self, agent: str) -> None:
        UsageTracker.__init__(self)
        self.agent = agent
        self.history = _Costs(self)
        self._parent = dspy.settings.usage_tracker
        if self._parent is not None:
            # A tracker nested in ours writes its sums here when it ends: they belong to ours' parent too.
            self.usage_data = self._parent.usage_data
        self._open: dict[str, float] = {}
        self._billed: set[str] = set()
        self._rows: dict[str, LMCall] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        # dspy.Parallel copies the tracker for each of its workers, and what a copy counts is lost.
        return self

    def settings(self) -> dict[str, Any]:
        """The DSPy settings under which this meter sees every LM call."""
        return {
            "callbacks": [*dspy.settings.get("callbacks", []), self],
            "usage_tracker": self,
            "caller_modules": [*(dspy.settings.caller_modules or []), self],
        }

    def calls(self) -> list[LMCall]:
        """The calls so far, in the order in which they were started."""
        return [
            row.model_copy(update={"error": "Unfinished", "seconds": time.perf_counter() - self._open[call_id]})
            if call_id in self._open
            else row
            for call_id, row in list(self._rows.items())
        ]

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._open[call_id] = time.perf_counter()
        self._rows[call_id] = LMCall(agent=self.agent, model=instance.model)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        row = self._rows[call_id]
        row.seconds = time.perf_counter() - self._open[call_id]
        if exception is not None:
            row.error = type(exception).__name__
        elif call_id not in self._billed:
            row.cache_hit, row.cost_usd = True, 0.0
        del self._open[call_id]

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self._bill(usage_entry)
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)

    def recorded(self, entry: Mapping[str, Any]) -> None:
        """Take the cost that DSPy wrote into the history entry of the call under way."""
        row = self._rows.get(ACTIVE_CALL_ID.get() or "")
        if row is not None:
            row.cost_usd = entry["cost"] if entry.get("cost") is not None else _stated_cost(entry.get("response"))
            if entry.get("usage"):
                self._bill(entry["usage"])

    def _bill(self, usage: Mapping[str, Any]) -> None:
        call_id = ACTIVE_CALL_ID.get() or ""
        if call_id in self._rows and call_id not in self._billed:
            self._billed.add(call_id)
            _add_tokens(self._rows[call_id], usage)


@contextmanager
def metered(agent: str) -> Iterator[Meter]:
    """Meter the LM calls made inside, under this agent's name.

    Example:
        ```python
        with metered("mine") as meter:
            dspy.Predict("question -> answer")(question="Why?")
        print(Usage.of(meter.calls()))
        ```
    """
    meter = Meter(agent)
    with dspy.context(**meter.settings()):
        yield meter


class _Costs(list[Any]):
    """Stands where DSPy keeps a module's history: takes the cost and keeps no prompt."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def append(self, entry: Any) -> None:
        self._meter.recorded(entry)


def _stated_cost(response: Any) -> float | None:
    """What a custom engine says a call cost, under `provider_data["response_cost"]`: DSPy prices its own only."""
    cost = (getattr(response, "provider_data", None) or {}).get("response_cost")
    return float(cost) if isinstance(cost, (int, float)) and not isinstance(cost, bool) else None


def _add_tokens(row: LMCall, usage: Mapping[str, Any]) -> None:
    prompt, completion = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    row.prompt_tokens += usage.get("prompt_tokens") or 0
    row.completion_tokens += usage.get("completion_tokens") or 0
    row.cached_tokens += prompt.get("cached_tokens") or 0
    row.reasoning_tokens += completion.get("reasoning_tokens") or 0


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name) or {}
    return details if isinstance(details, Mapping) else details.model_dump()
