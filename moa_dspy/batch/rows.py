"""One answer of a batch, as it stands in the file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from moa_dspy.batch.questions import Question
from moa_dspy.results import Failure, MoAMetadata, Proposal
from moa_dspy.usage import Usage

__all__ = ["AnswerRow", "RowError"]


class RowError(BaseModel):
    """Why a question has no answer.

    Attributes:
        type: Type of the error, for example `"TooFewProposals"`.
        message: What it said, secrets masked.
    """

    type: str
    message: str


class AnswerRow(BaseModel):
    """One line of the file.

    Attributes:
        id: The question's id.
        mixture: Who answered: the mixture's name and fingerprint.
        inputs: The question as it was given.
        extra: The question's other fields.
        outputs: The answer; None if there is none.
        error: Why there is none.
        agreement: The leading answer's share of all votes.
        degraded: Something was missing: a proposer, the aggregator's own answer, a part of what it read.
        proposals: Who said what; of a failed question, those that were paid for.
        failures: Who failed, and why.
        usage: Calls, tokens, cost in USD.
        seconds: Wall time.
    """

    id: str | int
    mixture: str
    inputs: dict[str, Any]
    extra: dict[str, Any] = Field(default_factory=dict)
    outputs: dict[str, Any] | None
    error: RowError | None = None
    agreement: float | None = None
    degraded: bool = False
    proposals: list[Proposal] = Field(default_factory=list)
    failures: list[Failure] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    seconds: float = 0.0

    @classmethod
    def of(
        cls,
        question: Question,
        mixture: str,
        account: MoAMetadata | None,
        *,
        outputs: Mapping[str, Any] | None = None,
        error: RowError | None = None,
    ) -> AnswerRow:
        """The row of a question that was asked."""
        row = cls(
            id=question.id,
            mixture=mixture,
            inputs=question.given,
            extra=question.extra,
            outputs=None if outputs is None else dict(outputs),
            error=error,
        )
        if account is not None:
            row.agreement, row.degraded, row.seconds = account.agreement, account.degraded, account.seconds
            row.proposals, row.failures, row.usage = account.all_proposals, account.failures, account.usage
        return row

    def line(self) -> bytes:
        """The row as it stands in the file."""
        text = json.dumps(self.model_dump(mode="json", fallback=str), ensure_ascii=False)
        return text.translate(_BREAKS).encode(errors="replace") + b"\n"


# Readers that split text at every Unicode line break, as Python's splitlines() does, must see one line.
_BREAKS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x85\u2028\u2029"}
