"""What a mixture's spans say: role and model in their names; tokens, cost and what came of it as attributes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import dspy
from mlflow.tracing.constant import CostKey, SpanAttributeKey, TokenUsageKey, TraceMetadataKey

from moa_dspy.agent import Agent
from moa_dspy.moa import MoA
from moa_dspy.models import known_of
from moa_dspy.results import MoAMetadata
from moa_dspy.usage import LMCall, call_of

__all__ = ["describe_call", "describe_outcome", "find_call", "place_agent", "sum_up"]


def place_agent(agent: Agent) -> tuple[str, dict[str, Any]]:
    """How a reader sees an agent's span, and where in a mixture it is called, as attributes.

    It is called `proposer alice (simulated/alice)`, `layer 2: proposer ...` or `aggregator (...)`.
    """
    moa = next((caller for caller in reversed(dspy.settings.caller_modules or []) if isinstance(caller, MoA)), None)
    is_aggregator = moa is not None and agent is moa.aggregator
    panels = [] if moa is None or is_aggregator else moa.panels
    layers = [n for n, panel in enumerate(panels, start=1) if any(agent is member for member in panel.agents)]
    role = "aggregator" if is_aggregator else "proposer" if layers else "agent"
    layer = layers[0] if layers and len(panels) > 1 else None
    words = [layer and f"layer {layer}:", role, agent.name != role and agent.name, agent.model and f"({agent.model})"]
    attributes = {"moa.role": role, "moa.agent": agent.name, **({} if layer is None else {"moa.layer": layer})}
    return " ".join(str(word) for word in words if word), attributes


def describe_outcome(metadata: MoAMetadata) -> dict[str, Any]:
    """What came of a mixture's call, as attributes of its span."""
    facts = {name: getattr(metadata, name) for name in _FACTS}
    facts["failures"] = [f"{failure.agent}: {failure.error}" for failure in metadata.failures]
    return {f"moa.{name}": value for name, value in facts.items() if value is not None}


_FACTS = ("answered_by", "fallback_used", "selected", "agreement", "degraded")


def find_call(lm: Any, outputs: Any) -> LMCall | None:
    """What DSPy wrote of an LM call into the LM's history; None if it wrote nothing.

    DSPy hands the list that it wrote there on to the callbacks, so that the call's own entry is found by identity,
    whoever else asks meanwhile.
    """
    entries = [] if outputs is None else lm.history[-1000:]
    entry = next((entry for entry in reversed(entries) if entry["outputs"] is outputs), None)
    if entry is None:
        return None
    call, prices = call_of(entry, "program"), vars(lm).get("prices")
    if prices is not None:  # stated by the user, see `models.as_lm`
        call.cost_usd = prices.cost(call.prompt_tokens, call.completion_tokens)
    return call


def describe_call(model: str, call: LMCall | None) -> dict[str, Any]:
    """An LM call as attributes of its span; without tokens it was a hit in DSPy's cache."""
    attributes: dict[str, Any] = {SpanAttributeKey.MODEL: model, SpanAttributeKey.MESSAGE_FORMAT: "dspy"}
    if "/" in model:
        attributes[SpanAttributeKey.MODEL_PROVIDER] = model.partition("/")[0]
    if call is not None and _is_billed(call):
        attributes[SpanAttributeKey.CHAT_USAGE] = _tokens(call)
        if call.cost_usd is not None:
            attributes[SpanAttributeKey.LLM_COST] = _cost(call)
    elif call is not None:
        attributes["moa.cache_hit"] = True
    return attributes


def sum_up(calls: Iterable[LMCall]) -> tuple[dict[str, str], int]:
    """What calls took together, as MLflow's metadata of a trace says it; and how many of them have no price."""
    billed = [call for call in calls if _is_billed(call)]
    costs = [_cost(call) for call in billed if call.cost_usd is not None]
    told = {TraceMetadataKey.TOKEN_USAGE: [_tokens(call) for call in billed], TraceMetadataKey.COST: costs}
    return {name: _add(parts) for name, parts in told.items() if parts}, len(billed) - len(costs)


def _is_billed(call: LMCall) -> bool:
    return bool(call.prompt_tokens or call.completion_tokens)


def _add(parts: list[dict[str, float]]) -> str:
    """The sums of what all of them say, so that no part is a sum of some."""
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    return json.dumps({name: sum(part[name] for part in parts) for name in shared})


def _tokens(call: LMCall) -> dict[str, float]:
    """Tokens as MLflow's pages read them."""
    return {
        TokenUsageKey.INPUT_TOKENS: call.prompt_tokens,
        TokenUsageKey.OUTPUT_TOKENS: call.completion_tokens,
        TokenUsageKey.TOTAL_TOKENS: call.prompt_tokens + call.completion_tokens,
        TokenUsageKey.CACHE_READ_INPUT_TOKENS: call.cached_tokens,
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


def _prices(model: str) -> tuple[float, float]:
    info = known_of(model)
    return float(info.get("input_cost_per_token") or 0.0), float(info.get("output_cost_per_token") or 0.0)
