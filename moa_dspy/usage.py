"""What LM calls cost: one row per call, the rows added up, and the meter that sees the calls of an agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from typing import Any, Final

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.usage_tracker import UsageTracker
from pydantic import BaseModel

from moa_dspy.rollouts import Rollout, resample

__all__ = ["METER", "LMCall", "Meter", "Usage", "call_of", "metered"]

# Among DSPy's settings: the meter in force.
METER: Final = "moa_dspy_meter"


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
        finish_reason: Why the model stopped (`"stop"`, `"length"`, ...), where the provider says so.
        deployment: Which deployment answered, of a router's group.
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
    finish_reason: str | None = None
    deployment: str | None = None


class Usage(BaseModel):
    """LM calls added up; two usages add with `+`.

    `cost_usd` is the sum of the known costs, None when none is known; `unpriced_calls` counts the
    calls whose cost is not in it.

    Example:
        >>> one = Usage.of([LMCall(agent="a", model="m", prompt_tokens=9, cost_usd=0.5)])
        >>> both = one + Usage.of([LMCall(agent="b", model="n")])
        >>> both.calls, both.prompt_tokens, both.cost_usd, both.unpriced_calls
        (2, 9, 0.5, 1)
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

    def __add__(self, other: Usage) -> Usage:
        names = [name for name in Usage.model_fields if name != "cost_usd"]
        sums = {name: getattr(self, name) + getattr(other, name) for name in names}
        known = [usage.cost_usd for usage in (self, other) if usage.cost_usd is not None and usage.calls]
        return Usage(cost_usd=sum(known) if known or not sums["calls"] else None, **sums)


class Meter(BaseCallback, UsageTracker):
    """Watches the LM calls of one agent.

    Three of DSPy's hooks see each call, under one call id: the callback (start, end, error), the
    usage tracker (what is billed: never a cache hit) and the history (the cost).

    Args:
        agent: Under whose name the calls are entered.
        everywhere: Whether to see all calls in the context, whatever LM they ask, those of nested
            mixtures included. That costs 0.3 ms per predictor call, as DSPy then binds the arguments of
            every module; else only the LMs are seen that `watch` gives.
    """

    def __init__(self, agent: str, everywhere: bool = True) -> None:
        UsageTracker.__init__(self)
        self.agent = agent
        self.everywhere = everywhere
        self.history = _Entries(self)
        self._parent = dspy.settings.usage_tracker
        if self._parent is not None:
            # A tracker nested in ours writes its sums here when it ends: they belong to ours' parent too.
            self.usage_data = self._parent.usage_data
        self._open: dict[str, tuple[float, int]] = {}
        self._prices: dict[str, Any] = {}
        self._billed: set[str] = set()
        self._rows: dict[str, LMCall] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        # dspy.Parallel copies the tracker for each of its workers, and what a copy counts is lost.
        return self

    def settings(self) -> dict[str, Any]:
        """The DSPy settings under which this meter sees LM calls."""
        if not self.everywhere:
            return {METER: self, "usage_tracker": self}
        return {
            METER: self,
            "usage_tracker": self,
            "callbacks": [*dspy.settings.get("callbacks", []), self],
            "caller_modules": [*(dspy.settings.caller_modules or []), self],
        }

    def watch(self, lm: dspy.BaseLM, rollout: Rollout | None = None) -> dspy.BaseLM:
        """The LM as it answers this rollout, seen by this meter."""
        if self.everywhere:
            return resample(lm, rollout)
        return resample(lm, rollout, callbacks=[*lm.callbacks, self], history=_Entries(self, lm.history))

    def calls(self) -> list[LMCall]:
        """The calls so far, in the order in which they were started."""
        return [self._so_far(call_id, row) for call_id, row in list(self._rows.items())]

    def call(self, call_id: str) -> LMCall | None:
        """What is known so far of the call with this id; None for one that this meter has not seen."""
        return self._rows.get(call_id)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._open[call_id] = time.perf_counter(), len(self._overheard(instance.model))
        self._rows[call_id] = LMCall(agent=self.agent, model=instance.model)
        self._prices[call_id] = getattr(instance, "prices", None)  # stated by the user, see models.as_lm

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        row, (started, entries) = self._rows[call_id], self._open[call_id]
        row.seconds = time.perf_counter() - started
        for usage in self._overheard(row.model)[entries:]:
            self._bill(call_id, usage)
        if exception is not None:
            row.error = "Unfinished" if isinstance(exception, asyncio.CancelledError) else type(exception).__name__
        elif call_id not in self._billed:
            row.cache_hit, row.cost_usd = True, 0.0
        if (prices := self._prices.pop(call_id)) is not None and call_id in self._billed:
            row.cost_usd = prices.cost(row.prompt_tokens, row.completion_tokens)
        del self._open[call_id]

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self._bill(ACTIVE_CALL_ID.get() or "", usage_entry)
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)

    def enter(self, entry: Mapping[str, Any]) -> None:
        """Take what DSPy wrote into the history entry of the call under way."""
        call_id = ACTIVE_CALL_ID.get() or ""
        row = self._rows.get(call_id)
        if row is not None:
            row.cost_usd, row.finish_reason = _cost(entry), _finish_reason(entry.get("response"))
            row.deployment = _deployment(entry.get("response"))
            if entry.get("usage"):
                self._bill(call_id, entry["usage"])

    def _so_far(self, call_id: str, row: LMCall) -> LMCall:
        under_way = self._open.get(call_id)
        if under_way is None:
            return row
        return row.model_copy(update={"error": "Unfinished", "seconds": time.perf_counter() - under_way[0]})

    def _overheard(self, model: str) -> Sequence[Mapping[str, Any]]:
        """What a tracker of the program's own was told in our place, if history is off: it is all there is then.

        Shared by calls side by side, it does not tell them apart.
        """
        tracker = dspy.settings.usage_tracker
        if tracker is self or (not dspy.settings.disable_history and dspy.settings.max_history_size > 0):
            return ()
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
    response = entry.get("response")
    row = LMCall(agent=agent, model=entry["model"], cost_usd=_cost(entry), finish_reason=_finish_reason(response))
    row.deployment = _deployment(response)
    _add_tokens(row, entry.get("usage") or {})
    return row


class _Entries(list[Any]):
    """Stands where DSPy keeps a history: tells a meter of each entry, and hands it on to the history of an LM."""

    def __init__(self, meter: Meter, history: MutableSequence[Any] | None = None) -> None:
        super().__init__()
        self._meter = meter
        self._history = history

    def append(self, entry: Any) -> None:
        self._meter.enter(entry)
        if self._history is not None:
            while len(self._history) >= dspy.settings.max_history_size:
                self._history.pop(0)
            self._history.append(entry)


def _cost(entry: Mapping[str, Any]) -> float | None:
    return entry["cost"] if entry.get("cost") is not None else _stated_cost(entry.get("response"))


def _stated_cost(response: Any) -> float | None:
    """What a custom engine says a call cost, under `provider_data["response_cost"]`: DSPy prices its own only."""
    costs = [(getattr(one, "provider_data", None) or {}).get("response_cost") for one in _responses(response)]
    known = [float(cost) for cost in costs if isinstance(cost, (int, float)) and not isinstance(cost, bool)]
    return sum(known) if known and len(known) == len(costs) else None


def _finish_reason(response: Any) -> str | None:
    reasons = [getattr(one, "finish_reason", None) for one in _responses(response)]
    return next((str(reason) for reason in reasons if reason is not None), None)


def _deployment(response: Any) -> str | None:
    told = [(getattr(one, "provider_data", None) or {}).get("deployment") for one in _responses(response)]
    return next((str(name) for name in told if name), None)


def _responses(response: Any) -> Sequence[Any]:
    """The responses of a history entry: one a candidate natively, `choices` in litellm's form."""
    if isinstance(response, (list, tuple)):
        return response
    return getattr(response, "choices", None) or [response]


def _add_tokens(row: LMCall, usage: Mapping[str, Any]) -> None:
    prompt, completion = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    row.prompt_tokens += usage.get("prompt_tokens") or 0
    row.completion_tokens += usage.get("completion_tokens") or 0
    row.cached_tokens += prompt.get("cached_tokens") or 0
    row.reasoning_tokens += completion.get("reasoning_tokens") or 0


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name) or {}
    return details if isinstance(details, Mapping) else details.model_dump()
