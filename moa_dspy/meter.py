"""The meter of an agent: it sees each LM call, and watched LMs keep to what a call may take."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import dspy
from dspy.utils.callback import ACTIVE_CALL_ID, BaseCallback
from dspy.utils.exceptions import LMError, LMTimeoutError, is_retryable_lm_error
from dspy.utils.usage_tracker import UsageTracker

from moa_dspy.allowance import ALLOWANCE, Allowance, wait_for
from moa_dspy.given_up import ENDED, enter_call, run_awaited
from moa_dspy.permits import apermitted, permitted
from moa_dspy.rollouts import Rollout, resample
from moa_dspy.usage import LMCall, cut_by, read_entry, read_tokens

__all__ = ["METER", "Meter", "metered", "watch_lm"]

# Among DSPy's settings: the meter in force.
METER: Final = "moa_dspy_meter"


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
        self.agent = agent
        self.everywhere = everywhere
        self.owner = owner
        self.trouble: BaseException | None = None
        """What went wrong last, also if it is being tried again."""
        self.history = _Entries(self)
        self._parent = dspy.settings.usage_tracker
        # A tracker nested in ours writes its sums here when it ends: they belong to ours' parent too.
        self.usage_data = {} if self._parent is None else self._parent.usage_data
        self._calls: dict[Any, _Call] = {}

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
        return [call.tell() for call in list(self._calls.values())]

    def call(self, call_id: str) -> LMCall | None:
        """What is known so far of the call with this id; None for one that this meter has not seen."""
        call = self._calls.get(call_id)
        return None if call is None else call.tell()

    def enter(self, lm: dspy.BaseLM, call_id: str | None = None) -> _Call:
        """Enter a call that is started."""
        call = _Call(self.agent, lm)
        self._calls[call_id or id(call)] = call
        return call

    def under_way(self, call_id: str | None) -> _Call | None:
        """The call under this id."""
        return self._calls.get(call_id)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        call = self.enter(instance, call_id)
        call.heard = len(self._overheard(instance.model))
        allowance = dspy.settings.get(ALLOWANCE)
        if allowance is not None and not isinstance(instance, _Watching):
            call.taken = allowance.reserve(instance, inputs.get("prompt"), inputs.get("messages"), is_asked=True)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        call = self._calls[call_id]
        for usage in self._overheard(call.row["model"])[call.heard :]:
            call.bill(usage)
        call.end(exception)

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        if (call := self._calls.get(ACTIVE_CALL_ID.get())) is not None:
            call.bill(usage_entry)
        if self._parent is not None:
            self._parent.add_usage(lm, usage_entry)

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
        is_dspys = issubclass(kind, dspy.LM) and kind.forward is dspy.LM.forward and kind.aforward is dspy.LM.aforward
        its.update(tries=0, own_timeout=lm.kwargs.get("timeout"))
        its["takes_timeouts"] = isinstance(getattr(lm, "engine", None), str)
        its["can_be_awaited"] = is_dspys and its["takes_timeouts"]
        if is_dspys and dspy.settings.send_stream is None:
            # DSPy would ask again itself after a transient error, and wait for as long as a provider says.
            its.update(tries=lm.num_retries, num_retries=0)
    return watched


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
    own_timeout: Any
    takes_timeouts: bool
    can_be_awaited: bool

    def __call__(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._watched(prompt, messages) as allowance:
            for attempt in range(self.tries + 1):
                self._hand_down(allowance)
                try:
                    with permitted(allowance), enter_call(self, allowance) as is_held:
                        if is_held and allowance and self.can_be_awaited and dspy.settings.send_stream is None:
                            self.said = run_awaited(super().acall(prompt, messages=messages, **kwargs), allowance)
                        else:
                            self.said = super().__call__(prompt, messages=messages, **kwargs)
                    break
                except LMError as error:
                    time.sleep(self._pause(error, attempt, allowance))
        return self.said

    async def acall(self, prompt: Any = None, *, messages: Any = None, **kwargs: Any) -> Any:
        with self._watched(prompt, messages) as allowance:
            for attempt in range(self.tries + 1):
                try:
                    async with apermitted(allowance):
                        self.said = await super().acall(prompt, messages=messages, **kwargs)
                    break
                except LMError as error:
                    await asyncio.sleep(self._pause(error, attempt, allowance))
        return self.said

    def update_history(self, entry: dict[str, Any]) -> None:
        call: Any = dspy.settings.usage_tracker
        call.hear(entry)
        self.cut = cut_by(call.row["finish_reason"])
        if call.keeps_no_history:
            with dspy.context(disable_history=True):
                super().update_history(entry)
        else:
            super().update_history(entry)

    @contextmanager
    def _watched(self, prompt: Any, messages: Any) -> Iterator[Allowance | None]:
        settings = dspy.settings
        allowance: Allowance | None = settings.get(ALLOWANCE)
        taken = []
        if allowance is not None:
            allowance.check()
            taken = allowance.reserve(self, prompt, messages)
        self.asked += 1
        self.cut = None
        call = self.meter.enter(self)
        call.taken = taken
        failed: BaseException | None = None
        # DSPy says what a call cost and why it ended in the entry for its history, and nowhere else.
        context: dict[str, Any] = {"usage_tracker": call, "disable_history": False}
        if settings.send_stream is not None and allowance is not None:
            context["send_stream"] = _Stream(settings.send_stream, allowance)
        try:
            with dspy.context(**context):
                yield allowance
        except BaseException as error:
            failed = error
            raise
        finally:
            call.end(failed)

    def _hand_down(self, allowance: Allowance | None) -> None:
        """Give the backend the time that is left: a thread that reads cannot be cancelled, as a task is."""
        if self.takes_timeouts and allowance is not None and allowance.deadline != float("inf"):
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
        if allowance is not None and (allowance.is_given_up or pause >= allowance.remaining):
            raise error
        return pause


class _Call(UsageTracker):
    """One LM call; stands where DSPy tells what it is billed: never a cache hit."""

    def __init__(self, agent: str, lm: dspy.BaseLM) -> None:
        self.started = time.perf_counter()
        self.row: dict[str, Any] = {"agent": agent, "model": lm.model}  # of an `LMCall`, once somebody asks for it
        self.prices = vars(lm).get("prices")
        self.heard = 0  # entries overheard before it
        self.taken: list[Any] = []  # of the allowance
        self.is_over = self.is_billed = False
        self.late: LMCall | None = None  # what was told of it while it was under way
        self.keeps_no_history = bool(dspy.settings.disable_history)
        self.parent = dspy.settings.usage_tracker
        self.usage_data = {} if self.parent is None else self.parent.usage_data

    def add_usage(self, lm: str, usage_entry: dict[str, Any]) -> None:
        self.bill(usage_entry)
        if self.parent is not None:
            self.parent.add_usage(lm, usage_entry)

    def bill(self, usage: Mapping[str, Any]) -> None:
        """Enter the tokens; the first that are told count."""
        if not self.is_billed:
            self.is_billed = True
            self.row.update(read_tokens(usage))

    def hear(self, entry: Mapping[str, Any]) -> None:
        """Take what DSPy wrote into the history."""
        self.row.update(read_entry(entry))
        if entry.get("usage"):
            self.bill(entry["usage"])

    def end(self, error: BaseException | None) -> None:
        """Enter how it ended."""
        row = self.row
        row["seconds"] = time.perf_counter() - self.started
        if error is not None:
            row["error"] = "Unfinished" if isinstance(error, asyncio.CancelledError) else type(error).__name__
        elif not self.is_billed:
            row["cache_hit"], row["cost_usd"] = True, 0.0
        elif self.prices is not None:  # stated by the user, see `models.as_lm`
            row["cost_usd"] = self.prices.cost(row["prompt_tokens"], row["completion_tokens"])
        self.is_over = True
        if self.taken:
            Allowance.settle(self.taken, row)
        if self.late is not None:
            # The account was taken while it was under way: what it took in the end belongs there too.
            for name in row.keys() - {"error", "agent", "model"}:
                setattr(self.late, name, row[name])

    def tell(self) -> LMCall:
        """What is known of it so far."""
        if self.is_over:
            return LMCall(**self.row)
        if self.late is None:
            seconds = time.perf_counter() - self.started
            self.late = LMCall(**{**self.row, "error": "Unfinished", "seconds": seconds})
        return self.late


class _Entries(list[Any]):
    """Stands where DSPy keeps a history: tells of each entry, and keeps no prompt."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def append(self, entry: Any) -> None:
        if (call := self._meter.under_way(ACTIVE_CALL_ID.get())) is not None:
            call.hear(entry)


class _Stream:
    """Stands where DSPy sends what a model streams: ends a stream that was given up."""

    def __init__(self, stream: Any, allowance: Allowance) -> None:
        self.stream = stream
        self.allowance = allowance

    async def send(self, item: Any) -> None:
        if self.allowance.is_given_up:
            raise LMTimeoutError(ENDED)
        await self.stream.send(item)
