"""The account of a call while it is under way."""

from __future__ import annotations

import time
from typing import Any

from moa_dspy.accounting import LMCall
from moa_dspy.errors import AggregationFailed, TooFewProposals
from moa_dspy.metadata import Failure, MoAMetadata, Vote
from moa_dspy.panel import Round
from moa_dspy.prediction import MoAPrediction
from moa_dspy.strategies import Case, Verdict, count_votes
from moa_dspy.strategies.counting import Tally

__all__ = ["Account"]


class Account:
    """Collects what happens, so that nothing paid for is lost, whether the call answers or raises."""

    def __init__(self, strategy: str, num_proposers: int) -> None:
        self.started = time.perf_counter()
        self.strategy = strategy
        self.num_proposers = num_proposers
        self.rounds: list[Round] = []
        self.calls: list[LMCall] = []
        self.failures: list[Failure] = []
        self.fallback_used = False

    def add(self, round: Round) -> None:
        """Enter what came of a panel."""
        self.rounds.append(round)
        self.calls += round.calls
        self.failures += round.failures

    def metadata(self, **details: Any) -> MoAMetadata:
        """The account so far."""
        return MoAMetadata(
            strategy=self.strategy,
            answered_by="voting" if self.fallback_used else self.strategy,
            num_proposers=self.num_proposers,
            proposals_asked=sum(len(round.asked) + len(round.abandoned) for round in self.rounds),
            proposals_received=sum(len(round.proposals) for round in self.rounds),
            all_proposals=[proposal for round in self.rounds for proposal in round.proposals],
            failures=self.failures,
            calls=self.calls,
            seconds=time.perf_counter() - self.started,
            stopped_early=any(round.abandoned for round in self.rounds),
            fallback_used=self.fallback_used,
            **details,
        )

    def too_few(self, round: Round, needed: int) -> TooFewProposals:
        """The error for a layer that gave too few proposals."""
        causes = "; ".join(f"{failure.agent}: {failure.error}: {failure.message}" for failure in round.failures)
        message = (
            f"{len(round.proposals)} proposals came back, and at least {needed} are needed. What came and what it cost "
            f"is in error.proposals and error.metadata. {causes}"
        )
        return TooFewProposals(message, self.metadata())

    def not_aggregated(self, failed: Failure) -> AggregationFailed:
        """The error for an aggregator that gave no answer."""
        message = (
            f"The aggregator gave no answer ({failed.error}: {failed.message}). The proposals that were paid for are "
            "in error.proposals, the account is in error.metadata."
        )
        return AggregationFailed(message, self.metadata())

    def prediction(self, verdict: Verdict, case: Case) -> MoAPrediction:
        """The answer with its account."""
        tally = verdict.tally or count_votes(case)
        metadata = self.metadata(
            agreement=tally.agreement if tally.winner else None,
            votes=_votes(tally),
            selected=verdict.selected,
            order_shown=list(verdict.order_shown),
            flip_rate=verdict.flip_rate,
            elements=list(verdict.elements),
            shortened=dict(verdict.shortened),
            repaired=verdict.repaired,
        )
        return MoAPrediction.of(verdict.outputs, case.task, metadata)


def _votes(tally: Tally) -> list[Vote]:
    return [
        Vote(answer=dict(candidate.values), proposals=list(candidate.voters), weight=candidate.weight)
        for candidate in tally.candidates
    ]
