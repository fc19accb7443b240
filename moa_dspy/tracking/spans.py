"""MLflow's spans, as a mixture needs them: named by role and model, with tokens, cost and what came of it."""

from __future__ import annotations

import json
import traceback
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import dspy
import mlflow
from dspy.clients.model_metadata import model_info
from mlflow.dspy.callback import MlflowCallback
from mlflow.tracing.constant import CostKey, SpanAttributeKey, TokenUsageKey, TraceMetadataKey

from moa_dspy.agent import Agent
from moa_dspy.moa import MoA
from moa_dspy.results import MoAMetadata
from moa_dspy.secrets import is_secret, mask, remembered, secret_values
from moa_dspy.strategies import Strategy, Verdict
from moa_dspy.tracking.watch import BLOCK, Watch, links, metadata_of
from moa_dspy.usage import LMCall, call_of
from moa_dspy.values import to_jsonable

__all__ = ["Spans"]

_INSIDE = (dspy.Predict, dspy.ChainOfThought, Strategy)  # what an agent runs: it says no more than the agent's span
_KEPT = 10_000  # traces whose sums are remembered until they are flushed


@dataclass
class _Trace:
    """A trace under way: the calls whose tokens and cost are its own, and what else its mixture says of it."""

    root: str
    watch: Watch | None
    calls: list[LMCall] = field(default_factory=list)
    linked: dict[str, Any] = field(default_factory=dict)


class Spans(MlflowCallback):
    """Makes a span of each mixture, agent, program, tool and LM call, where MLflow's own callback stood.

    It is one of MLflow's kind, so that `mlflow.dspy.autolog()` finds that there is one.

    Args:
        is_full: Make spans of what adapters format and parse, too.
        log_traces_from_compile: Trace what optimizers try, too.

    Attributes:
        made: Of the traces made, by id: what each took, as MLflow's metadata says it.
        answered: Which trace a prediction is of, by the prediction's id; filled while `keeps_answers`.
    """

    def __init__(self, is_full: bool, log_traces_from_compile: bool) -> None:
        super().__init__()
        self.log_traces_from_compile = log_traces_from_compile
        self.made: dict[str, dict[str, str]] = {}
        self.answered: dict[int, tuple[Any, str]] = {}
        self.keeps_answers = False
        self._is_full = is_full
        self._open: dict[str, tuple[AbstractContextManager[Any], Any]] = {}
        self._traces: dict[str, _Trace] = {}
        self._lms: dict[str, Any] = {}
        self._own: set[str] = set()  # spans, until they end
        self._lm_spans: deque[str] = deque(maxlen=1000)
        self._secrets = _Secrets()

    def __reduce__(self) -> tuple[Any, ...]:
        return MlflowCallback, ()  # MLflow pickles DSPy's settings with a model: it is loaded without us

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        callers, given = dspy.settings.caller_modules or [], inputs.get("kwargs", {})
        if isinstance(instance, MoA):
            self._secrets.learn(lm for agent in instance.agents for lm in agent.lms)
            watch = next((callback for callback in instance.callbacks if isinstance(callback, Watch)), None)
            name = f"{type(instance).__name__} ({instance.strategy.name})"
            trace = self._start(call_id, name, "CHAIN", given, watch=watch)
            if trace is not None:
                trace.linked = links.get(instance, {})
        elif isinstance(instance, Agent):
            place, case = _place(instance, callers), given.get("case")
            # A strategy is shown the whole case: its proposals stand in the spans beside.
            self._start(call_id, _name(place, instance), "AGENT", given if case is None else case.inputs, place)
        elif not (isinstance(instance, _INSIDE) and any(isinstance(caller, Agent) for caller in callers)):
            kind = "AGENT" if isinstance(instance, dspy.ReAct) else "CHAIN"
            self._start(call_id, f"{type(instance).__name__}.forward", kind, given)

    def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        if call_id not in self._open:
            return
        span, metadata = self._open[call_id][1], metadata_of(outputs, exception)
        if metadata is not None:
            span.set_attributes(_facts(metadata))
        trace = self._traces.get(span.trace_id)
        if trace is not None and trace.root == call_id:
            del self._traces[span.trace_id]
            self.made[span.trace_id] = _describe_trace(trace, metadata)
            if len(self.made) > _KEPT:
                self.made.pop(next(iter(self.made)), None)
            if self.keeps_answers:
                self.answered[id(outputs)] = (outputs, span.trace_id)  # held, so that no other gets its id
        self._end(call_id, outputs, exception)

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._secrets.learn([instance])
        attributes = {
            **{f"setting.{name}": value for name, value in instance.kwargs.items()},
            SpanAttributeKey.MODEL: instance.model,
            SpanAttributeKey.MODEL_PROVIDER: instance.model.partition("/")[0] if "/" in instance.model else None,
            SpanAttributeKey.MESSAGE_FORMAT: "dspy",
        }
        known = {name: value for name, value in attributes.items() if value is not None}
        given = {name: value for name, value in {**inputs, **inputs.get("kwargs", {})}.items() if value is not None}
        given.pop("kwargs", None)
        self._start(call_id, instance.model, "CHAT_MODEL", given, self._secrets.mask(to_jsonable(known)))
        if call_id in self._open:
            self._lms[call_id] = instance
            self._lm_spans.append(self._open[call_id][1].span_id)

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        if call_id not in self._open:
            return
        span, call = self._open[call_id][1], _find_call(self._lms.pop(call_id), outputs)
        if call is not None and (call.prompt_tokens or call.completion_tokens):
            cost = {} if call.cost_usd is None else {SpanAttributeKey.LLM_COST: _cost(call)}
            span.set_attributes({SpanAttributeKey.CHAT_USAGE: _tokens(call), **cost})
            if span.trace_id in self._traces:
                self._traces[span.trace_id].calls.append(call)
        elif call is not None:
            span.set_attribute("moa.cache_hit", True)
        self._end(call_id, outputs, exception)

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self._start(call_id, f"Tool.{instance.name}", "TOOL", inputs.get("kwargs", {}))

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._is_full:
            self._start(call_id, f"{type(instance).__name__}.format", "PARSER", inputs)

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._is_full:
            self._start(call_id, f"{type(instance).__name__}.parse", "PARSER", inputs)

    def process(self, span: Any) -> None:
        """Take secrets out of a span of somebody else's before it is stored, and usage that is counted already."""
        if span.span_id in self._own:  # they went in without
            self._own.discard(span.span_id)
            return
        for name, value in span.attributes.items():
            shown = self._secrets.mask(value, name)
            if shown != value:
                span.set_attribute(name, shown)
        # mlflow.litellm.autolog and the like make a span of their own inside of ours, with the same tokens.
        if span.parent_id in self._lm_spans and span.get_attribute(SpanAttributeKey.CHAT_USAGE):
            span.set_attribute(SpanAttributeKey.CHAT_USAGE, {})

    def _start(
        self,
        call_id: str,
        name: str,
        kind: str,
        inputs: Any,
        attributes: Mapping[str, Any] | None = None,
        watch: Watch | None = None,
    ) -> _Trace | None:
        """Start a span; gives the trace, should that begin here."""
        watch = dspy.settings.get(BLOCK) or watch
        if watch is not None and watch.is_compiling and not self.log_traces_from_compile:
            return None
        manager = mlflow.start_span(name=name, span_type=kind, attributes=dict(attributes or {}))
        span = manager.__enter__()
        self._open[call_id] = manager, span
        self._own.add(span.span_id)
        span.set_inputs(self._secrets.mask(to_jsonable(inputs)))
        if span.parent_id is not None:
            return None
        self._traces[span.trace_id] = _Trace(call_id, watch)
        return self._traces[span.trace_id]

    def _end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        if call_id not in self._open:
            return
        manager, span = self._open.pop(call_id)
        if span.trace_id in self.made and span.parent_id is not None:
            span.set_attribute("moa.late", True)  # it was abandoned: the answer was made without it
        if exception is not None:
            span.record_exception(self._secrets.mask_error(exception))
        else:
            said = outputs.outputs if isinstance(outputs, Verdict) else outputs
            said = to_jsonable(said.toDict() if isinstance(said, dspy.Prediction) else said)
            span.set_outputs(self._secrets.mask(said))
        manager.__exit__(None, None, None)

    on_tool_end = on_adapter_format_end = on_adapter_parse_end = _end


def _describe_trace(trace: _Trace, metadata: MoAMetadata | None) -> dict[str, str]:
    """Say of the trace under way what it took, and whose it is; gives the former.

    MLflow's server adds up what has arrived, which can lack the last spans: the sums go with the root.
    """
    made = trace.calls if metadata is None else metadata.calls
    billed = [call for call in made if call.prompt_tokens or call.completion_tokens]
    priced = [call for call in billed if call.cost_usd is not None]
    sums = {}
    if billed:
        sums[TraceMetadataKey.TOKEN_USAGE] = _add([_tokens(call) for call in billed])
    if priced:
        costs = [_cost(call) for call in priced]
        shared = set.intersection(*map(set, costs))
        sums[TraceMetadataKey.COST] = _add([{kind: cost[kind] for kind in cost if kind in shared} for cost in costs])
    tags = {"moa.unpriced_calls": str(len(billed) - len(priced)), **trace.linked.get("tags", {})}
    if metadata is not None:
        tags |= {"moa.strategy": metadata.strategy, "moa.degraded": str(metadata.degraded).lower()}
    run_id = None if trace.watch is None else trace.watch.run_id
    about = sums if run_id is None else {**sums, TraceMetadataKey.SOURCE_RUN: run_id}
    mlflow.update_current_trace(tags=tags, metadata=about, model_id=trace.linked.get("model_id"))
    return sums


def _add(parts: list[dict[str, float]]) -> str:
    """The sums by name, as JSON."""
    return json.dumps({name: sum(part.get(name, 0) for part in parts) for part in parts for name in part})


def _place(agent: Agent, callers: list[Any]) -> dict[str, Any]:
    """Where in a mixture an agent is called, as attributes of its span."""
    place = {"moa.role": "agent", "moa.agent": agent.name, "moa.model": agent.model}
    moa = next((caller for caller in reversed(callers) if isinstance(caller, MoA)), None)
    if moa is not None and agent is moa.aggregator:
        return {**place, "moa.role": "aggregator"}
    panels = [] if moa is None else moa.panels
    for number, panel in enumerate(panels, start=1):
        if any(agent is member for member in panel.agents):
            layer = {"moa.layer": number} if len(panels) > 1 else {}
            return {**place, "moa.role": "proposer", **layer}
    return place


def _name(place: Mapping[str, Any], agent: Agent) -> str:
    """What a reader sees: `proposer alice (simulated/alice)`, `layer 2: proposer ...`, `aggregator (...)`."""
    role, layer = place["moa.role"], place.get("moa.layer")
    words = [f"layer {layer}:" if layer else "", role, "" if role == agent.name else agent.name]
    return " ".join(filter(None, [*words, f"({agent.model})" if agent.model else ""]))


def _facts(metadata: MoAMetadata) -> dict[str, Any]:
    """What came of a mixture's call, as attributes of its span."""
    facts = metadata.model_dump(include={"answered_by", "fallback_used", "selected", "agreement", "degraded"})
    facts["failures"] = [f"{failure.agent}: {failure.error}" for failure in metadata.failures]
    return {f"moa.{name}": value for name, value in facts.items() if value is not None}


def _find_call(lm: Any, outputs: Any) -> LMCall | None:
    """What DSPy wrote of an LM call into the LM's history; None if it wrote nothing.

    DSPy hands the list that it wrote there on to the callbacks, so that the call's own entry is found by identity,
    whoever else asks meanwhile.
    """
    entries = [] if outputs is None else list(lm.history)[-1000:]
    entry = next((entry for entry in reversed(entries) if entry["outputs"] is outputs), None)
    if entry is None:
        return None
    call, prices = call_of(entry, "program"), vars(lm).get("prices")
    if prices is not None:  # stated by the user, see `models.as_lm`
        call.cost_usd = prices.cost(call.prompt_tokens, call.completion_tokens)
    return call


def _tokens(call: LMCall) -> dict[str, float]:
    """Tokens as MLflow's pages read them."""
    return {
        TokenUsageKey.INPUT_TOKENS: call.prompt_tokens,
        TokenUsageKey.OUTPUT_TOKENS: call.completion_tokens,
        TokenUsageKey.TOTAL_TOKENS: call.prompt_tokens + call.completion_tokens,
        **({TokenUsageKey.CACHE_READ_INPUT_TOKENS: call.cached_tokens} if call.cached_tokens else {}),
    }


_COSTS = (CostKey.INPUT_COST, CostKey.OUTPUT_COST, CostKey.TOTAL_COST)


def _cost(call: LMCall) -> dict[str, float]:
    """The cost of a call in USD, and its parts where the prices of both are known."""
    total = call.cost_usd or 0.0
    prices = _prices(call.model)
    asked, answered = call.prompt_tokens * prices[0], call.completion_tokens * prices[1]
    if not asked + answered:
        return {CostKey.TOTAL_COST: total}
    share = total / (asked + answered)
    return dict(zip(_COSTS, (asked * share, answered * share, total), strict=True))


@lru_cache(maxsize=256)
def _prices(model: str) -> tuple[float, float]:
    provider, name = model.split("/", 1) if "/" in model else ("openai", model)
    info = model_info(provider, name)
    return float(info.get("input_cost_per_token") or 0.0), float(info.get("output_cost_per_token") or 0.0)


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
