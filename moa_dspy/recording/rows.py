"""One row of a recording: a question, what was proposed and decided, and what was paid for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import dspy
from dspy.utils.exceptions import ContextWindowExceededError, LMError
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_serializer

from moa_dspy.results import Failure, Proposal
from moa_dspy.usage import LMCall, Usage
from moa_dspy.values import hash_of, to_jsonable, validated

__all__ = [
    "FORMAT",
    "IMPORTED",
    "InBatch",
    "RecordedVerdict",
    "Row",
    "RowError",
    "agent_of",
    "failures_of",
    "is_outage",
    "typed",
]

FORMAT = 1

IMPORTED = "imported"
"""In place of a mixture, where the proposals are somebody's table of answers."""


class RowError(BaseModel):
    """Why a question has no answer: the type of the error, and what it said, secrets masked."""

    type: str
    message: str


class RecordedVerdict(BaseModel):
    """What a strategy made of the recorded proposals, or what another system answered.

    Attributes:
        by: Who decided: the fingerprint of strategy, aggregator and prompts.
        outputs: The answer; None if there is none.
        selected: Id of the proposal that is the answer, where one is.
        flip_rate: Share of a selection's rotations whose verdict was another.
        confidence: Of another system that is a calibrated mixture.
        failure: Why there is no answer, or why the vote stands in for the aggregator's.
        fallback_used: The aggregator failed; the answer is the vote among the proposals.
        calls: The LM calls that were made for it, those of the proposals not among them.
        seconds: Wall time, without that of the proposals.
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    by: str = ""
    outputs: dict[str, Any] | None
    selected: str | None = None
    flip_rate: float | None = None
    confidence: float | None = None
    failure: Failure | None = None
    fallback_used: bool = False
    calls: list[LMCall] = Field(default_factory=list)
    seconds: float = 0.0

    @field_serializer("outputs", when_used="json")
    def _to_jsonable(self, value: Any) -> Any:
        return to_jsonable(value)


class InBatch(BaseModel):
    """What a provider's batch API was asked of a question that is not answered yet.

    Attributes:
        waiting: Request -> the batch that has it; `file:...` while it is not known whether the provider took it.
        replies: Request -> what came: the `status` of HTTP, the `body`, and whether a row was `billed` for it.
    """

    waiting: dict[str, str] = Field(default_factory=dict)
    replies: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Row(BaseModel):
    """A question, what was proposed and decided, and what was paid for it: one line of a recording's file.

    Attributes:
        recording: The format's number, by which a file is known.
        mixture: Who was asked, in words, with fingerprints of task, models, settings, prompts and aggregator.
        id: The question's id: 7 and "7" are one.
        inputs: The question as it was given.
        gold: The gold outputs, where they are known.
        extra: The question's other fields.
        outputs: What the mixture answered; None if there is no answer, or if the proposals alone were asked for.
        error: Why there is none.
        agreement: The leading answer's share of all votes.
        confidence: The probability that the answer is right, of a calibrated mixture.
        abstained: The confidence is below what was promised.
        degraded: Something was missing: a proposer, the aggregator's own answer, a part of what it read.
        stopped_early: The vote was decided before all proposals were in; the others were abandoned.
        proposals: Who said what, of all layers; of a failed question, those that were paid for.
        failures: Who failed, and why.
        verdicts: Name -> what that strategy, or another system, answered on the same proposals.
        calls: One row per LM call; those of verdicts stand with them.
        earlier_calls: The calls of attempts that this row replaces: billed, and no part of the answer.
        seconds: Wall time.
        batch: What a batch API is still to answer, or has answered of a question that is to be asked again.
    """

    model_config = ConfigDict(extra="allow", arbitrary_types_allowed=True)

    recording: int = FORMAT
    mixture: str = ""
    id: str | int
    inputs: dict[str, Any]
    gold: dict[str, Any] = Field(default_factory=dict)
    extra: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Any] | None = None
    error: RowError | None = None
    agreement: float | None = None
    confidence: float | None = None
    abstained: bool = False
    degraded: bool = False
    stopped_early: bool = False
    proposals: list[Proposal] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    verdicts: dict[str, RecordedVerdict] = Field(default_factory=dict)
    calls: list[LMCall] = Field(default_factory=list)
    earlier_calls: list[LMCall] = Field(default_factory=list)
    seconds: float = 0.0
    batch: InBatch | None = None

    # Of a question that is to be asked: its inputs, typed as the signature says.
    _typed_inputs: dict[str, Any] | None = PrivateAttr(default=None)

    @field_serializer("inputs", "gold", "extra", "outputs", when_used="json")
    def _to_jsonable(self, value: Any) -> Any:
        return to_jsonable(value)

    @property
    def key(self) -> str:
        """What the question is known by."""
        return str(self.id)

    @property
    def typed_inputs(self) -> dict[str, Any]:
        """The question as it is asked; as it was given, where it comes from a file."""
        return self.inputs if self._typed_inputs is None else self._typed_inputs

    def is_of(self, question: Row) -> bool:
        """Whether this is the row of a question, with these very inputs."""
        return self.key == question.key and hash_of(self.inputs) == hash_of(question.inputs)

    @property
    def paid(self) -> list[LMCall]:
        """All LM calls, those of the verdicts and of earlier attempts too."""
        return [*self.earlier_calls, *self.calls, *(call for one in self.verdicts.values() for call in one.calls)]

    @property
    def usage(self) -> Usage:
        """All these calls added up."""
        return Usage.of(self.paid)

    @property
    def asked(self) -> list[str]:
        """Ids of the proposals of the first layer that were asked for, also of those that failed."""
        came = [proposal.id for proposal in self.proposals if proposal.layer == 1]
        return [*came, *(failure.id for failure in self.failures if failure.id is not None and failure.layer == 1)]

    @property
    def example(self) -> dspy.Example:
        """Inputs, gold outputs and further fields, as a metric takes them."""
        inputs = self.typed_inputs
        return dspy.Example({"id": self.id, **self.extra, **self.gold, **inputs}).with_inputs(*inputs)

    def slowest(self, layer: int) -> float:
        """Seconds until all agents of a layer, which ran side by side, had answered or failed."""
        answered = [proposal.seconds for proposal in self.proposals if proposal.layer == layer]
        failed = [failure.seconds for failure in self.failures if failure.layer == layer and failure.id is not None]
        return max([*answered, *failed], default=0.0)

    def line(self) -> bytes:
        """The row as it stands in a file: JSON, whole on one line whatever a reader takes for a line break."""
        text = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, allow_nan=False)
        return text.translate(_BREAKS).encode(errors="replace") + b"\n"


def failures_of(row: Row) -> Iterator[Failure]:
    """What failed of a row, its verdicts included."""
    yield from row.failures
    yield from (verdict.failure for verdict in row.verdicts.values() if verdict.failure is not None)


def is_outage(failure: Failure) -> bool:
    """Whether an LM could not be reached, as opposed to one whose answer could not be read or was late."""
    return failure.error in _OUTAGES


def agent_of(id: str) -> str:
    """The agent of a proposal's id: names are identifiers, further samples are `name#2`, `name#3`."""
    return id.partition("#")[0]


def typed(outputs: Mapping[str, Any], task: type[dspy.Signature]) -> dict[str, Any]:
    """Outputs as the task types them, also those that were read from a file.

    Raises:
        ValueError: If one is of another type (pydantic's `ValidationError`), or is missing.
    """
    fields = {name: field.annotation for name, field in task.output_fields.items()}
    if missing := [name for name in fields if name not in outputs]:
        raise ValueError(f"The recording is of another task: its outputs lack {', '.join(missing)}.")
    return {
        name: value if (value := outputs[name]) is None or type(value) is kind else validated(value, kind)
        for name, kind in fields.items()
    }


def _names_of(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*[_names_of(sub) for sub in kind.__subclasses__()])


_OUTAGES = frozenset(_names_of(LMError) - _names_of(ContextWindowExceededError))

# Readers that split text at every Unicode line break, as Python's splitlines() does, must see one line.
_BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
