"""The rows of a comparison: a system's results, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass

from moa_dspy.evaluation.intervals import Interval
from moa_dspy.evaluation.records import Kind

__all__ = ["Row", "Trouble"]


@dataclass(frozen=True)
class Row:
    """A system's results. What it takes is the mean per question; None where nothing could be measured.

    Attributes:
        name: The system.
        kind: What it is; see `System`.
        score: The mean score; an accuracy (0 to 1) if the metric says right or wrong.
        interval: Its 95% interval: Wilson's for an accuracy, else the bootstrap's.
        difference: The score minus that of the best single model.
        difference_interval: Its 95% interval by the paired bootstrap; None for the best single model.
        calls: LM calls.
        prompt_tokens: Billed prompt tokens.
        completion_tokens: Billed completion tokens.
        cost_usd: USD; None if a price is not known.
        seconds: Wall time.
        failures: Questions without an answer; they count as wrong.
        fallbacks: Questions that the vote answered because the aggregator failed.
        cached: Questions left out of tokens, cost and seconds because DSPy's cache answered a call.
    """

    name: str
    kind: Kind
    score: float
    interval: Interval
    difference: float
    difference_interval: Interval | None
    calls: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    cost_usd: float | None
    seconds: float | None
    failures: int
    fallbacks: int
    cached: int

    @property
    def tokens(self) -> float | None:
        """Prompt and completion tokens."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Trouble:
    """An error that kept recurring in one system, with the first message of its kind."""

    system: str
    error: str
    message: str
    count: int
