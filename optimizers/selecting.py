"""A committee being chosen, its proposals in hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moa_dspy.evaluation import evaluate
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import Metric
from moa_dspy.evaluation.records import Record
from moa_dspy.moa import MoA
from moa_dspy.strategies import Strategy, Voting
from moa_dspy.usage import Usage

from .committees import Committee, best_committees
from .prices import BudgetTooSmall, prices_of
from .replaying import replayed
from .restricting import restricted, voting_of
from .vote_matrix import VoteMatrix

__all__ = ["Option", "Selecting"]


@dataclass(frozen=True)
class Option:
    """A mixture that may be chosen.

    Attributes:
        mixture: The mixture.
        weights: Agent -> what its vote counts, where votes are weighted.
        calls: LM calls per question.
        cost_usd: USD per question; None if a price is not known.
        scores: Per question, corrected for having been chosen by.
        usage: What trying it took.
    """

    mixture: MoA
    weights: Mapping[str, float]
    calls: float
    cost_usd: float | None
    scores: npt.NDArray[np.float64]
    usage: Usage


@dataclass(frozen=True)
class Selecting:
    """What there is to choose from, and by what.

    Attributes:
        student: The mixture to choose from.
        metric: Scores answers.
        asking: Strategies that ask the aggregator.
        voting: How votes are counted.
        votes: Whether committees may vote.
        max_calls: LM calls per question.
        max_usd: USD per question.
        concurrency: Examples under way at once, where the aggregator is asked.
        seed: Of the bootstrap.
    """

    student: MoA
    metric: str | Metric
    asking: Sequence[Strategy]
    voting: Voting
    votes: bool
    max_calls: int | None
    max_usd: float | None
    concurrency: int
    seed: int

    def check(self) -> None:
        """Refuse what cannot come to a choice.

        Raises:
            ValueError: If a strategy has no aggregator, or no committee takes as few calls.
        """
        least = self.student.limits.min_proposals
        if self.max_calls is not None and self.max_calls < least:
            raise ValueError(
                f"max_calls={self.max_calls} is too little: the mixture's Limits(min_proposals={least}) want {least} "
                "proposals at least. Raise the one or lower the other."
            )
        for strategy in self.asking:
            self._mixture(self.student.panels[0].names, 1, strategy)

    def options(self, comparison: Comparison, trained: int) -> list[Option]:
        """All that may be chosen.

        Args:
            comparison: The proposals to the trainset, then those to the valset.
            trained: How many examples the trainset has.

        Raises:
            BudgetTooSmall: If there are none.
        """
        prices = prices_of(comparison, required=self.max_usd is not None)
        matrix = VoteMatrix.of(comparison.records, self.student, self.voting)
        val = comparison.records[trained:]
        committees = best_committees(
            matrix.rows(slice(None, trained)),
            affordable=lambda agents, samples: self._affords(len(agents) * samples, _cost(agents, samples, prices)),
            judged=matrix.rows(slice(trained, None)) if val else None,
            seed=self.seed,
        )
        found = [self._vote(made, prices) for made in committees if self.votes or made.calls == 1]
        for strategy in self.asking:
            found += self._judged(strategy, committees, val or comparison.records)
        if not found:
            known = [price for price in prices.values() if price is not None]
            cheapest = f" The cheapest proposal costs {min(known):.2g} USD." if known else ""
            raise BudgetTooSmall(f"Nothing that was asked for fits into the budget.{cheapest} Raise it.", comparison)
        return found

    def _vote(self, committee: Committee, prices: Mapping[str, float | None]) -> Option:
        weights = committee.weights if len(committee.agents) > 1 else {}
        voting = voting_of(self.voting, weights)
        mixture = restricted(self.student, committee.agents, samples=committee.samples, strategy=voting)
        cost = _cost(committee.agents, committee.samples, prices)
        return Option(mixture, weights, committee.calls, cost, committee.scores, Usage(cost_usd=0.0))

    def _judged(
        self, strategy: Strategy, committees: Sequence[Committee], records: Sequence[Record]
    ) -> Iterator[Option]:
        """The strategy on the best committee of several, and on the largest."""
        judge = getattr(strategy, "rotations", 1)
        several = [made for made in committees if made.calls > 1 and self._affords(made.calls + judge, None)]
        tried = [max(several, key=lambda made: made.scores.mean()), several[-1]] if several else []
        for committee in {(made.agents, made.samples): made for made in tried}.values():
            mixture = self._mixture(committee.agents, committee.samples, strategy)
            comparison = evaluate(
                replayed(mixture, records),
                [record.example for record in records],
                self.metric,
                strategies=[mixture.strategy.name],
                aggregator_alone=False,
                concurrency=self.concurrency,
            )
            row = comparison.row(mixture.strategy.name)
            usage = Usage.of(c for r in comparison.records for c in r.calls if c.agent == mixture.aggregator.name)
            if self.max_usd is None or (row.cost_usd is not None and row.cost_usd <= self.max_usd):
                scores = comparison.scores(mixture.strategy.name)
                yield Option(mixture, {}, row.calls or 0.0, row.cost_usd, scores, usage)

    def _mixture(self, agents: Sequence[str], samples: int, strategy: Strategy) -> MoA:
        if strategy.name == self.student.strategy.name:
            return restricted(self.student, agents, samples=samples)  # with its compiled prompts
        lm = self.student.aggregator.lm
        return restricted(self.student, agents, samples=samples, strategy=strategy, aggregator=lm)

    def _affords(self, calls: int, cost: float | None) -> bool:
        if calls < self.student.limits.min_proposals or (self.max_calls is not None and calls > self.max_calls):
            return False
        return self.max_usd is None or cost is None or cost <= self.max_usd


def _cost(agents: Sequence[str], samples: int, prices: Mapping[str, float | None]) -> float | None:
    known = [price for agent in agents if (price := prices[agent]) is not None]
    return samples * sum(known) if len(known) == len(agents) else None
