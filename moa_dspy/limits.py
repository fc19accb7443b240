"""What a mixture may do: one object that the mixture and its panels ask."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Limits", "require_positive"]


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


def require_positive(**numbers: Any) -> None:
    """Refuse numbers that leave nobody to ask.

    Raises:
        ValueError: Naming the first that is no whole number from 1.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r} leaves nobody to ask. Give a whole number from 1.")
