"""A committee being chosen, its proposals in hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moa_dspy.accounting import Usage
from moa_dspy.comparison import Comparison
from moa_dspy.evaluation import evaluate
from moa_dspy.evaluation_records import Record
from moa_dspy.intervals import difference_interval, mean_interval
from moa_dspy.metrics import Metric
from moa_dspy.moa import MoA
from moa_dspy.strategies import Strategy

from .committee_report import Candidate, CommitteeReport
from .committees import Committee, best_committees, fewest_calls
from .prices import BudgetTooSmall, prices_of
from .replaying import replayed
from .restricting import restricted, voting_of
from .vote_matrix import VoteMatrix

__all__ = ["Selecting"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Option:
    """A candidate with its scores, and the mixture that it is."""

    mixture: MoA
    candidate: Mapping[str, Any]
    scores: Floats
    usage: Usage | None = None


class Selecting:
    """One choice.

    Args:
        student: The mixture to choose from.
        metric: Scores answers.
        asking: Strategies that ask the aggregator.
        votes: Whether committees may vote.
        max_calls: LM calls per question.
        max_usd: USD per question.

    Raises:
        ValueError: If a strategy has no aggregator, or no committee has as few calls.
    """

    def __init__(
        self,
        student: MoA,
        metric: str | Metric,
        asking: Sequence[Strategy],
        votes: bool,
        max_calls: int | None,
        max_usd: float | None,
    ) -> None:
        least = student.limits.min_proposals
        if max_calls is not None and max_calls < least:
            raise ValueError(
                f"max_calls={max_calls} is too little: the mixture's Limits(min_proposals={least}) asks for {least} "
                "proposals at least. Raise the one or lower the other."
            )
        for strategy in asking:
            self._with(student, student.panels[0].names, 1, strategy)
        self.student = student
        self.metric = metric
        self.asking = asking
        self.votes = votes
        self.max_calls = max_calls
        self.max_usd = max_usd

    def run(
        self, comparison: Comparison, trained: int, standard_errors: float, *, concurrency: int, seed: int
    ) -> tuple[MoA, CommitteeReport]:
        """Choose.

        Args:
            comparison: The proposals to the trainset, then those to the valset.
            trained: How many examples the trainset has.
            standard_errors: See `fewest_calls`.
            concurrency: Examples under way at once, where the aggregator is asked.
            seed: Of the cross-validation and the bootstrap.

        Raises:
            BudgetTooSmall: If nobody can be asked for that money.
        """
        records, val = comparison.records, comparison.records[trained:]
        matrix = VoteMatrix.of(records, self.student)
        prices = prices_of(comparison) if self.max_usd is None else prices_of(comparison, required=True)
        committees = best_committees(
            matrix.rows(slice(None, trained)),
            affordable=lambda agents, samples: self._affords(agents, samples, prices),
            judged=matrix.rows(slice(trained, None)) if val else None,
            seed=seed,
        )
        if not committees:
            raise BudgetTooSmall(self._too_small(prices), comparison)
        options = [self._voting(committee, prices) for committee in committees if self.votes or committee.calls == 1]
        for strategy in self.asking:
            for committee in _of_several(committees):
                made = self._judged(strategy, committee, val or records, prices, concurrency)
                options += [made] if made is not None else []
        if not options:
            raise BudgetTooSmall("No strategy that was asked for fits into the budget. Add 'voting'.", comparison)
        spent = Usage.of([*_calls(comparison), *(c for option in options if option.usage for c in ())])
        return self._report(options, standard_errors, spent, seed)
