"""What LM calls cost: one row per call, and the rows added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

__all__ = ["LMCall", "Usage", "call_of", "cut_by", "read_entry", "read_tokens"]


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


def call_of(entry: Mapping[str, Any], agent: str) -> LMCall:
    """The row of a call that DSPy wrote into a history; without tokens, it was a hit in DSPy's cache."""
    return LMCall(agent=agent, model=entry["model"], **read_entry(entry), **read_tokens(entry.get("usage") or {}))


def read_entry(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What of an `LMCall` an entry of DSPy's history says beside the tokens."""
    response = entry.get("response")
    # One response a candidate natively, `choices` in LiteLLM's form.
    candidates = response if isinstance(response, (list, tuple)) else getattr(response, "choices", None) or [response]
    told = [getattr(one, "provider_data", None) or {} for one in candidates]
    # The Responses API has a status instead of a reason: "completed" or "incomplete".
    reasons = [getattr(one, "finish_reason", None) or getattr(one, "status", None) for one in candidates]
    cost = entry.get("cost")
    return {
        "cost_usd": _stated_cost(told) if cost is None else cost,
        "finish_reason": next((str(reason) for reason in reasons if reason is not None), None),
        "deployment": next((str(one["deployment"]) for one in told if one.get("deployment")), None),
    }


def _stated_cost(told: Sequence[Mapping[str, Any]]) -> float | None:
    """What a custom engine says a call cost, under `provider_data["response_cost"]`: DSPy prices its own only."""
    costs = [one.get("response_cost") for one in told]
    known = [float(cost) for cost in costs if isinstance(cost, (int, float)) and not isinstance(cost, bool)]
    return sum(known) if known and len(known) == len(costs) else None


def read_tokens(usage: Mapping[str, Any]) -> dict[str, Any]:
    """The tokens of an `LMCall`, of what a provider says that it bills."""
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
