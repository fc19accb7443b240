"""One row per LM call, and the rows added up: who asked which model, tokens, cost, seconds, cache hits, errors."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel

__all__ = ["LMCall", "Usage"]


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


class Usage(BaseModel):
    """LM calls added up.

    `cost_usd` is the sum of the known costs, None when none is known; `unpriced_calls` counts the
    calls whose cost is not in it.
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
