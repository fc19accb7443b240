"""Many questions: asked side by side, answered once each, resumed after a kill at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.batch.answers import AnswerFile, read_answers
from moa_dspy.batch.identity import identity
from moa_dspy.batch.interrupts import Interrupts
from moa_dspy.batch.questions import Question, as_questions, read_questions
from moa_dspy.batch.rows import AnswerRow, RowError
from moa_dspy.batch.summary import BatchInterrupted, BatchSummary
from moa_dspy.batch.workers import Workers
from moa_dspy.errors import MoAError
from moa_dspy.moa import MoA
from moa_dspy.secrets import redact

__all__ = ["AnswerRow", "BatchInterrupted", "BatchSummary", "answer_all", "read_answers"]


def answer_all(
    moa: MoA,
    questions: str | Path | Iterable[Mapping[str, Any]],
    out: str | Path,
    *,
    concurrency: int = 8,
    force: bool = False,
    on_progress: Callable[[BatchSummary], None] | None = None,
) -> BatchSummary:
    """Answer many questions into a JSONL file; the same call again resumes one that was cut short.

    All questions are checked before the first is asked. Answers are appended as they come, each on the disk
    before the next question is asked, and put into the questions' order at the end. A question that failed
    is kept with its cause and asked again by the next call, as is one whose inputs were edited under the
    same id. The first Ctrl-C lets the questions under way finish, the second abandons them.

    Args:
        moa: Who answers.
        questions: A JSONL file, or rows: the signature's inputs, an optional `id`, further fields that
            pass through.
        out: The file of answers; each line is an `AnswerRow`. Read it with `read_answers`.
        concurrency: Questions under way at once; each asks all its proposers at once.
        force: Go on with a file that holds another mixture's answers.
        on_progress: Called with the summary so far, in the calling thread: once at the start,
            after every question, and when Ctrl-C was pressed.

    Returns:
        The summary.

    Raises:
        ValueError: If something is wrong before anything was asked: a row, a missing key, a file of answers that
            is something else, another mixture's, or being written by another process.
        BatchInterrupted: After Ctrl-C.
        OSError: If a file cannot be read or written.

    Example:
        ```python
        summary = answer_all(moa, "questions.jsonl", "answers.jsonl", concurrency=16)
        print(summary.answered, summary.failed, summary.usage.cost_usd)
        ```
    """
    started = time.perf_counter()
    if concurrency < 1:
        raise ValueError(f"concurrency={concurrency} leaves nobody to ask. Give a whole number from 1.")
    asked = _questions(moa, questions, Path(out))
    mixture = identity(moa)
    with AnswerFile(out) as file:
        if not force:
            _refuse_other_mixtures(file, mixture)
        pending = [question for question in asked if not file.answers(question)]
        for agent in moa.agents if pending else []:
            agent.check_key()
        summary = BatchSummary(questions=len(asked), skipped=len(asked) - len(pending), left=len(pending))
        with Interrupts() as interrupts:
            workers = Workers(_Asker(moa, mixture, file), pending, min(concurrency, len(pending)))
            _collect(workers, interrupts, summary, on_progress or _ignore)
            summary.others = file.sort([question.key for question in asked])
    summary.seconds, summary.interrupted = time.perf_counter() - started, interrupts.count > 0
    if summary.interrupted:
        raise BatchInterrupted(summary)
    return summary


class _Asker:
    """Asks one question and writes its row down."""

    def __init__(self, moa: MoA, mixture: str, file: AnswerFile) -> None:
        self.moa = moa
        self.mixture = mixture
        self.file = file

    def __call__(self, question: Question) -> AnswerRow:
        row = self._ask(question)
        self.file.append(row)
        return row

    def _ask(self, question: Question) -> AnswerRow:
        try:
            # Nobody reads the trace of a batch, and it would keep ten thousand prompts in memory.
            with dspy.context(trace=None):
                prediction = self.moa(**question.inputs)
            return AnswerRow.of(question, self.mixture, prediction.metadata, outputs=dict(prediction.items()))
        except Exception as error:
            message = redact(str(error), *(agent.lm for agent in self.moa.agents), dspy.settings.lm)
            cause = RowError(type=type(error).__name__, message=message)
            account = error.metadata if isinstance(error, MoAError) else None
            return AnswerRow.of(question, self.mixture, account, error=cause)


def _collect(
    workers: Workers[Question, AnswerRow],
    interrupts: Interrupts,
    summary: BatchSummary,
    on_progress: Callable[[BatchSummary], None],
) -> None:
    """Count what comes, until all is answered or Ctrl-C was pressed."""
    try:
        on_progress(summary)
        while workers.busy and interrupts.count < 2:
            row = workers.next_result()
            if row is not None:
                summary.add(row)
            is_new = bool(interrupts.count) and not summary.interrupted
            if is_new:
                summary.interrupted = True
                workers.stop()
            if is_new or row is not None:
                on_progress(summary)
    finally:
        workers.stop()


def _questions(moa: MoA, questions: str | Path | Iterable[Mapping[str, Any]], out: Path) -> list[Question]:
    if not isinstance(questions, (str, Path)):
        return as_questions(questions, moa.signature)
    if out.exists() and Path(questions).exists() and os.path.samefile(questions, out):
        raise ValueError(f"{out} holds the questions: the answers would be written over them. Name another file.")
    return read_questions(questions, moa.signature)


def _refuse_other_mixtures(file: AnswerFile, mixture: str) -> None:
    others = [other for other in file.mixtures if other != mixture]
    if not others:
        return
    alike = any(other.partition(" [")[0] == mixture.partition(" [")[0] for other in others)
    why = "\nThe models have the same names; their settings, prompts or demos differ, or moa-dspy's own prompts do."
    raise ValueError(
        f"{file.path} holds answers of another mixture:\n  there: {', '.join(others)}\n  now:   {mixture}"
        f"{why if alike else ''}\nThey would be mixed without a trace in the numbers. Use the same settings as before, "
        "write to another file, or force it: then the answers that are there are kept and the rest is asked with these "
        "settings."
    )


def _ignore(summary: BatchSummary) -> None:
    pass
