"""What a run takes: estimated before it starts, and no question begun that would go beyond its budget."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import dspy

from moa_dspy.agent import Agent
from moa_dspy.moa import MoA
from moa_dspy.models import Prices, prices_of
from moa_dspy.recording.rows import Row
from moa_dspy.strategies import Strategy
from moa_dspy.usage import LMCall
from moa_dspy.values import to_json

__all__ = ["Budget", "Estimate", "calls_per_answer", "calls_per_verdict", "count_rotations", "estimate_questions"]

# What nobody knows beforehand is taken to be: tokens of an answer, characters of an adapter's frame, and per token.
_ANSWER, _FRAME, _TOKEN = 300, 800, 4


@dataclass(frozen=True)
class Estimate:
    """What a run will take, but for replies that have to be asked for again.

    Attributes:
        questions: Those still to be asked.
        calls: LM calls.
        cost_usd: USD, if an answer has 300 tokens; None if a price is not known.
        unpriced: Models whose prices are not known.
    """

    questions: int
    calls: int
    cost_usd: float | None
    unpriced: tuple[str, ...] = ()

    def __str__(self) -> str:
        cost = "unknown: no price of " + ", ".join(self.unpriced)
        if self.cost_usd is not None:
            cost = f"about ${self.cost_usd:.4f}, at {_ANSWER} tokens an answer"
        return f"{self.questions:,} questions, {self.calls:,} LM calls, cost {cost}"


class Budget:
    """Lets a question begin if it fits in beside those under way, each taken to cost what the dearest one did.

    Args:
        each: What one question is expected to take.
        max_cost_usd: USD for all; None for no limit.
        max_calls: LM calls for all, without those that DSPy's cache answers; None for no limit.

    Raises:
        ValueError: If USD are limited and a price is not known.
    """

    def __init__(self, each: Estimate, max_cost_usd: float | None, max_calls: int | None) -> None:
        if max_cost_usd is not None and each.unpriced:
            raise ValueError(
                f"max_cost_usd={max_cost_usd:g} cannot be kept: no price is known of {', '.join(each.unpriced)}. State "
                "it as prices={'input': ..., 'output': ...}, USD per million tokens, or limit max_calls."
            )
        for name, value in (("max_cost_usd", max_cost_usd), ("max_calls", max_calls)):
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value!r} leaves nothing to ask. Give a positive number, or leave it out.")
        self._limits = {"calls": max_calls, "USD": max_cost_usd}
        self._each = {"calls": float(each.calls), "USD": each.cost_usd or 0.0}
        self._spent = {"calls": 0.0, "USD": 0.0}
        self._under_way = 0
        self._changed = threading.Condition()

    def begin(self) -> str | None:
        """Begin a question, once it fits in; else what would be exceeded."""
        with self._changed:
            while reason := self._exceeded():
                if not self._under_way:
                    return reason
                self._changed.wait()
            self._under_way += 1
            return None

    def share(self, alone: bool) -> int | None:
        """LM calls that a question may take where nobody sees what the others take; None for no limit."""
        limit = self._limits["calls"]
        with self._changed:
            return None if limit is None else int(limit - self._spent["calls"] if alone else self._each["calls"])

    def end(self, calls: Iterable[LMCall]) -> None:
        """End a question that took these calls."""
        billed = [call for call in calls if not call.cache_hit]
        with self._changed:
            self._under_way -= 1
            lost = self._each["USD"] / max(1.0, self._each["calls"])  # nobody knows what took one that was abandoned
            cost = sum(lost if call.error == "Unfinished" else call.cost_usd or 0.0 for call in billed)
            if cost and not self._spent["USD"]:
                self._each["USD"] = 0.0  # it was a guess
            for unit, amount in (("calls", float(len(billed))), ("USD", cost)):
                self._spent[unit] += amount
                self._each[unit] = max(self._each[unit], amount)
            self._changed.notify_all()

    def _exceeded(self) -> str | None:
        for unit, limit in self._limits.items():
            spent, each = self._spent[unit], self._each[unit]
            if limit is not None and spent + (self._under_way + 1) * each > limit:
                if unit == "calls":
                    return f"{spent:,.0f} of {limit:,.0f} calls are spent, and the next question may take {each:,.0f}."
                return f"${spent:.4f} of ${limit:g} are spent, and the next question may take ${each:.4f}."
        return None


def estimate_questions(
    moa: MoA, questions: Sequence[Row], judges: Iterable[Agent] | None = None, others: Iterable[object] = ()
) -> Estimate:
    """What these questions take: of the mixture as it is, or of its panels and each of these judges and others."""
    proposers = [agent for panel in moa.panels for agent in panel.agents * panel.samples]
    deciding = [moa.aggregator] if judges is None else judges
    readers = [agent for agent in deciding for _ in range(_count_verdicts(agent))]
    beside = list(others)
    calls = len(proposers + readers) + sum(calls_per_answer(one) if isinstance(one, MoA) else 1 for one in beside)
    # Each LM call: who is asked, and the tokens of the proposals that are read.
    read = len(proposers) * _ANSWER
    asked = [(agent, 0) for agent in [*proposers, *(one for one in beside if isinstance(one, Agent))]]
    asked += [(agent, read) for agent in readers]
    prices: list[tuple[Prices, int]] = []
    unpriced: dict[str, None] = {}
    for agent, tokens in asked if questions else ():
        lm = agent.lm or dspy.settings.lm
        price = None if lm is None else prices_of(lm)
        if price is not None:
            prices.append((price, tokens))
        elif lm is None or not lm.model.startswith("simulated/"):
            unpriced[agent.name if lm is None else lm.model] = None
    cost = 0.0
    for question in questions:
        length = len(to_json(question.inputs)) + _FRAME + len(moa.signature.instructions)
        cost += sum(price.cost(length // _TOKEN + tokens, _ANSWER) for price, tokens in prices)
    return Estimate(len(questions), len(questions) * calls, None if unpriced else cost, tuple(unpriced))


def calls_per_answer(moa: MoA) -> int:
    """LM calls of one run of a mixture: each sample of each proposer of each layer, and the aggregator's."""
    return sum(len(panel.names) * panel.samples for panel in moa.panels) + calls_per_verdict(moa)


def calls_per_verdict(moa: MoA) -> int:
    """LM calls of a mixture's aggregator for one answer."""
    return _count_verdicts(moa.aggregator)


def count_rotations(strategy: Strategy) -> int:
    """LM calls of a strategy's aggregator for one answer."""
    return int(getattr(strategy, "rotations", 1))


def _count_verdicts(aggregator: Agent) -> int:
    strategy = aggregator.program
    if isinstance(strategy, Strategy) and (strategy.needs_aggregator or aggregator.lm is not None):
        return count_rotations(strategy)
    return 0
