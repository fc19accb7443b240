"""What a mixture may do and take: one object, in code, in a config and on the command line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

__all__ = ["Limits", "bound", "give_limits", "name_nearest", "require_positive"]


class Limits(BaseModel):
    """What one call of a mixture may take: seconds, USD, LM calls, tokens.

    Attributes:
        timeout: Seconds of the whole call.
        proposer_timeout: Seconds after which a layer goes on without the proposers that have not answered. By
            default an equal share of what is left, for each layer still to come and for the aggregator.
        aggregator_timeout: Seconds after which the answer falls back to the vote. By default what is left.
        min_proposals: With fewer proposals than this in a layer, `TooFewProposals` is raised.
        quorum: With so many proposals in, the others have `grace` seconds.
        grace: Seconds that the others have then.
        max_cost_usd: USD; the LM call that would go beyond is not started.
        max_calls: LM calls, those answered from DSPy's cache not counted.
        max_tokens: Tokens, read and written together; the LM call that would go beyond is not started.
        on_degraded: `"flag"` says in the metadata what was missing; `"raise"` raises `AggregationFailed` or
            `TooFewProposals` where the answer would lack a proposer, the aggregator, or a part of what it reads.
        max_error: Of a calibrated mixture: the share of wrong answers among those given, above 0 and below 1; answers
            that are not sure enough for it are none. See `Calibrate`, whose own promise it replaces.

    Examples:
        >>> Limits(timeout=60, min_proposals=2, max_cost_usd=0.05).proposer_timeout is None
        True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    timeout: float = Field(default=600.0, gt=0)
    proposer_timeout: float | None = Field(default=None, gt=0)
    aggregator_timeout: float | None = Field(default=None, gt=0)
    min_proposals: int = Field(default=1, ge=1)
    quorum: int | None = Field(default=None, ge=1)
    grace: float = Field(default=0.0, ge=0)
    max_cost_usd: float | None = Field(default=None, gt=0)
    max_calls: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    on_degraded: Literal["flag", "raise"] = "flag"
    max_error: float | None = Field(default=None, gt=0, lt=1)

    @model_validator(mode="before")
    @classmethod
    def _know_names(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for name in data:
                if name == "strict":
                    raise ValueError("strict is on_degraded='raise' now, which raises for a missing proposer too.")
                if name not in cls.model_fields:
                    raise ValueError(f"{name}: unknown limit. {name_nearest(name, cls.model_fields)}")
        return data

    @model_validator(mode="after")
    def _agree(self) -> Limits:
        if self.quorum is not None and self.quorum < self.min_proposals:
            raise ValueError(
                f"quorum={self.quorum} would stop waiting before min_proposals={self.min_proposals} are in. Raise it."
            )
        if self.grace and self.quorum is None:
            raise ValueError(f"grace={self.grace:g} has no effect without a quorum. Give quorum=, or drop it.")
        return self

    @classmethod
    def of(cls, limits: Limits | Mapping[str, Any] | None) -> Limits:
        """The limits: as they are, of a dict, or the defaults.

        Raises:
            ValueError: If they make no sense.
        """
        try:
            return cls.model_validate(limits or {})
        except ValidationError as error:
            problems = [(*one["loc"], one["msg"].removeprefix("Value error, ")) for one in error.errors()]
            raise ValueError("limits: " + "; ".join(": ".join(map(str, one)) for one in problems)) from None


def bound(moa: Any, limits: Mapping[str, Any]) -> None:
    """Change those limits of a mixture that are not None.

    Raises:
        ValueError: If they make no sense beside the others.
    """
    given = {name: value for name, value in limits.items() if value is not None}
    give_limits(moa, Limits.of({**moa.limits.model_dump(), **given}))


def give_limits(moa: Any, limits: Limits) -> None:
    """Set a mixture's limits, which are its panels' too."""
    moa.limits = limits
    for panel in moa.panels:
        panel.limits = limits


def require_positive(**numbers: Any) -> None:
    """Refuse numbers that leave nobody to ask.

    Raises:
        ValueError: Naming the first that is no whole number from 1.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f"{name}={number!r} leaves nobody to ask. Give a whole number from 1.")


def name_nearest(name: object, allowed: Iterable[str]) -> str:
    """`Did you mean 'x'? Allowed: x, y.`"""
    known = list(allowed)
    close = difflib.get_close_matches(str(name), known, n=1)
    return (f"Did you mean {close[0]!r}? " if close else "") + f"Allowed: {', '.join(known)}."
