"""Asking many questions and keeping what came: in threads, resumed after a kill at any moment."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
from pydantic import BaseModel, Field, PrivateAttr

from moa_dspy.agent import check_keys
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording.asking import Asker
from moa_dspy.recording.files import RecordingFile
from moa_dspy.recording.identity import describe_changes
from moa_dspy.recording.questions import Question, as_questions
from moa_dspy.recording.recording import Recording
from moa_dspy.recording.rows import IMPORTED, Row
from moa_dspy.strategies import Strategy
from moa_dspy.usage import Usage
from moa_dspy.values import hash_of

__all__ = ["RecordingInterrupted", "Summary", "record"]


class Summary(BaseModel):
    """What came of a recording. Agreement, tokens, cost, seconds and `degraded` are of this run alone.

    Attributes:
        questions: How many there are.
        skipped: Answered already by an earlier run.
        answered: Answered by this run.
        failed: Asked by this run, without an answer; the next one asks them again.
        left: Not asked yet, or abandoned, or being asked by another process.
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

    def add(self, row: Row) -> None:
        """Count a question that was asked."""
        self.left -= 1
        self.usage += row.usage
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


class RecordingInterrupted(KeyboardInterrupt):
    """A recording was stopped by Ctrl-C. Its file is whole; the same call goes on where this one stopped.

    Attributes:
        recording: What came until then.
        summary: The same, counted.
    """

    def __init__(self, recording: Recording, summary: Summary) -> None:
        super().__init__(f"{summary.left} of {summary.questions} questions are left.")
        self.recording = recording
        self.summary = summary


def record(
    moa: MoA,
    examples: str | Path | Iterable[Mapping[str, Any] | dspy.Example],
    path: str | Path | None = None,
    *,
    strategies: Sequence[str | Strategy] | None = None,
    others: Mapping[str, dspy.Module] | None = None,
    known: Iterable[Row] = (),
    concurrency: int = 8,
    force: bool = False,
    on_row: Callable[[Row | None, Summary], None] | None = None,
) -> Recording:
    """Ask many questions, and keep what was proposed, decided and paid.

    All questions are checked before the first is asked, and the first goes alone: what is wrong for all of them
    shows before the rest is paid for. Rows are appended to the file as they come, each on the disk before the next
    question is asked, and put into the questions' order at the end. A question that failed is kept with its cause
    and asked again by the next call, as is one whose inputs were edited under the same id. The first Ctrl-C lets
    the questions under way finish, the second abandons them.

    Args:
        moa: Who answers.
        examples: Examples, rows or a file (see `read_questions`): the signature's inputs, gold outputs if they are
            known, an optional `id`, further fields that pass through.
        path: The file to keep the rows in, and to resume from; several processes may fill one file.
        strategies: What decides on the proposals, each question's being asked for once: names or strategies, whose
            answers are the row's `verdicts`. An empty list records proposals only; None asks the mixture as it is.
        others: Name -> further modules, really called on every question; their answers are verdicts too.
        known: Rows of an earlier recording of the same proposers: only what is missing in them is asked.
        concurrency: Questions under way at once; each asks all its proposers at once.
        force: Go on with a file that holds another mixture's answers.
        on_row: Called in the calling thread with each new row and the summary so far: once at the start and at
            Ctrl-C with None. What it raises stops the work; what came is kept.

    Returns:
        The rows of the examples, in their order.

    Raises:
        ValueError: If something is wrong before anything was asked: a row, a missing key, a file that is
            something else or another mixture's.
        RecordingInterrupted: After Ctrl-C.
        OSError: If a file cannot be read or written.

    Example:
        ```python
        recording = record(moa, "questions.jsonl", "answers.jsonl", concurrency=16)
        print(len(recording), recording.usage.cost_usd)
        ```
    """
    started = time.perf_counter()
    require_positive(concurrency=concurrency)
    questions = as_questions(examples, moa.signature)
    if path is not None and isinstance(examples, (str, Path)) and _is_one_file(path, examples):
        raise ValueError(f"{path} holds the questions: the answers would be written over them. Name another file.")
    asker = Asker(moa, strategies, others, force)
    with RecordingFile(path) as kept:
        if not force:
            _refuse_other_mixtures(kept, asker)
        earlier = _rows_of(questions, {str(row.id): row for row in known} | kept.rows)
        pending = [question for question in questions if not asker.is_complete(earlier.get(question.key))]
        if pending:
            check_keys(asker.agents)

        def ask(question: Question) -> Row | None:
            if not kept.claim(question.key):
                return None
            kept.refresh()
            if asker.is_complete(_rows_of([question], kept.rows).get(question.key)):
                return None  # by another process
            row = asker.ask(question, earlier.get(question.key))
            kept.append(row)
            return row

        summary = Summary(questions=len(questions), skipped=len(questions) - len(pending), left=len(pending))
        try:
            for key, row in earlier.items():
                if key not in kept.rows and asker.is_complete(row):
                    kept.append(row)
            _collect(ask, pending, concurrency, summary, on_row or (lambda row, summary: None))
        finally:
            kept.refresh()
            summary.others = kept.sort([question.key for question in questions])
            summary.seconds = time.perf_counter() - started
    recording = Recording(_rows_of(questions, kept.rows).values())
    if summary.interrupted:
        raise RecordingInterrupted(recording, summary)
    return recording


def _collect(
    ask: Callable[[Question], Row | None],
    pending: Sequence[Question],
    concurrency: int,
    summary: Summary,
    on_row: Callable[[Row | None, Summary], None],
) -> None:
    on_row(None, summary)
    with _counting_interrupts() as interrupts:
        for questions in (pending[:1], pending[1:]):
            for row in run_side_by_side(ask, questions, concurrency, lambda: len(interrupts)):
                if row is not None:
                    summary.add(row)
                    on_row(row, summary)
                if interrupts and not summary.interrupted:
                    summary.interrupted = True
                    on_row(None, summary)
        summary.interrupted = bool(interrupts)


@contextmanager
def _counting_interrupts() -> Iterator[list[int]]:
    """Counts Ctrl-C: raised as KeyboardInterrupt it could fall between an answer and its being kept."""
    interrupts: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    # Other threads than the main one never see Ctrl-C; None: somebody outside Python handles it.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield interrupts
        return
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, before)


def _is_one_file(path: str | Path, other: str | Path) -> bool:
    return Path(path).exists() and Path(other).exists() and Path(path).samefile(other)


def _rows_of(questions: Iterable[Question], rows: Mapping[str, Row]) -> dict[str, Row]:
    """The rows that answer these questions with these very inputs."""
    found = {question.key: (question, rows[question.key]) for question in questions if question.key in rows}
    return {key: row for key, (question, row) in found.items() if hash_of(row.inputs) == hash_of(question.given)}


def _refuse_other_mixtures(kept: RecordingFile, asker: Asker) -> None:
    # A verdict says itself who decided; only a mixture's own answer does not.
    parts = ("task", "panel", "aggregator") if asker.whole else ("task", "panel")
    there = dict.fromkeys(row.mixture for row in kept.rows.values() if row.error is None and row.mixture != IMPORTED)
    others = [other for other in there if describe_changes(other, asker.mixture, parts)]
    if others:
        raise ValueError(
            f"{kept.path} holds answers of another mixture:\n  there: {', '.join(others)}\n"
            f"  now:   {asker.mixture}\nWhat changed: {describe_changes(others[0], asker.mixture, parts)}. They would "
            "be mixed without a trace in the numbers. Use the same settings as before, write to another file, or force "
            "it: then the answers that are there are kept and the rest is asked with these settings."
        )
