"""MLflow's spans, as a mixture needs them: named by role and model, with tokens and cost, without secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import dspy
import mlflow
from mlflow.dspy.callback import MlflowCallback
from mlflow.tracing.constant import CostKey, SpanAttributeKey, TokenUsageKey

from moa_dspy.agent import Agent
from moa_dspy.evaluation.question import AllSystems
from moa_dspy.moa import MoA
from moa_dspy.tracking.billing import billed
from moa_dspy.tracking.guard import Guard
from moa_dspy.tracking.losses import Losses
from moa_dspy.tracking.masking import Mask
from moa_dspy.usage import LMCall, Meter

__all__ = ["Place", "Spans"]

logger = logging.getLogger("moa_dspy.tracking")


@dataclass(frozen=True)
class Place:
    """Where in a mixture a call is made.

    Attributes:
        role: `"proposer"` or `"aggregator"`; `"agent"` for one inside a program of the user's own.
        agent: The agent's name.
        layer: The proposer's layer, from 1.
        layers: How many there are.
    """

    role: str
    agent: str
    layer: int | None = None
    layers: int = 1

    def name(self, model: str | None) -> str:
        """What a reader sees: `proposer alice (simulated/alice)`, `layer 2: proposer ...`, `aggregator (...)`."""
        before = f"layer {self.layer}: " if self.layers > 1 and self.layer else ""
        own = "" if self.role == self.agent else f" {self.agent}"
        return f"{before}{self.role}{own}" + (f" ({model})" if model else "")

    def attributes(self, model: str | None) -> dict[str, Any]:
        """The same as attributes of a span."""
        found = {"moa.role": self.role, "moa.agent": self.agent, "moa.model": model, "moa.layer": self.layer}
        return {name: value for name, value in found.items() if value is not None}


class Spans(MlflowCallback):
    """Makes MLflow's spans of DSPy's calls.

    Nothing that goes wrong here reaches the program, and after the guard is broken nothing is done any more.
    """

    def __init__(self, guard: Guard, losses: Losses) -> None:
        super().__init__()
        self.guard = guard
        self.losses = losses
        self.mask = Mask()
        self._names: dict[str, str] = {}
        self._open: set[str] = set()
        self._lms: dict[str, Any] = {}
        self._told = False

    def __reduce__(self) -> tuple[Any, ...]:
        return MlflowCallback, ()  # MLflow pickles DSPy's settings with a model: it is loaded without us

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        def start() -> None:
            place, model = _place(instance) if isinstance(instance, Agent) else None, getattr(instance, "model", None)
            if place is not None:
                self._names[call_id] = place.name(model)
            elif isinstance(instance, MoA):
                self._names[call_id] = f"{type(instance).__name__} ({instance.strategy.name})"
                self.mask.learn(*(lm for agent in instance.agents for lm in agent.lms))
            super(Spans, self).on_module_start(call_id, instance, self.mask.data(inputs))
            if place is not None:
                _describe(place.attributes(model))

        self._start(call_id, start)

    def on_module_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        shown = super().on_module_end
        self._end(call_id, lambda: shown(call_id, self.mask.data(outputs), self.mask.error(exception)))

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        def start() -> None:
            self.mask.learn(instance)
            self._names[call_id] = instance.model
            super(Spans, self).on_lm_start(call_id, self.mask.lm(instance), self.mask.data(inputs))
            self._lms[call_id] = instance
            place = _place()
            if place is not None:
                _describe(place.attributes(instance.model))

        self._start(call_id, start)

    def on_lm_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        def end() -> None:
            try:
                _describe(_bill(billed(call_id, self._lms.pop(call_id, None), outputs)))
            finally:
                super(Spans, self).on_lm_end(call_id, self.mask.data(outputs), self.mask.error(exception))

        self._end(call_id, end)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        shown = super().on_adapter_format_start
        self._start(call_id, lambda: shown(call_id, instance, self.mask.data(inputs)))

    def on_adapter_format_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        shown = super().on_adapter_format_end
        self._end(call_id, lambda: shown(call_id, self.mask.data(outputs), self.mask.error(exception)))

    def on_adapter_parse_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        shown = super().on_adapter_parse_start
        self._start(call_id, lambda: shown(call_id, instance, self.mask.data(inputs)))

    def on_adapter_parse_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        shown = super().on_adapter_parse_end
        self._end(call_id, lambda: shown(call_id, self.mask.data(outputs), self.mask.error(exception)))

    def on_tool_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        shown = super().on_tool_start
        self._start(call_id, lambda: shown(call_id, instance, self.mask.data(inputs)))

    def on_tool_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        shown = super().on_tool_end
        self._end(call_id, lambda: shown(call_id, self.mask.data(outputs), self.mask.error(exception)))

    def _start_span(self, call_id: str, *args: Any, **kwargs: Any) -> Any:
        # MLflow has no public way to name a span of DSPy's. Should it stop calling this, spans have its names again.
        name = self._names.pop(call_id, None)
        if name is not None and "name" in kwargs:
            kwargs["name"] = name
        return super()._start_span(call_id, *args, **kwargs)

    def is_silent(self) -> bool:
        """Whether nothing is traced at the moment."""
        return False

    def _start(self, call_id: str, work: Callable[[], None]) -> None:
        if self.guard.broken or self.is_silent() or not self._safely(work):
            return
        self._open.add(call_id)
        span = mlflow.get_current_active_span()
        if span is not None and span.parent_id is None:
            self.losses.made(span.trace_id)

    def _end(self, call_id: str, work: Callable[[], None]) -> None:
        if call_id in self._open:
            self._open.discard(call_id)
            self._safely(work)

    def _safely(self, work: Callable[[], None]) -> bool:
        try:
            work()
        except Exception as error:
            if not self._told:
                self._told = True
                logger.warning(
                    "A part of a trace is missing, and others may be: %s: %s. The program goes on.",
                    type(error).__name__,
                    self.mask.text(str(error)),
                )
            return False
        return True


def _describe(attributes: dict[str, Any]) -> None:
    span = mlflow.get_current_active_span()
    if span is not None and attributes:
        span.set_attributes(attributes)


def _bill(call: LMCall | None) -> dict[str, Any]:
    """Tokens and cost as MLflow's pages read them; what is not known stays absent."""
    if call is None or not (call.prompt_tokens or call.completion_tokens):  # unknown, or a hit in DSPy's cache
        return {}
    usage = {
        TokenUsageKey.INPUT_TOKENS: call.prompt_tokens,
        TokenUsageKey.OUTPUT_TOKENS: call.completion_tokens,
        TokenUsageKey.TOTAL_TOKENS: call.prompt_tokens + call.completion_tokens,
    }
    if call.cached_tokens:
        usage[TokenUsageKey.CACHE_READ_INPUT_TOKENS] = call.cached_tokens
    cost = {} if call.cost_usd is None else {SpanAttributeKey.LLM_COST: {CostKey.TOTAL_COST: call.cost_usd}}
    return {SpanAttributeKey.CHAT_USAGE: usage, **cost}


def _place(agent: Agent | None = None) -> Place | None:
    """Where the call under way is made, or the agent that is being called."""
    callers = [*(dspy.settings.caller_modules or []), *([agent] if agent is not None else [])]
    last = next((number for number, caller in reversed(list(enumerate(callers))) if isinstance(caller, Agent)), None)
    if last is None:
        return None
    found = callers[last]
    around = [caller.field.moa if isinstance(caller, AllSystems) else caller for caller in callers[:last]]
    moa = next((caller for caller in reversed(around) if isinstance(caller, MoA)), None)
    meter = next((caller for caller in reversed(callers[:last]) if isinstance(caller, Meter)), None)
    name = found.name if meter is None else meter.agent
    if moa is not None and found is moa.aggregator:
        return Place("aggregator", name)
    layers = [] if moa is None else moa.panels
    for number, panel in enumerate(layers, start=1):
        if any(found is member for member in panel.agents):
            return Place("proposer", name, number, len(layers))
    return Place("agent", found.name)
