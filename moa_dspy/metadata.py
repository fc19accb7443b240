"""The account of one call: who was asked, what came back, what it cost, how the answer was made."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field, field_serializer

from moa_dspy.plain import plain
from moa_dspy.proposals import Proposal
from moa_dspy.usage import LMCall, Usage

__all__ = ["Element", "Failure", "MoAMetadata", "Vote"]


class Failure(BaseModel):
    """Why an agent gave no proposal, or why the aggregator gave no answer.

    Attributes:
        agent: The agent's name.
        model: Its LM's model name, if it has one.
        error: Type of the error, for example `"LMTimeoutError"`; `"ProposerTimeout"` when it was late.
        message: What it said, secrets masked, at most a few hundred characters.
        seconds: Wall time until it failed.
    """

    agent: str
    model: str | None = None
    error: str
    message: str
    seconds: float = 0.0


class Vote(BaseModel):
    """Proposals that the count took for one answer.

    Attributes:
        answer: The fields voted on, as the winner's proposal has them.
        proposals: Ids of the proposals that gave it.
        weight: The sum of their weights.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    answer: dict[str, Any]
    proposals: list[str]
    weight: float

    @field_serializer("answer", when_used="json")
    def _jsonable(self, answer: dict[str, Any]) -> Any:
        return plain(answer)


class Element(BaseModel):
    """One piece of a fused answer and where it came from.

    Attributes:
        statement: What is said; for a field merged in code, its name and value.
        path: Where it stands in the answer, for example `"rows[2].price"`; empty for what an aggregator says.
        value: What stands there; None for what an aggregator says.
        kind: `consensus` (all agree), `majority`, `union`, `contradiction` or `unique` (one proposal only).
        supported_by: Ids of the proposals that say so.
        resolution: How a contradiction was resolved.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    statement: str
    path: str = ""
    value: Any = None
    kind: str
    supported_by: list[str] = Field(default_factory=list)
    resolution: str | None = None

    @field_serializer("value", when_used="json")
    def _jsonable(self, value: Any) -> Any:
        return plain(value)


class MoAMetadata(BaseModel):
    """What happened in one call of a mixture; JSON-able with `model_dump_json()`.

    Attributes:
        strategy: The strategy that was asked for.
        answered_by: The strategy that made the answer: `strategy`, or `voting` after a fallback.
        num_proposers: Agents asked, in the first layer.
        proposals_asked: Proposals asked for, over all layers.
        proposals_received: Proposals that came back.
        all_proposals: Those proposals, layer by layer, in declared order.
        failures: Why the others did not come, and what went wrong in the aggregator.
        calls: One row per LM call.
        seconds: Wall time of the whole call.
        agreement: The leading answer's share of all votes, abstentions in the denominator; None if
            nothing could be counted.
        votes: The answers counted, the leading one first.
        selected: Id of the proposal that is the answer, where one is.
        order_shown: Ids in the order in which the aggregator saw them.
        flip_rate: Share of a selection's rotations whose verdict was another than the winner.
        elements: The pieces of a fused answer and who supports each.
        shortened: Proposal id -> characters that did not fit the aggregator's context window.
        stopped_early: The vote was decided before all proposals were in.
        fallback_used: The aggregator failed; the answer is the vote among the proposals.
        repaired: The aggregator had to be asked again.
    """

    strategy: str
    answered_by: str
    num_proposers: int
    proposals_asked: int
    proposals_received: int
    all_proposals: list[Proposal] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    calls: list[LMCall] = Field(default_factory=list)
    seconds: float = 0.0
    agreement: float | None = None
    votes: list[Vote] = Field(default_factory=list)
    selected: str | None = None
    order_shown: list[str] = Field(default_factory=list)
    flip_rate: float | None = None
    elements: list[Element] = Field(default_factory=list)
    shortened: dict[str, int] = Field(default_factory=dict)
    stopped_early: bool = False
    fallback_used: bool = False
    repaired: bool = False

    @computed_field  # type: ignore[prop-decorator]
    @property
    def degraded(self) -> bool:
        """Something was missing: a proposer, the aggregator's own answer, or a part of what it read."""
        return bool(self.failures or self.fallback_used or self.shortened)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def usage(self) -> Usage:
        """All LM calls added up."""
        return Usage.of(self.calls)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def agents(self) -> dict[str, Usage]:
        """The calls added up by agent."""
        return self._by("agent")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def models(self) -> dict[str, Usage]:
        """The calls added up by model."""
        return self._by("model")

    def _by(self, column: str) -> dict[str, Usage]:
        names = dict.fromkeys(getattr(call, column) for call in self.calls)
        return {name: Usage.of(call for call in self.calls if getattr(call, column) == name) for name in names}
