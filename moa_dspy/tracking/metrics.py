"""LM calls as MLflow's metrics: per agent, per model, of compiling, and in total."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moa_dspy.usage import LMCall, Usage

from .ledger import Ledger
from .naming import metric_names

__all__ = ["COMPILE", "MODELS", "TOTAL", "call_metrics", "summed"]

TOTAL, COMPILE, MODELS = "total", "compile", "models"


def call_metrics(ledger: Ledger) -> dict[str, float]:
    """All that a ledger counted: `alice/prompt_tokens`, `models/openai/gpt-5/cost_usd`, `total/calls`, ...

    Agents and the total include the calls of compiling, which are also summed by themselves under `compile`.
    """
    calls, compiling = ledger.calls(), ledger.calls(compiling=True)
    agents = metric_names(dict.fromkeys(call.agent for call in calls), taken=(TOTAL, COMPILE, MODELS))
    models = metric_names(dict.fromkeys(call.model for call in calls))
    groups = {name: [call for call in calls if call.agent == agent] for agent, name in agents.items()}
    groups |= {f"{MODELS}/{name}": [call for call in calls if call.model == model] for model, name in models.items()}
    groups[TOTAL] = calls
    if compiling:
        groups[COMPILE] = compiling
    return {f"{group}/{name}": value for group, rows in groups.items() for name, value in summed(rows).items()}


def summed(calls: Sequence[LMCall]) -> dict[str, float]:
    """What these calls took. A cost that is not known is left out, and so is a latency where nothing was asked."""
    usage = Usage.of(calls)
    found: dict[str, float] = {
        "calls": usage.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "unpriced_calls": usage.unpriced_calls,
        "failures": usage.failed_calls,
        "cache_hits": usage.cache_hits,
    }
    if usage.cost_usd is not None:
        found["cost_usd"] = usage.cost_usd
    # What the cache answered took no model's time; how long an abandoned call would have taken is not known.
    asked = [call.seconds for call in calls if not call.cache_hit and call.error != "Unfinished"]
    if asked:
        found["latency_p50_s"], found["latency_p95_s"] = (float(value) for value in np.percentile(asked, [50, 95]))
    return found
