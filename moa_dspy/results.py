"""What one call of a mixture gives: proposals, failures, votes, elements, the account, the prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import dspy
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, computed_field, field_serializer, model_validator

from moa_dspy.usage import LMCall, Usage
from moa_dspy.values import to_jsonable

__all__ = ["Element", "Failure", "MoAMetadata", "MoAPrediction", "Proposal", "Vote"]


class Proposal(BaseModel):
    """One agent's answer to the task.

    Attributes:
        id: Unique within a call: the agent's name, then `#2`, `#3`, ... for its further samples.
        agent: The agent's name.
        model: Its LM's model name; None for a module that brings LMs of its own.
        layer: The layer it answered in, from 1.
        sample: The number of the sample, from 1.
        outputs: The task's output fields, typed as the signature says.
        reasoning: How the agent came to it, where the agent says so.
        extras: What else the agent gave: a trajectory, citations.
        cut_by: What ended it before its model did, also when it was asked again: `"length"` (its tokens ran out) or
            `"content_filter"`; None if nothing did.
        seconds: Wall time.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    id: str
    agent: str
    model: str | None = None
    layer: int = 1
    sample: int = 1
    outputs: dict[str, Any]
    reasoning: str | None = None
    extras: dict[str, Any] = Field(default_factory=dict)
    cut_by: str | None = None
    seconds: float = Field(default=0.0, ge=0)

    @field_serializer("outputs", "reasoning", "extras", when_used="json")
    def _to_jsonable(self, value: Any) -> Any:
        return to_jsonable(value)


class Failure(BaseModel):
    """Why an agent gave no proposal, or why the aggregator gave no answer.

    Attributes:
        agent: The agent's name.
        id: The id that the proposal would have had; None for the aggregator.
        layer: The layer it was asked in, from 1.
        model: Its LM's model name, if it has one.
        error: Type of the error, for example `"LMTimeoutError"`; `"ProposerTimeout"` when it was late.
        message: What it said, secrets masked, at most a few hundred characters.
        seconds: Wall time until it failed.
    """

    agent: str
    id: str | None = None
    layer: int = 1
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
    def _to_jsonable(self, answer: dict[str, Any]) -> Any:
        return to_jsonable(answer)


class Element(BaseModel):
    """One piece of a fused answer and where it came from.

    Attributes:
        statement: What is said; for a field merged in code, its path and value.
        kind: `consensus` (all agree), `majority`, `union`, `contradiction` or `unique` (one proposal only).
        supported_by: Ids of the proposals that say so.
        resolution: How a contradiction was resolved.
        path: Where in the answer it stands, for what was merged in code: `invoice.lines[0].quantity`.
        value: What stands there.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    statement: str
    kind: str
    supported_by: list[str] = Field(default_factory=list)
    resolution: str | None = None
    path: str | None = None
    value: Any = None

    @field_serializer("value", when_used="json")
    def _to_jsonable(self, value: Any) -> Any:
        return to_jsonable(value)


Count = tuple[float | None, list[Vote]]


class MoAMetadata(BaseModel):
    """What happened in one call of a mixture; JSON-able with `model_dump_json()`.

    Attributes:
        strategy: The strategy that was asked for.
        answered_by: The strategy that made the answer: `strategy`, or `voting` after a fallback.
        num_proposers: Agents asked, in the first layer.
        proposals_asked: Proposals asked for, over all layers.
        proposals_received: Proposals that came back.
        layer: The layer whose proposals were decided on: the last that had enough of them. None if none had, or it is
            not known.
        all_proposals: Those proposals, layer by layer, in declared order.
        failures: Why the others did not come, and what went wrong in the aggregator.
        calls: One row per LM call.
        seconds: Wall time of the whole call.
        selected: Id of the proposal that is the answer, where one is.
        order_shown: Ids in the order in which the aggregator saw them.
        flip_rate: Share of a selection's rotations whose verdict was another than the winner.
        scores: Proposal id -> mean score of a selection's verifiers.
        confidence: The probability that the answer is right; None unless the mixture is calibrated (`Calibrate`).
        abstained: The confidence is below what was promised: there is no answer, or it is not promised.
        stage: The stage of a cascade that answered, from 1.
        route: The option of a route that answered.
        elements: The pieces of a fused answer and who supports each.
        shortened: Proposal id -> characters that did not fit a context window.
        stopped_early: The vote was decided before all proposals were in.
        fallback_used: The aggregator failed; the answer is the vote among the proposals.
        repaired: The aggregator had to be asked again.
    """

    strategy: str
    answered_by: str
    num_proposers: int
    proposals_asked: int
    proposals_received: int
    layer: int | None = None
    all_proposals: list[Proposal] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    calls: list[LMCall] = Field(default_factory=list)
    seconds: float = 0.0
    selected: str | None = None
    order_shown: list[str] = Field(default_factory=list)
    flip_rate: float | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    confidence: float | None = None
    abstained: bool = False
    stage: int | None = None
    route: str | None = None
    elements: list[Element] = Field(default_factory=list)
    shortened: dict[str, int] = Field(default_factory=dict)
    stopped_early: bool = False
    fallback_used: bool = False
    repaired: bool = False

    # Few callers look at the votes: they are counted when somebody does.
    _count: Count | Callable[[], Count] | None = PrivateAttr(default=None)

    @model_validator(mode="wrap")
    @classmethod
    def _read_count(cls, data: Any, handler: Callable[[Any], MoAMetadata]) -> MoAMetadata:
        metadata = handler(data)
        if isinstance(data, Mapping) and "votes" in data:
            metadata._count = (data.get("agreement"), [Vote.model_validate(vote) for vote in data["votes"]])
        return metadata

    def count_with(self, count: Callable[[], Count]) -> None:
        """Say how agreement and votes are found when somebody looks at them."""
        self._count = count

    @computed_field  # type: ignore[prop-decorator]
    @property
    def agreement(self) -> float | None:
        """The leading answer's share of all votes, abstentions in the denominator; None if nothing was counted."""
        return self._counted()[0]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def votes(self) -> list[Vote]:
        """The answers counted, the leading one first."""
        return self._counted()[1]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def degraded(self) -> bool:
        """Something was missing: a proposer, a layer, the aggregator's own answer, or a part of what it read."""
        is_cut = any(proposal.cut_by for proposal in self.all_proposals)
        return bool(self.failures or self.fallback_used or self.shortened or is_cut)

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

    def __getstate__(self) -> dict[Any, Any]:
        self._counted()  # what counts holds the whole case, which need not be picklable
        return super().__getstate__()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MoAMetadata) and self.model_dump() == other.model_dump()

    def _counted(self) -> Count:
        if not isinstance(self._count, tuple):
            self._count = (None, []) if self._count is None else self._count()
        return self._count

    def _by(self, column: str) -> dict[str, Usage]:
        names = dict.fromkeys(getattr(call, column) for call in self.calls)
        return {name: Usage.of(call for call in self.calls if getattr(call, column) == name) for name in names}


class MoAPrediction(dspy.Prediction):
    """The task's outputs, and beside them how they came about.

    `proposals`, `metadata` and the aggregator's `reasoning` are no fields: `dspy.majority`, Evaluate's
    tables and demos see the task's outputs only.
    """

    def __init__(self, base: Any = None, **outputs: Any) -> None:
        super().__init__(base, **outputs)
        self._metadata: MoAMetadata | None = getattr(base, "_metadata", None)
        self._reasoning: str | None = getattr(base, "_reasoning", None)

    @classmethod
    def of(
        cls,
        outputs: Mapping[str, Any],
        task: type[dspy.Signature],
        metadata: MoAMetadata,
        reasoning: str | None = None,
    ) -> MoAPrediction:
        """The prediction with these outputs and this account."""
        prediction: MoAPrediction = cls.from_completions([dict(outputs)], signature=task)
        prediction._metadata, prediction._reasoning = metadata, reasoning
        return prediction

    @property
    def metadata(self) -> MoAMetadata:
        """Who was asked, what it cost, how the answer was made."""
        if self._metadata is None:
            raise AttributeError
        return self._metadata

    @property
    def proposals(self) -> list[Proposal]:
        """What the strategy decided on: the proposals of one layer, usually the last, in declared order."""
        everything = self.metadata.all_proposals
        last = self.metadata.layer or max((proposal.layer for proposal in everything), default=1)
        return [proposal for proposal in everything if proposal.layer == last]

    def __getattr__(self, key: str) -> Any:
        if key in ("metadata", "proposals"):  # the properties gave none
            raise AttributeError(f"No {key}: this prediction was made of its fields alone, without a call's account.")
        if key == "reasoning" and self._reasoning is not None and key not in self._store:
            return self._reasoning
        return super().__getattr__(key)
