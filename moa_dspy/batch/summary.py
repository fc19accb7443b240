"""What came of a batch."""

from __future__ import annotations

from pydantic import BaseModel, Field, PrivateAttr

from moa_dspy.batch.rows import AnswerRow
from moa_dspy.usage import Usage

__all__ = ["BatchInterrupted", "BatchSummary"]


class BatchSummary(BaseModel):
    """What came of a batch. Agreement, tokens, cost, seconds and `degraded` are of this run alone.

    Attributes:
        questions: How many there are.
        skipped: Answered already by an earlier run.
        answered: Answered by this run.
        failed: Asked by this run, without an answer; the next one asks them again.
        left: Not asked yet, or abandoned; what an abandoned question cost is not known.
        degraded: Answered, but with something missing: a proposer, the aggregator's own answer.
        others: Rows in the file whose questions are not among these; they are kept.
        interrupted: Stopped by Ctrl-C.
        first_error: The first failed question's id and error.
        agreement: Mean agreement of the proposals; None if nothing could be counted.
        usage: All LM calls added up; its `seconds` add up calls that ran side by side.
        seconds: Wall time.
    """

    questions: int
    skipped: int = 0
    answered: int = 0
    failed: int = 0
    left: int = 0
    degraded: int = 0
    others: int = 0
    interrupted: bool = False
    first_error: str | None = None
    agreement: float | None = None
    usage: Usage = Field(default_factory=lambda: Usage.of([]))
    seconds: float = 0.0

    _counted: int = PrivateAttr(0)

    def add(self, row: AnswerRow) -> None:
        """Count a question that was asked."""
        self.left -= 1
        self.usage = _sum(self.usage, row.usage)
        if row.error is not None:
            self.failed += 1
            self.first_error = self.first_error or f"{row.id}: {row.error.type}: {row.error.message}"
            return
        self.answered += 1
        self.degraded += row.degraded
        if row.agreement is not None:
            self._counted += 1
            mean = self.agreement or 0.0
            self.agreement = mean + (row.agreement - mean) / self._counted


class BatchInterrupted(KeyboardInterrupt):
    """A batch was stopped by Ctrl-C. Its file is whole; the same call goes on where this one stopped.

    Attributes:
        summary: What came of it until then.
    """

    def __init__(self, summary: BatchSummary) -> None:
        super().__init__(f"{summary.left} of {summary.questions} questions are left.")
        self.summary = summary


def _sum(one: Usage, other: Usage) -> Usage:
    pairs = {name: (getattr(one, name), getattr(other, name)) for name in Usage.model_fields}
    known = [cost for cost in pairs.pop("cost_usd") if cost is not None]
    # Nothing called yet counts as 0 USD: it must not stand beside calls that are all unpriced.
    priced = one.calls + other.calls > one.unpriced_calls + other.unpriced_calls or not one.calls + other.calls
    return Usage(cost_usd=sum(known) if priced else None, **{name: a + b for name, (a, b) in pairs.items()})
