"""What a call may still take: asked before each LM call, told after it."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from typing import Any, Final

import dspy
from dspy.utils.exceptions import LMError
from pydantic import BaseModel, Field

__all__ = ["ALLOWANCE", "Allowance", "LimitReached", "wait_for"]

# Among DSPy's settings, because those reach the workers of dspy.Parallel and context variables do not.
ALLOWANCE: Final = "moa_dspy_allowance"

# An answer's length before any was seen. A guess: the allowance learns it from the first answers.
_TOKENS = 256
_STEPS = (1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 90, 120, 180, 240, 300, 450, 600, 900, 1200, 1800, 3600)
_counting = threading.Lock()


class LimitReached(LMError):
    """An LM call that was not started, since a limit forbade it."""


class Allowance:
    """The time, calls, tokens and USD of one call; those nested in it take from it too.

    Args:
        timeout: Seconds from now; None for those of the allowance around it.
        max_calls: LM calls, hits in DSPy's cache not counted.
        max_tokens: Tokens read and written.
        max_cost_usd: USD.
        price: Finds what a model's tokens cost; needed with `max_cost_usd`.
        parent: The allowance around it; by default the one in force.
    """

    def __init__(
        self,
        timeout: float | None = None,
        *,
        max_calls: int | None = None,
        max_tokens: int | None = None,
        max_cost_usd: float | None = None,
        price: Callable[[dspy.BaseLM], Any] | None = None,
        parent: Allowance | None = None,
    ) -> None:
        self.parent: Allowance | None = parent or dspy.settings.get(ALLOWANCE)
        outer = float("inf") if self.parent is None else self.parent.deadline
        self.deadline: float = outer if timeout is None else min(outer, time.monotonic() + timeout)
        self.timeout = timeout
        self.is_over = False
        self.limits = {
            name: limit
            for name, limit in (("calls", max_calls), ("tokens", max_tokens), ("cost_usd", max_cost_usd))
            if limit is not None
        }
        self.spent = dict.fromkeys(self.limits, 0.0)
        self.price = price
        self.longest: dict[str, int] = {}
        self.counting: tuple[Allowance, ...] = (() if self.parent is None else self.parent.counting) + (
            (self,) if self.limits else ()
        )

    @property
    def remaining(self) -> float:
        """Seconds that are left."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def is_given_up(self) -> bool:
        """Whether nobody waits any more for what it was for."""
        return self.deadline <= time.monotonic() or any(one.is_over for one in self._around())

    def end(self) -> None:
        """Start nothing more on it: what was abandoned goes no further than the LM call under way."""
        self.is_over = True

    def check(self) -> None:
        """Refuse what can no longer be of use.

        Raises:
            LimitReached: If the time is over, or what is under way was abandoned.
        """
        if any(allowance.is_over for allowance in self._around()):
            raise LimitReached("Not asked: what it was for is over, or was given up.")
        if self.deadline <= time.monotonic():
            raise LimitReached("Not asked: no time is left (Limits.timeout).")

    def reserve(
        self, lm: dspy.BaseLM, prompt: Any, messages: Any, *, is_asked: bool = False
    ) -> list[tuple[Allowance, dict[str, float]]]:
        """Take what a call will probably need, until `settle` knows what it took.

        Args:
            lm: Whom it asks.
            prompt: What it asks.
            messages: The same, as messages.
            is_asked: It is too late to refuse it.

        Raises:
            LimitReached: If it would go beyond a limit.
        """
        taken: list[tuple[Allowance, dict[str, float]]] = []
        if not self.counting:
            return taken
        with _counting:
            for allowance in self.counting:
                needs = allowance._needs(lm, prompt, messages)
                for name, limit in allowance.limits.items():
                    if allowance.spent[name] + needs[name] > limit and not is_asked:
                        raise LimitReached(
                            f"Not asked: {lm.model} would need about {needs[name]:.3g} {name}, and "
                            f"{max(0.0, limit - allowance.spent[name]):.3g} of {limit:g} are left (Limits.max_{name})."
                        )
                taken.append((allowance, needs))
            for allowance, needs in taken:
                for name in allowance.limits:
                    allowance.spent[name] += needs[name]
        return taken

    @staticmethod
    def settle(taken: list[tuple[Allowance, dict[str, float]]], row: dict[str, Any]) -> None:
        """Enter what a call took. What is not known counts as it was estimated."""
        with _counting:
            for allowance, needs in taken:
                took = {"calls": 0.0 if row.get("cache_hit") else 1.0}
                if "completion_tokens" in row:
                    took["tokens"] = row["prompt_tokens"] + row["completion_tokens"]
                    longest = allowance.longest.get(row["model"], 0)
                    allowance.longest[row["model"]] = max(longest, row["completion_tokens"])
                elif row.get("cache_hit") or row.get("error") not in (None, "Unfinished"):
                    took["tokens"] = took["cost_usd"] = 0.0
                if row.get("cost_usd") is not None:
                    took["cost_usd"] = row["cost_usd"]
                for name in allowance.limits:
                    allowance.spent[name] += took.get(name, needs[name]) - needs[name]

    def _needs(self, lm: dspy.BaseLM, prompt: Any, messages: Any) -> dict[str, float]:
        if not self.limits.keys() - {"calls"}:
            return {"calls": 1.0}
        read = 1 + len(str(prompt or "")) // 4 + sum(len(str(one.get("content"))) for one in messages or ()) // 4
        most = lm.kwargs.get("max_tokens") or lm.kwargs.get("max_completion_tokens") or _TOKENS
        written = min(most, self.longest.get(lm.model, _TOKENS))
        needs = {"calls": 1.0, "tokens": float(read + written)}
        if "cost_usd" in self.limits:
            price = self.price(lm) if self.price else None
            if price is None:
                raise LimitReached(f"Not asked: the price of {lm.model} is not known (Limits.max_cost_usd).")
            needs["cost_usd"] = price.cost(read, written)
        return needs

    def _around(self) -> Iterator[Allowance]:
        allowance: Allowance | None = self
        while allowance is not None:
            yield allowance
            allowance = allowance.parent


class Wait(BaseModel):
    """How long an LM's backend waits for the next byte, as DSPy takes a timeout.

    It is of few lengths, since DSPy opens connections of their own for each. In the key of DSPy's cache all look the
    same: a call that has less time left is the same call.
    """

    connect: float = Field(exclude=True)
    read: float = Field(exclude=True)
    write: float = Field(exclude=True)
    pool: float = Field(exclude=True)

    def __float__(self) -> float:  # as LiteLLM takes it
        return self.read


def wait_for(seconds: float) -> Wait:
    """The shortest wait that is no shorter than this."""
    return _waits()[min(bisect_left(_STEPS, seconds), len(_STEPS) - 1)]


@cache
def _waits() -> list[Wait]:
    kind: Any = Wait
    with suppress(ImportError):  # then LiteLLM, which takes no other, is not there either
        from httpx import Timeout

        kind = type("Wait", (Wait, Timeout), {"__module__": __name__})
    return [kind(connect=min(10, seconds), read=seconds, write=seconds, pool=seconds) for seconds in _STEPS]
