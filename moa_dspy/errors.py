"""What can go wrong at run time.

    MoAError
    ├── TooFewProposals     fewer proposals than `Limits.min_proposals` came back
    └── AggregationFailed   the aggregator failed and no fallback was allowed

A caller's mistake (an unknown strategy, a colliding field, a missing input) is a
`ValueError` or `TypeError`, raised as early as it can be known.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moa_dspy.metadata import Failure, MoAMetadata
    from moa_dspy.proposals import Proposal

__all__ = ["AggregationFailed", "MoAError", "TooFewProposals"]


class MoAError(Exception):
    """A mixture could not answer. What was paid for until then is on the exception.

    Attributes:
        metadata: The account of the call so far: proposals, failures, tokens, cost in USD, seconds.

    Example:
        ```python
        try:
            pred = moa(question="Why is the sky blue?")
        except MoAError as error:
            print(error.metadata.usage.cost_usd, [p.outputs for p in error.proposals])
        ```
    """

    def __init__(self, message: str, metadata: MoAMetadata) -> None:
        super().__init__(message)
        self.metadata = metadata

    @property
    def proposals(self) -> list[Proposal]:
        """The proposals that did come back, of all layers, in declared order."""
        return self.metadata.all_proposals

    @property
    def failures(self) -> list[Failure]:
        """Why the others did not."""
        return self.metadata.failures


class TooFewProposals(MoAError):
    """Fewer proposals than `Limits.min_proposals` came back."""


class AggregationFailed(MoAError):
    """The aggregator failed, and strictness or a bug in a strategy forbade the fallback to the vote."""
