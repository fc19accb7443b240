"""What a mixture may do: one object that the panel asks."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Limits"]


class Limits(BaseModel):
    """The rare settings of a mixture.

    Attributes:
        min_proposals: With fewer proposals than this in a layer, `TooFewProposals` is raised.
        proposer_timeout: Seconds after which a layer goes on without the proposers that have not
            answered; None waits for all.
        strict: An aggregator that fails raises `AggregationFailed`, where otherwise the answer falls
            back to the vote among the proposals.

    Example:
        >>> Limits(min_proposals=2, proposer_timeout=30)
        Limits(min_proposals=2, proposer_timeout=30.0, strict=False)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_proposals: int = Field(default=1, ge=1)
    proposer_timeout: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    strict: bool = False
