"""The record of an evaluation: what every system answered to every question, and what that took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.results import Failure
from moa_dspy.usage import LMCall, Usage

__all__ = ["Answer", "Kind", "Record", "Spent", "System"]

Kind = Literal["proposer", "aggregator", "vote", "strategy", "other", "oracle"]


@dataclass(frozen=True)
class System:
    """One of what is compared.

    Attributes:
        name: Unique in an evaluation.
        kind: `proposer`, `aggregator`: that model alone, with the proposers' prompt. `vote`: the plain count
            of the proposals, without a model. `strategy`: the whole mixture. `oracle`: the best of the
            proposals, found with the gold answer; a bound for all that pick one, not a system. `other`: a
            module that was given.
        models: The models that it asks.
    """

    name: str
    kind: Kind
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Spent:
    """What an answer takes on its own; fractions where it is one of several samples.

    Attributes:
        calls: LM calls.
        prompt_tokens: Billed prompt tokens.
        completion_tokens: Billed completion tokens.
        cost_usd: USD; None if the price of a call is not known.
        seconds: Wall time, with the proposers side by side.
        cached: DSPy's cache answered a call: tokens, cost and seconds are less than they would be.
    """

    calls: float
    prompt_tokens: float
    completion_tokens: float
    cost_usd: float | None
    seconds: float
    cached: bool = False

    @classmethod
    def of(cls, calls: Iterable[LMCall], seconds: float, samples: int = 1) -> Spent:
        """What these calls took, per sample."""
        usage = Usage.of(calls)
        is_priced = usage.cost_usd is not None and not usage.unpriced_calls
        return cls(
            calls=usage.calls / samples,
            prompt_tokens=usage.prompt_tokens / samples,
            completion_tokens=usage.completion_tokens / samples,
            cost_usd=usage.cost_usd / samples if is_priced and usage.cost_usd is not None else None,
            seconds=seconds,
            cached=usage.cache_hits > 0,
        )


@dataclass(frozen=True)
class Answer:
    """What a system answered to one question.

    Attributes:
        outputs: The task's outputs; None if there is no answer.
        score: What the metric gave; 0 without an answer, the mean where a model gave several samples.
        spent: What it takes on its own; None for the oracle.
        failure: Why there is no answer, or why the aggregator's or a sample is missing.
        fallback: The aggregator failed; the answer is the vote among the proposals.
        reasoning: Of a proposal: how its agent came to it, where the agent says so.
    """

    outputs: Mapping[str, Any] | None
    score: float
    spent: Spent | None = None
    failure: Failure | None = None
    fallback: bool = False
    reasoning: str | None = None


@dataclass(frozen=True)
class Record:
    """One question and all that was answered to it: a row of the matrix of questions by systems.

    Attributes:
        number: The question's place in the dataset, from 1.
        example: Its inputs and gold outputs.
        proposals: Proposal id -> answer, of the first layer: what the proposers say on their own.
        answers: System -> answer.
        calls: The LM calls that were really made: each proposal was asked for once and served all systems.
    """

    number: int
    example: dspy.Example
    proposals: Mapping[str, Answer]
    answers: Mapping[str, Answer]
    calls: Sequence[LMCall]

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data for JSON."""
        plain = {
            "question": self.number,
            "example": dict(self.example.items()),
            "proposals": dict(self.proposals),
            "answers": dict(self.answers),
            "calls": list(self.calls),
        }
        return to_jsonable_python(plain, fallback=str)
