"""What came of a recording: counted, with what failed and why, and what was paid."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, Field, PrivateAttr

from moa_dspy.recording.recording import Recording
from moa_dspy.recording.rows import Row, failures_of
from moa_dspy.usage import LMCall, Usage

__all__ = ["Batch", "RecordingInterrupted", "RecordingStopped", "Summary", "Trouble", "count_troubles"]

# Where none was answered, so many failures are enough to see that none will be.
_DEAD = 20


class Trouble(BaseModel):
    """An error that kept recurring: whose (an agent, or a system that is compared), and what it said first, masked."""

    who: str
    error: str
    message: str
    count: int = 0


class Batch(BaseModel):
    """A batch that a provider has; `status` is its word: `validating`, `in_progress`, `completed`, `expired`, ..."""

    model: str
    id: str
    status: str
    requests: int = 0
    done: int = 0
    failed: int = 0


def count_troubles(causes: Iterable[tuple[str, str, str]], troubles: list[Trouble]) -> list[Trouble]:
    """Add up failures (who, type of the error, message), to those that are counted already."""
    known = {(trouble.who, trouble.error): trouble for trouble in troubles}
    for who, error, message in causes:
        if (who, error) not in known:
            known[who, error] = Trouble(who=who, error=error, message=message)
            troubles.append(known[who, error])
        known[who, error].count += 1
    return troubles


class Summary(BaseModel):
    """What came of a recording. Agreement, tokens, cost, seconds and `degraded` are of this run alone.

    Attributes:
        questions: How many there are.
        skipped: Answered already by an earlier run.
        answered: Answered by this run.
        failed: Asked by this run, without an answer; the next one asks them again.
        left: Not asked yet, or abandoned, or being asked by another process.
        pending: Of those that are left, how many wait for a provider's batches; the next run collects them.
        batches: The batches that this run has looked at or submitted.
        degraded: Answered, but with something missing: a proposer, the aggregator's own answer.
        others: Rows in the file whose questions are not among these; they are kept.
        interrupted: Stopped by Ctrl-C.
        stopped: Why it stopped by itself: too many failures, a budget, a file that could not be written.
        troubles: Who failed and why, of failed and degraded questions.
        agreement: Mean agreement of the proposals; None if nothing could be counted.
        usage: All LM calls added up; its `seconds` add up calls that ran side by side.
        earlier_usage: What earlier runs were billed for what the file holds.
        seconds: Wall time.
    """

    questions: int
    skipped: int = 0
    answered: int = 0
    failed: int = 0
    left: int = 0
    pending: int = 0
    batches: list[Batch] = Field(default_factory=list)
    degraded: int = 0
    others: int = 0
    interrupted: bool = False
    stopped: str | None = None
    troubles: list[Trouble] = Field(default_factory=list)
    agreement: float | None = None
    usage: Usage = Field(default_factory=lambda: Usage.of([]))
    earlier_usage: Usage = Field(default_factory=lambda: Usage.of([]))
    seconds: float = 0.0

    _counted: int = PrivateAttr(0)

    def add(self, row: Row, calls: Sequence[LMCall]) -> None:
        """Count a question that was asked, and the calls that were made for it."""
        self.left -= 1
        self.usage += Usage.of(calls)
        causes = [(failure.agent, failure.error, failure.message) for failure in failures_of(row)]
        if row.error is not None and not causes:
            causes = [("mixture", row.error.type, row.error.message)]
        count_troubles(causes, self.troubles)
        if row.error is not None:
            self.failed += 1
            return
        self.answered += 1
        self.degraded += row.degraded
        if row.agreement is not None:
            self._counted += 1
            mean = self.agreement or 0.0
            self.agreement = mean + (row.agreement - mean) / self._counted

    def stop_at(self, max_failures: int | None) -> None:
        """Stop if so many questions failed; where the limit is None, if nobody seems to answer."""
        if self.failed >= (max_failures or _DEAD) and (max_failures or not self.answered):
            worst = sorted(self.troubles, key=lambda trouble: -trouble.count)[:5]
            causes = "; ".join(f"{t.who}: {t.count} x {t.error}: {' '.join(t.message.split()):.200}" for t in worst)
            none = "" if self.answered else " and none was answered"
            self.stopped = self.stopped or f"{self.failed} questions failed{none}. {causes}"


class RecordingInterrupted(KeyboardInterrupt):
    """A recording was stopped by Ctrl-C. Its file is whole; the same call goes on where this one stopped.

    Attributes:
        recording: What came until then.
        summary: The same, counted.
    """

    def __init__(self, recording: Recording, summary: Summary) -> None:
        super().__init__(f"{summary.left} of {summary.questions} questions are left.")
        self.recording, self.summary = recording, summary


class RecordingStopped(RuntimeError):
    """A recording stopped by itself, what was under way finished; the same call goes on where this one stopped.

    Attributes:
        reason: Too many failures, a budget, or a file that could not be written.
        recording: What came until then.
        summary: The same, counted.
        comparison: In an evaluation: of the questions that were finished by then.
    """

    comparison: Any = None

    def __init__(self, recording: Recording, summary: Summary) -> None:
        super().__init__(f"{summary.stopped} {summary.left} of {summary.questions} questions are left.")
        self.reason, self.recording, self.summary = summary.stopped or "", recording, summary
