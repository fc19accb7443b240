"""The meter: sees every LM call of an agent, what it cost and how it ended."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy.usage import LMCall, Usage

__all__ = ["LMCall", "Meter", "Usage", "call_of", "metered"]


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
        self._open: dict[str, tuple[float, int]] = {}
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
        return [self._so_far(call_id, row) for call_id, row in list(self._rows.items())]

    def call(self, call_id: str) -> LMCall | None:
        """What is known so far of the call with this id; None for one that this meter has not seen."""
        return self._rows.get(call_id)

    def _so_far(self, call_id: str, row: LMCall) -> LMCall:
        under_way = self._open.get(call_id)
        if under_way is None:
            return row
        return row.model_copy(update={"error": "Unfinished", "seconds": time.perf_counter() - under_way[0]})

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._open[call_id] = time.perf_counter(), len(self._overheard(instance.model))
        self._rows[call_id] = LMCall(agent=self.agent, model=instance.model)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        row, (started, entries) = self._rows[call_id], self._open[call_id]
        row.seconds = time.perf_counter() - started
        for usage in self._overheard(row.model)[entries:]:
            self._bill(call_id, usage)
        if exception is not None:
            row.error = "Unfinished" if isinstance(exception, asyncio.CancelledError) else type(exception).__name__
        elif call_id not in self._billed:
            row.cache_hit, row.cost_usd = True, 0.0
        del self._open[call_id]

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self._bill(ACTIVE_CALL_ID.get() or "", usage_entry)
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)

    def recorded(self, entry: Mapping[str, Any]) -> None:
        """Take the cost that DSPy wrote into the history entry of the call under way."""
        call_id = ACTIVE_CALL_ID.get() or ""
        row = self._rows.get(call_id)
        if row is not None:
            row.cost_usd = _cost(entry)
            if entry.get("usage"):
                self._bill(call_id, entry["usage"])

    def _overheard(self, model: str) -> Sequence[Mapping[str, Any]]:
        """What a tracker of the program's own was told in our place, if history is off: it is all there is then.

        Shared by calls side by side, it does not tell them apart.
        """
        if not dspy.settings.disable_history and dspy.settings.max_history_size > 0:
            return ()
        tracker = dspy.settings.usage_tracker
        while isinstance(tracker, Meter) and tracker is not self:
            tracker = tracker._parent
        return () if tracker is None or tracker is self else tracker.usage_data.get(model, ())

    def _bill(self, call_id: str, usage: Mapping[str, Any]) -> None:
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


def call_of(entry: Mapping[str, Any], agent: str) -> LMCall:
    """The row of a call that DSPy wrote into a history; without tokens, it was a hit in DSPy's cache."""
    row = LMCall(agent=agent, model=entry["model"], cost_usd=_cost(entry))
    _add_tokens(row, entry.get("usage") or {})
    return row


class _Costs(list[Any]):
    """Stands where DSPy keeps a module's history: takes the cost and keeps no prompt."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def append(self, entry: Any) -> None:
        self._meter.recorded(entry)


def _cost(entry: Mapping[str, Any]) -> float | None:
    return entry["cost"] if entry.get("cost") is not None else _stated_cost(entry.get("response"))


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
