"""MLflow's spans, as a mixture needs them: named by role and model, with tokens, cost and what came of it."""

from __future__ import annotations

import time
import traceback
from collections import deque
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import dspy
import mlflow
from mlflow.dspy.callback import MlflowCallback
from mlflow.entities import NoOpSpan, SpanType
from mlflow.tracing.constant import SpanAttributeKey, TraceMetadataKey

from moa_dspy.agent import Agent
from moa_dspy.meter import METER, watch_lm
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata
from moa_dspy.secrets import is_secret, mask, remembered, secret_values
from moa_dspy.strategies import Strategy, Verdict
from moa_dspy.tracking.attributes import describe_call, describe_outcome, find_call, place_agent, sum_up
from moa_dspy.tracking.watch import BLOCK, Watch, links, metadata_of
from moa_dspy.usage import LMCall
from moa_dspy.values import to_jsonable

__all__ = ["Spans", "trace_of"]

_INSIDE = (dspy.Predict, dspy.ChainOfThought, Strategy)  # what an agent runs: it says no more than the agent's span
_KEPT = 10_000  # traces whose sums are remembered until they are flushed


@dataclass
class _Asked:
    """An LM call as its span tells it; times in nanoseconds."""

    lm: Any
    inputs: Any
    parent: Any
    start: int
    end: int = 0
    outputs: Any = None
    error: BaseException | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Open:
    """A span under way, with the LM calls right inside it; a trace's root has all calls that are billed to it."""

    span: Any
    manager: AbstractContextManager[Any]
    instance: Any
    takes_one: bool = False
    asked: list[_Asked] = field(default_factory=list)
    calls: list[LMCall] = field(default_factory=list)
    settings: AbstractContextManager[Any] | None = None


class Spans(MlflowCallback):
    """Makes a span of each mixture, agent, program, tool and LM call, where MLflow's own callback stood.

    An agent that asked its model once is one span with that call, since two would say the same and take twice the time;
    LM calls of one that asked more often stand below it. It is one of MLflow's kind, so that `mlflow.dspy.autolog()`
    finds that there is one. `made` has the traces so far: what each took, as MLflow's metadata says it.
    """

    def __init__(self, is_full: bool, log_traces_from_compile: bool) -> None:
        super().__init__()
        self.log_traces_from_compile = log_traces_from_compile
        self.made: dict[str, dict[str, str]] = {}
        self._is_full = is_full
        self._open: dict[str, _Open] = {}
        self._spans: dict[str, _Open | None] = {}  # and by their spans' ids; LM calls' own, until they end, are None
        self._roots: dict[str, _Open] = {}  # and by their traces' ids
        self._asked: dict[str, _Asked] = {}
        self._above_lms: deque[str] = deque(maxlen=1000)
        self._secrets = _Secrets()

    def __reduce__(self) -> tuple[Any, ...]:
        return MlflowCallback, ()  # MLflow pickles DSPy's settings with a model: it is loaded without us

    def __deepcopy__(self, memo: dict[int, Any]) -> Spans:
        return self  # as LMs are copied, with the callbacks that they hold

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        given = inputs.get("kwargs", {})
        if isinstance(instance, MoA):
            self._secrets.learn(lm for agent in instance.agents for lm in agent.lms)
            name = f"{type(instance).__name__} ({instance.strategy.name})"
            self._start(call_id, instance, name, SpanType.CHAIN, given)
        elif isinstance(instance, Agent):
            (name, place), case = place_agent(instance), given.get("case")
            # A strategy is shown the whole case: its proposals stand in the spans beside.
            told = given if case is None else case.inputs
            opened = self._start(call_id, instance, name, SpanType.AGENT, told)
            if opened is not None:
                opened.span.set_attributes(place)
                opened.takes_one = not self._is_full
                opened.settings = None if self._is_full else self._listen_to_lm(instance)
        elif not (isinstance(instance, _INSIDE) and _is_in_agent()):
            kind = SpanType.AGENT if isinstance(instance, dspy.ReAct) else SpanType.CHAIN
            self._start(call_id, instance, f"{type(instance).__name__}.forward", kind, given)

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        opened, metadata = self._open.get(call_id), metadata_of(outputs, exception)
        if opened is None:
            return
        if metadata is not None:
            opened.span.set_attributes(describe_outcome(metadata))
        trace_id = opened.span.trace_id
        if self._roots.get(trace_id) is opened:
            self.made[trace_id] = _describe_trace(opened, metadata)
            if len(self.made) > _KEPT:
                self.made.pop(next(iter(self.made)), None)
            if isinstance(outputs, dspy.Prediction):
                outputs._moa_trace_id = trace_id
        self._end(call_id, outputs, exception)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._secrets.learn([instance])
        parent = mlflow.get_current_active_span()
        if parent is None:
            opened = self._start(call_id, instance, instance.model, SpanType.CHAT_MODEL)
            if opened is not None:
                opened.takes_one, parent = True, opened.span
        if parent is not None and self._is_traced(instance):
            given = {**instance.kwargs, **inputs, **inputs.get("kwargs", {}), "kwargs": None}
            told = self._secrets.mask(to_jsonable({name: value for name, value in given.items() if value is not None}))
            self._asked[call_id] = _Asked(instance, told, parent, time.time_ns())
            self._above_lms.append(parent.span_id)

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        asked = self._asked.pop(call_id, None)
        if asked is None:
            return
        asked.end, asked.error = time.time_ns(), exception
        asked.outputs = None if outputs is None else self._secrets.mask(to_jsonable(outputs))
        call, root = find_call(asked.lm, outputs), self._roots.get(asked.parent.trace_id)
        asked.attributes = describe_call(asked.lm.model, call)
        if root is not None and call is not None:
            root.calls.append(call)
        above = self._spans.get(asked.parent.span_id)
        if above is None:
            self._make_lm_span(asked)
        else:
            above.asked.append(asked)
        self._end(call_id, outputs, exception)  # one of its own, if nothing was above it

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(call_id, instance, f"Tool.{instance.name}", SpanType.TOOL, inputs.get("kwargs", {}))

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._is_full:
            self._start(call_id, instance, f"{type(instance).__name__}.format", SpanType.PARSER, inputs)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._is_full:
            self._start(call_id, instance, f"{type(instance).__name__}.parse", SpanType.PARSER, inputs)

    def process(self, span: Any) -> None:
        """Take secrets out of a span of somebody else's before it is stored, and usage that is counted already."""
        if span.span_id in self._spans:  # what is ours went in without
            return
        for name, value in span.attributes.items():
            shown = self._secrets.mask(value, name)
            if shown != value:
                span.set_attribute(name, shown)
        # mlflow.litellm.autolog and the like make a span of their own of an LM call, with the same tokens.
        if span.parent_id in self._above_lms and span.get_attribute(SpanAttributeKey.CHAT_USAGE):
            span.set_attribute(SpanAttributeKey.CHAT_USAGE, {})

    def _is_traced(self, instance: Any) -> bool:
        watch = _watch_of(instance)
        return watch is None or not watch.is_compiling or self.log_traces_from_compile

    def _start(self, call_id: str, instance: Any, name: str, kind: str, inputs: Any = None) -> _Open | None:
        if not self._is_traced(instance):
            return None
        manager = mlflow.start_span(name=name, span_type=kind)
        span = manager.__enter__()
        opened = self._open[call_id] = _Open(span, manager, instance)
        if isinstance(span, NoOpSpan):  # not sampled, or switched off
            return None
        self._spans[span.span_id] = opened
        if inputs is not None:
            span.set_inputs(self._secrets.mask(to_jsonable(inputs)))
        if span.parent_id is None:
            self._roots[span.trace_id] = opened
        return opened

    def _end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        opened = self._open.pop(call_id, None)
        if opened is None:
            return
        if opened.settings is not None:
            opened.settings.__exit__(None, None, None)
        span = opened.span
        if self._roots.get(span.trace_id) is opened:
            del self._roots[span.trace_id]
        elif span.trace_id in self.made:
            span.set_attribute("moa.late", True)  # it was abandoned: the answer was made without it
        if exception is not None:
            span.record_exception(self._secrets.mask_error(exception))
        else:
            said = outputs.outputs if isinstance(outputs, Verdict) else outputs
            said = to_jsonable(said.toDict() if isinstance(said, dspy.Prediction) else said)
            span.set_outputs(self._secrets.mask(said))
        if opened.takes_one and len(opened.asked) == 1:
            [asked] = opened.asked
            span.set_span_type(SpanType.CHAT_MODEL)
            span.set_inputs(asked.inputs)
            span.set_attributes(asked.attributes)
            if exception is not None:
                span.set_outputs(asked.outputs)  # what could not be read, perhaps
        else:
            for asked in opened.asked:
                self._make_lm_span(asked)
        opened.manager.__exit__(None, None, None)
        self._spans.pop(span.span_id, None)

    on_tool_end = on_adapter_format_end = on_adapter_parse_end = _end

    def _listen_to_lm(self, agent: Agent) -> AbstractContextManager[Any] | None:
        """Stand at the LM alone inside an agent that asks no other.

        Where a callback stands among its settings, DSPy binds the arguments of every module and adapter, 50 us each.
        """
        meter = dspy.settings.get(METER)
        if meter is None or meter.owner is not agent or meter.everywhere:
            return None
        lm = watch_lm(dspy.settings.lm, meter)
        lm.callbacks = [*lm.callbacks, self]
        others = [callback for callback in dspy.settings.callbacks if callback is not self]
        settings: AbstractContextManager[Any] = dspy.context(lm=lm, callbacks=others)
        settings.__enter__()
        return settings

    def _make_lm_span(self, asked: _Asked) -> None:
        """Make the span of an LM call that has ended."""
        span = mlflow.start_span_no_context(
            asked.lm.model,
            SpanType.CHAT_MODEL,
            asked.parent,
            asked.inputs,
            asked.attributes,
            start_time_ns=asked.start,
        )
        self._spans[span.span_id] = None
        if asked.parent.trace_id in self.made:
            span.set_attribute("moa.late", True)
        if asked.error is not None:
            span.record_exception(self._secrets.mask_error(asked.error))
        span.end(outputs=asked.outputs, end_time_ns=asked.end)
        del self._spans[span.span_id]


def trace_of(prediction: Any) -> str | None:
    """The trace that a prediction is of."""
    return vars(prediction).get("_moa_trace_id") if isinstance(prediction, dspy.Prediction) else None


def _describe_trace(root: _Open, metadata: MoAMetadata | None) -> dict[str, str]:
    """Say of the trace under way what it took, and whose it is; gives the former.

    MLflow's server adds up what has arrived, which can lack the last spans: the sums go with the root.
    """
    sums, unpriced = sum_up(root.calls if metadata is None else metadata.calls)
    linked, watch = links.get(root.instance, {}), _watch_of(root.instance)
    tags = {"moa.unpriced_calls": str(unpriced), **linked.get("tags", {})}
    if metadata is not None:
        tags |= {"moa.strategy": metadata.strategy, "moa.degraded": str(metadata.degraded).lower()}
    run_id = None if watch is None else watch.run_id
    about = sums if run_id is None else {**sums, TraceMetadataKey.SOURCE_RUN: run_id}
    mlflow.update_current_trace(tags=tags, metadata=about, model_id=linked.get("model_id"))
    return sums


def _watch_of(instance: Any) -> Watch | None:
    """The tracked block that a call is in; a mixture brings it along into other threads."""
    callbacks = [dspy.settings.get(BLOCK), *getattr(instance, "callbacks", ())]
    return next((callback for callback in callbacks if isinstance(callback, Watch)), None)


def _is_in_agent() -> bool:
    return any(isinstance(caller, Agent) for caller in dspy.settings.caller_modules or ())


_is_secret = lru_cache(maxsize=4096)(is_secret)


class _Secrets:
    """The secrets of the LMs seen so far: looking for them anew in each span would take its time."""

    def __init__(self) -> None:
        self._values: list[str] = []  # the longest first
        self._learned: set[int] = set()
        # A question and a system prompt stand in many spans.
        self._mask = lru_cache(maxsize=512)(lambda text: mask(text, self._values))

    def learn(self, lms: Iterable[Any]) -> None:
        """Know the secrets of these LMs from now on."""
        new = {hash((lm.model, repr(lm.kwargs))): lm for lm in lms if lm is not None}
        if not new.keys() <= self._learned:
            self._learned.update(new)
            self._values = sorted({*self._values, *secret_values(*new.values(), *remembered())}, key=len, reverse=True)
            self._mask.cache_clear()

    def mask(self, value: Any, name: str = "") -> Any:
        """A copy of JSON data without secrets, at any depth."""
        if name and isinstance(value, (str, dict, list)) and _is_secret(name):
            return "***"
        if isinstance(value, str):
            return self._mask(value)
        if isinstance(value, dict):
            return {key: self.mask(item, str(key)) for key, item in value.items()}
        return [self.mask(item) for item in value] if isinstance(value, list) else value

    def mask_error(self, error: BaseException) -> Exception:
        """The error, or one of the same name that says the same without secrets; its causes are left out then."""
        told = "".join(traceback.format_exception(error))
        if mask(told, self._values) == told and isinstance(error, Exception):
            return error
        masked: Exception = type(type(error).__name__, (Exception,), {})(mask(str(error), self._values))
        return masked
