"""What a proposal costs, as far as an evaluation measured it."""

from __future__ import annotations

from statistics import fmean

from moa_dspy.evaluation.comparison import Comparison

from .vote_matrix import agent_of

__all__ = ["BudgetTooSmall", "prices_of"]


class BudgetTooSmall(ValueError):
    """Nobody can be asked for the money, or it is not known what asking costs.

    Attributes:
        comparison: What was recorded by then; pass it as `recorded=`, and it is not asked for again.
    """

    def __init__(self, message: str, comparison: Comparison) -> None:
        super().__init__(message)
        self.comparison = comparison


def prices_of(comparison: Comparison, required: bool = False) -> dict[str, float | None]:
    """Agent -> USD per proposal, on average; None where a price is not known or DSPy's cache answered.

    Raises:
        BudgetTooSmall: If all are required and one is not known.
    """
    known: dict[str, list[float]] = {}
    unknown: set[str] = set()
    for record in comparison.records:
        for id, answer in record.proposals.items():
            spent = answer.spent
            if spent is None or spent.cached or answer.outputs is None:
                continue
            if spent.cost_usd is None:
                unknown.add(agent_of(id))
            else:
                known.setdefault(agent_of(id), []).append(spent.cost_usd)
    agents = dict.fromkeys(agent_of(id) for record in comparison.records for id in record.proposals)
    prices = {agent: fmean(known[agent]) if agent in known and agent not in unknown else None for agent in agents}
    missing = [agent for agent, price in prices.items() if price is None]
    if required and missing:
        raise BudgetTooSmall(
            f"What {', '.join(missing)} cost is not known (no price, or DSPy's cache answered), so no budget in "
            "USD can be kept. Give max_calls instead.",
            comparison,
        )
    return prices
