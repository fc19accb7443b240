"""What LM calls cost: one row per call, the rows added up, and the meter that sees the calls of an agent."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.exceptions import LMError, is_retryable_lm_error
from dspy.utils.usage_tracker import UsageTracker
from pydantic import BaseModel

from moa_dspy.allowance import ALLOWANCE, Allowance, wait_for
from moa_dspy.permits import apermitted, permitted
from moa_dspy.rollouts import Rollout, resample

__all__ = ["METER", "LMCall", "Meter", "Usage", "call_of", "cut_by", "metered", "watch_lm"]

# Among DSPy's settings: the meter in force, and the call of a watched LM.
METER: Final = "moa_dspy_meter"
_CALL: Final = "moa_dspy_call"
_NEVER = float("inf")


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
        finish_reason: Why the model stopped (`"stop"`, `"length"`, ...), where the provider says so; in a program of
            several LMs only where DSPy keeps a history.
        deployment: The model that answered, of a router's group.
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


def cut_by(finish_reason: str | None) -> str | None:
    """What ended a reply before its model did; None if nothing did.

    Examples:
        >>> cut_by("length"), cut_by("stop")
        ('length', None)
    """
    return finish_reason if finish_reason in ("length", "content_filter", "incomplete") else None


class Usage(BaseModel):
    """LM calls added up; two usages add with `+`.

    `cost_usd` is the sum of the known costs, None when none is known; `unpriced_calls` counts the
    calls whose cost is not in it.

    Examples:
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

    Everywhere, three of DSPy's hooks see each call, under one call id: the callback (start, end, error), the
    usage tracker (what is billed: never a cache hit) and the history (the cost). That costs 0.3 ms per predictor
    call, as DSPy then binds the arguments of every module.

    Args:
        agent: Under whose name the calls are entered.
        everywhere: Whether to see all calls in the context, whatever LM they ask, those of nested mixtures
            included; else only those of the LMs that `watch` gives.
        owner: Whose call it meters, where that matters: see `Agent.bind`.
    """

    def __init__(self, agent: str, everywhere: bool = True, owner: object = None) -> None:
        UsageTracker.__init__(self)
        self.agent = agent
        self.everywhere = everywhere
        self.owner = owner
        self.history = _Entries(self.enter)
        self._parent = dspy.settings.usage_tracker
        if self._parent is not None:
            # A tracker nested in ours writes its sums here when it ends: they belong to ours' parent too.
            self.usage_data = self._parent.usage_data
        self._open: dict[str, tuple[float, int, Any]] = {}  # since when, entries overheard by then, the LM's prices
        self._billed: set[str] = set()
        self._late: dict[str, LMCall] = {}  # told of while they were under way
        self.trouble: BaseException | None = None
        """What went wrong last, also if it is being tried again."""
        self._rows: dict[str, dict[str, Any]] = {}  # what goes into an `LMCall`, once somebody asks for it

    def __deepcopy__(self, memo: dict[int, Any]) -> Meter:
        # dspy.Parallel copies the tracker for each of its workers, and what a copy counts is lost.
        return self

    def settings(self) -> dict[str, Any]:
        """The DSPy settings under which this meter sees LM calls."""
        if not self.everywhere:
            return {METER: self}
        return {
            METER: self,
            "usage_tracker": self,
            "callbacks": [*dspy.settings.get("callbacks", []), self],
            "caller_modules": [*(dspy.settings.caller_modules or []), self],
        }

    def watch(self, lm: dspy.BaseLM, rollout: Rollout | None = None) -> dspy.BaseLM:
        """The LM as it answers this rollout, seen by this meter."""
        lm = resample(lm, rollout)
        # What else somebody configured as an LM, a name perhaps, DSPy refuses in its own words.
        return watch_lm(lm, None if self.everywhere else self) if isinstance(lm, dspy.BaseLM) else lm

    def calls(self) -> list[LMCall]:
        """The calls so far, in the order in which they were started."""
        return [self._so_far(call_id, row) for call_id, row in list(self._rows.items())]

    def call(self, call_id: str) -> LMCall | None:
        """What is known so far of the call with this id; None for one that this meter has not seen."""
        row = self._rows.get(call_id)
        return None if row is None else self._so_far(call_id, row)

    def start(self, call_id: str, lm: dspy.BaseLM, heard: int = 0) -> None:
        """Enter a call that is started."""
        self._open[call_id] = time.perf_counter(), heard, vars(lm).get("prices")
        self._rows[call_id] = {"agent": self.agent, "model": lm.model}

    def end(self, call_id: str, error: BaseException | None) -> dict[str, Any]:
        """Enter how a call ended; gives its row."""
        row, (started, _, prices) = self._rows[call_id], self._open[call_id]
        row["seconds"] = time.perf_counter() - started
        if error is not None:
            row["error"] = "Unfinished" if isinstance(error, asyncio.CancelledError) else type(error).__name__
        elif call_id not in self._billed:
            row["cache_hit"], row["cost_usd"] = True, 0.0
        elif prices is not None:  # stated by the user, see `models.as_lm`
            row["cost_usd"] = prices.cost(row["prompt_tokens"], row["completion_tokens"])
        del self._open[call_id]
        if (late := self._late.pop(call_id, None)) is not None:
            # The account was taken while it was under way: what it took in the end belongs there too.
            for name in row.keys() - {"error", "agent", "model"}:
                setattr(late, name, row[name])
        return row

    def bill(self, call_id: str, usage: Mapping[str, Any]) -> None:
        """Enter the tokens of a call; the first that are told count."""
        if call_id in self._rows and call_id not in self._billed:
            self._billed.add(call_id)
            self._rows[call_id].update(_tokens(usage))

    def enter(self, entry: Mapping[str, Any], call_id: str | None = None) -> None:
        """Take what DSPy wrote into the history entry of the call under way."""
        call_id = call_id or ACTIVE_CALL_ID.get() or ""
        row = self._rows.get(call_id)
        if row is not None:
            row.update(_told(entry))
            if entry.get("usage"):
                self.bill(call_id, entry["usage"])

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.start(call_id, instance, len(self._overheard(instance.model)))

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        for usage in self._overheard(self._rows[call_id]["model"])[self._open[call_id][1] :]:
            self.bill(call_id, usage)
        self.end(call_id, exception)

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self.bill(ACTIVE_CALL_ID.get() or "", usage_entry)
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)

    def _so_far(self, call_id: str, row: Mapping[str, Any]) -> LMCall:
        under_way = self._open.get(call_id)
        if under_way is None:
            return LMCall(**row)
        so_far = LMCall(**{**row, "error": "Unfinished", "seconds": time.perf_counter() - under_way[0]})
        return self._late.setdefault(call_id, so_far)

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


def watch_lm(lm: dspy.BaseLM, meter: Meter | None = None) -> Any:
    """The LM as one that keeps to the allowance and tells a meter of its calls, at a fifth of a callback's cost.

    It shares all that the LM has, history and connections included. It counts its calls in `asked`, and knows of the
    last one what was said (`said`) and what cut it short (`cut`).

    Args:
        lm: The LM.
        meter: Who is told; None where a meter sees all calls anyway, which would count a watched one twice.
    """
    kind: Any = type(lm)
    watched: Any = object.__new__(kind if issubclass(kind, _Watching) else _watching(kind))
    its = vars(watched)
    its.update(vars(lm), meter=meter or Meter("", everywhere=False), kwargs=dict(lm.kwargs))
    its.update(asked=0, said=None, cut=None)
    if "tries" not in its:
        retried_here = _is_retried(kind) and dspy.settings.send_stream is None
        its.update(
            tries=lm.num_retries if retried_here else 0,
            takes_timeouts=isinstance(getattr(lm, "engine", None), str),
            own_timeout=lm.kwargs.get("timeout"),
        )
        if retried_here:
            its["num_retries"] = 0  # DSPy would wait for as long as a provider says
    return watched


def _is_retried(kind: type[Any]) -> bool:
    """Whether DSPy would ask an LM of this class again after a transient error."""
    return issubclass(kind, dspy.LM) and kind.forward is dspy.LM.forward and kind.aforward is dspy.LM.aforward


@lru_cache(maxsize=64)
def _watching(kind: type[dspy.BaseLM]) -> type[dspy.BaseLM]:
    # A class of its own: DSPy's adapters want the very object called that they were given, so no wrapper will do.
    return type(kind.__name__, (_Watching, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


class _Watching(dspy.BaseLM):
    meter: Meter
    asked: int
    said: Any
    cut: str | None
    tries: int
    takes_timeouts: bool
    own_timeout: Any

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._watched(prompt, messages) as allowance:
            for attempt in range(self.tries + 1):
                self._hand_down(allowance)
                try:
                    with permitted(allowance):
                        self.said = super().__call__(prompt, messages=messages, **kwargs)
                    break
                except LMError as error:
                    time.sleep(self._pause(error, attempt, allowance))
        return self.said

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._watched(prompt, messages) as allowance:
            for attempt in range(self.tries + 1):
                self._hand_down(allowance)
                try:
                    async with apermitted(allowance):
                        self.said = await super().acall(prompt, messages=messages, **kwargs)
                    break
                except LMError as error:
                    await asyncio.sleep(self._pause(error, attempt, allowance))
        return self.said

    def update_history(self, entry: dict[str, Any]) -> None:
        call: Any = dspy.settings.get(_CALL)
        self.meter.enter(entry, call.id)
        self.cut = cut_by(_finish_reason(entry.get("response")))
        with dspy.context(disable_history=call.keeps_no_history):
            super().update_history(entry)

    @contextmanager
    def _watched(self, prompt: Any, messages: Any) -> Iterator[Allowance | None]:
        settings = dspy.settings
        allowance: Allowance | None = settings.get(ALLOWANCE)
        taken = None
        if allowance is not None:
            allowance.check()
            taken = allowance.reserve(self, prompt, messages)
        self.asked += 1
        self.cut = None
        call = _Watch(self.meter)
        self.meter.start(call.id, self)
        failed: BaseException | None = None
        try:
            # DSPy says what a call cost and why it ended in the entry for its history, and nowhere else.
            with dspy.context(**{"usage_tracker": call, "disable_history": False, _CALL: call}):
                yield allowance
        except BaseException as error:
            failed = error
            raise
        finally:
            row = self.meter.end(call.id, failed)
            if taken:
                Allowance.settle(taken, row)

    def _hand_down(self, allowance: Allowance | None) -> None:
        """Give the backend the time that is left."""
        if self.takes_timeouts and allowance is not None and allowance.deadline != _NEVER:
            remaining, own = allowance.remaining, self.own_timeout
            if own is None or (isinstance(own, (int, float)) and own > remaining):
                self.kwargs["timeout"] = wait_for(remaining)

    def _pause(self, error: LMError, attempt: int, allowance: Allowance | None) -> float:
        """Seconds until the next try, as DSPy waits; raises the error if there is none, or none that could end."""
        meter = dspy.settings.get(METER)
        if meter is not None:
            meter.trouble = error
        if attempt >= self.tries or not is_retryable_lm_error(error):
            raise error
        told = getattr(error, "retry_after", None)
        pause = float(told) if isinstance(told, (int, float)) and told >= 0 else min(2.0**attempt, 60.0)
        if allowance is not None:
            allowance.check()
            if pause >= allowance.remaining:
                raise error
        return pause


class _Watch(UsageTracker):
    """Stands where DSPy tells what one call is billed: never a cache hit."""

    def __init__(self, meter: Meter) -> None:
        self.id = uuid.uuid4().hex
        self.meter = meter
        self.parent = dspy.settings.usage_tracker
        self.usage_data = {} if self.parent is None else self.parent.usage_data
        self.keeps_no_history = bool(dspy.settings.disable_history)

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self.meter.bill(self.id, usage_entry)
        if self.parent is not None:
            self.parent.add_usage(lm, usage_entry)


@contextmanager
def metered(agent: str) -> Iterator[Meter]:
    """Meter the LM calls made inside, under this agent's name.

    Examples:
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
    return LMCall(agent=agent, model=entry["model"], **_told(entry), **_tokens(entry.get("usage") or {}))


class _Entries(list[Any]):
    """Stands where DSPy keeps a history: tells of each entry, and keeps no prompt."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        super().__init__()
        self._tell = tell

    def append(self, entry: Any) -> None:
        self._tell(entry)


def _told(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a history entry says beside the tokens."""
    response = entry.get("response")
    return {
        "cost_usd": _cost(entry),
        "finish_reason": _finish_reason(response),
        "deployment": _deployment(response),
    }


def _cost(entry: Mapping[str, Any]) -> float | None:
    return entry["cost"] if entry.get("cost") is not None else _stated_cost(entry.get("response"))


def _stated_cost(response: Any) -> float | None:
    """What a custom engine says a call cost, under `provider_data["response_cost"]`: DSPy prices its own only."""
    costs = [(getattr(one, "provider_data", None) or {}).get("response_cost") for one in _responses(response)]
    known = [float(cost) for cost in costs if isinstance(cost, (int, float)) and not isinstance(cost, bool)]
    return sum(known) if known and len(known) == len(costs) else None


def _finish_reason(response: Any) -> str | None:
    # The Responses API has a status: "completed" or "incomplete".
    reasons = [getattr(one, "finish_reason", None) or getattr(one, "status", None) for one in _responses(response)]
    return next((str(reason) for reason in reasons if reason is not None), None)


def _deployment(response: Any) -> str | None:
    told = [(getattr(one, "provider_data", None) or {}).get("deployment") for one in _responses(response)]
    return next((str(name) for name in told if name), None)


def _responses(response: Any) -> Sequence[Any]:
    """The responses of a history entry: one a candidate natively, `choices` in litellm's form."""
    if isinstance(response, (list, tuple)):
        return response
    return getattr(response, "choices", None) or [response]


def _tokens(usage: Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = _details(usage, "prompt_tokens_details"), _details(usage, "completion_tokens_details")
    return {
        "prompt_tokens": usage.get("prompt_tokens") or 0,
        "completion_tokens": usage.get("completion_tokens") or 0,
        "cached_tokens": prompt.get("cached_tokens") or 0,
        "reasoning_tokens": completion.get("reasoning_tokens") or 0,
    }


def _details(usage: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    details = usage.get(name) or {}
    return details if isinstance(details, Mapping) else details.model_dump()
