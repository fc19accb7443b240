"""Asking many questions and keeping what came: in threads, resumed after a kill at any moment."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import dspy

from moa_dspy.agent import check_keys
from moa_dspy.allowance import ALLOWANCE, Allowance
from moa_dspy.concurrency import run_side_by_side
from moa_dspy.limits import require_positive
from moa_dspy.moa import MoA
from moa_dspy.recording.asking import Asker
from moa_dspy.recording.batches import Batches, as_batched
from moa_dspy.recording.budget import Budget, Estimate
from moa_dspy.recording.engines import Answer, opened
from moa_dspy.recording.files import RecordingFile, read_rows
from moa_dspy.recording.identity import PANEL, describe_changes
from moa_dspy.recording.questions import Questions, as_questions
from moa_dspy.recording.recording import Recording
from moa_dspy.recording.rows import IMPORTED, Row
from moa_dspy.recording.summary import RecordingInterrupted, RecordingStopped, Summary
from moa_dspy.strategies import Strategy
from moa_dspy.usage import LMCall, Usage

__all__ = ["estimate", "record"]


def record(
    moa: MoA,
    examples: Questions,
    path: str | Path | None = None,
    *,
    strategies: Sequence[str | Strategy] | None = None,
    others: Mapping[str, dspy.Module] | None = None,
    known: Iterable[Row] = (),
    concurrency: int = 8,
    force: bool = False,
    max_failures: int | None = None,
    retry_degraded: bool = False,
    max_cost_usd: float | None = None,
    max_calls: int | None = None,
    engine: Literal["local", "ray", "batch"] = "local",
    on_row: Callable[[Row | None, Summary], None] | None = None,
) -> Recording:
    """Ask many questions, and keep what was proposed, decided and paid.

    All questions are checked before the first is asked, and the first goes alone: what is wrong for all of them
    shows before the rest is paid for. Rows are appended to the file as they come, each on the disk before the next
    question is asked, and put into the questions' order at the end. A question that failed is kept with its cause
    and asked again by the next call, past DSPy's cache, as is one whose inputs were edited under the same id.
    Whatever stops it, Ctrl-C too, the questions under way finish and are kept; a second Ctrl-C abandons them.

    Args:
        moa: Who answers.
        examples: Examples, rows, a recording or a file (see `read_questions`): the signature's inputs, gold outputs
            if they are known, an optional `id`, further fields that pass through.
        path: The file to keep the rows in, and to resume from; several processes may fill one file.
        strategies: Names or strategies that decide on the proposals, which are asked for once; their answers are the
            row's `verdicts`. An empty list records proposals only; None asks the mixture as it is.
        others: Name -> further modules, really called on every question; their answers are verdicts too.
        known: Rows of an earlier recording of the same proposers: only what is missing in them is asked.
        concurrency: Questions under way at once; each asks all its proposers at once.
        force: Go on with a file that holds another mixture's answers.
        max_failures: After so many failed questions it stops. By default after 20, if none was answered.
        retry_degraded: Ask again what was answered while something was missing: a proposer, the aggregator.
        max_cost_usd: USD that this run may cost: no question is begun that may go beyond, at the price of the dearest
            one so far.
        max_calls: LM calls that it may make, in the same way.
        engine: Who asks: `local` is this process; `ray` the workers of a Ray cluster, which take keys from their own
            environment; `batch` the batch APIs of the models' providers, at half the price and within a day: each
            call collects what is done, submits what is lacking and returns, and the recording's `pending` are the
            questions to call it again for.
        on_row: Called in the calling thread with each new row and the summary so far: once at the start and at
            Ctrl-C with None. What it raises stops the work; what came is kept.

    Returns:
        The rows of the examples, in their order.

    Raises:
        ValueError: If something is wrong before anything was asked: a row, a missing key, a file that is
            something else or another mixture's.
        ImportError: If the engine is not installed.
        RecordingInterrupted: After Ctrl-C.
        RecordingStopped: After too many failures, at the end of the budget, or when the file could not be written or
            was changed meanwhile.
        OSError: If a file cannot be read.

    Examples:
        ```python
        recording = record(moa, "questions.jsonl", "answers.jsonl", concurrency=16)
        print(len(recording), recording.usage.cost_usd)
        ```
    """
    started = time.perf_counter()
    require_positive(concurrency=concurrency, **({} if max_failures is None else {"max_failures": max_failures}))
    questions = as_questions(examples, moa.signature)
    if path is not None and isinstance(examples, (str, Path)) and _is_one_file(path, examples):
        raise ValueError(f"{path} holds the questions: the answers would be written over them. Name another file.")
    if engine == "batch":
        if path is None or max_calls or max_cost_usd:
            raise ValueError(
                "engine='batch' keeps what it submitted in the file, so it needs a `path`; and it submits all that is "
                "lacking at once, so it keeps no budget: `estimate` says beforehand what it takes."
            )
        moa, others = as_batched(moa), {name: as_batched(other) for name, other in (others or {}).items()}
    asker = Asker(moa, strategies, others, force, retry_degraded)
    file = RecordingFile(path)
    with opened(engine, asker, concurrency, file) as answer, file:
        _refuse_other_mixtures(path, file.rows, asker)
        given = {row.key: row for row in known}
        earlier = {q.key: given[q.key] for q in questions if q.key in given and given[q.key].is_of(q)} | file.rows
        pending = [question for question in questions if not asker.is_complete(question, earlier.get(question.key))]
        if pending:
            check_keys(asker.agents)
            _ = moa.certainty if asker.whole else None  # a promise that cannot be kept is refused once
        summary = Summary(questions=len(questions), skipped=len(questions) - len(pending), left=len(pending))
        summary.earlier_usage = Usage.of(call for row in file.rows.values() for call in row.paid)
        budget = Budget(asker.estimate(pending[:1] if max_cost_usd or max_calls else []), max_cost_usd, max_calls)
        work = _Work(asker, answer, file, earlier, summary, budget, on_row or (lambda row, summary: None))
        batches = answer if isinstance(answer, Batches) else None
        try:
            if batches is not None:
                batches.collect(row for q in pending if (row := earlier.get(q.key)) is not None and row.is_of(q))
            asked = {question.key for question in pending}
            file.append(*(row for key, row in earlier.items() if key not in file.rows and key not in asked))
            # Within a question too: the repair that would be one call too many is not asked for.
            with dspy.context(**({} if max_calls is None else {ALLOWANCE: Allowance(max_calls=max_calls)})):
                limit = len(questions) + 1 if batches and max_failures is None else max_failures  # nothing is paid here
                work.ask_all(pending, concurrency, limit)
            if batches is not None and not work.count_stops():
                batches.submit(summary)
        finally:
            summary.others = file.finish([question.key for question in questions])
            summary.seconds = time.perf_counter() - started
    recording = Recording(row for q in questions if (row := file.rows.get(q.key)) is not None and row.is_of(q))
    if file.failure is not None:
        summary.stopped = str(file.failure)
    if summary.interrupted:
        raise RecordingInterrupted(recording, summary)
    if summary.stopped is not None:
        raise RecordingStopped(recording, summary) from file.failure
    return recording


def estimate(
    moa: MoA,
    examples: Questions,
    path: str | Path | None = None,
    *,
    strategies: Sequence[str | Strategy] | None = None,
    others: Mapping[str, dspy.Module] | None = None,
    force: bool = False,
    retry_degraded: bool = False,
    engine: str = "local",
) -> Estimate:
    """What `record` would take with these arguments, without asking anybody; what is recorded already costs nothing."""
    moa = as_batched(moa) if engine == "batch" else moa
    questions, asker = as_questions(examples, moa.signature), Asker(moa, strategies, others, force, retry_degraded)
    there = {row.key: row for row in read_rows(path)} if path is not None and Path(path).exists() else {}
    _refuse_other_mixtures(path, there, asker)
    return asker.estimate([one for one in questions if not asker.is_complete(one, there.get(one.key))])


@dataclass
class _Work:
    """Asks what is to be asked, side by side, until all is asked or something stops it."""

    asker: Asker
    answer: Answer
    file: RecordingFile
    earlier: Mapping[str, Row]
    summary: Summary
    budget: Budget
    on_row: Callable[[Row | None, Summary], None]
    alone: bool = True
    error: Exception | None = None  # of ours or of the caller's: the questions under way finish first
    interrupts: list[int] = field(default_factory=list)

    def count_stops(self) -> int:
        """Once: nothing more is begun; twice: what is under way is abandoned."""
        return len(self.interrupts) + bool(self.error or self.file.failure or self.summary.stopped)

    def ask_all(self, pending: Sequence[Row], concurrency: int, max_failures: int | None) -> None:
        """Ask the questions, the first one alone; what went wrong is raised when all under way have finished."""
        with _counting_interrupts(self.interrupts):
            self._tell(None)
            for questions in (pending[:1], pending[1:]):
                self.alone = min(len(questions), concurrency) < 2
                for row, calls in run_side_by_side(self._ask, questions, concurrency, self.count_stops):
                    is_new = bool(self.interrupts) > self.summary.interrupted
                    self.summary.interrupted = bool(self.interrupts)
                    if row is not None:
                        self.summary.add(row, calls)
                        self.summary.stop_at(max_failures)
                        self._tell(row)
                    if is_new:
                        self._tell(None)
            self.summary.interrupted = bool(self.interrupts)
        if self.error is not None:
            raise self.error

    def _ask(self, question: Row) -> tuple[Row | None, list[LMCall]]:
        """The question's row, and the calls that were made for it; none if it is not ours to ask, or still waits."""
        row, calls = None, list[LMCall]()
        try:
            if not self.file.claim(question.key):
                return None, []
            self.file.refresh()
            earlier = self.file.rows.get(question.key) or self.earlier.get(question.key)
            if self.file.failure is not None or self.asker.is_complete(question, earlier):  # by another process
                return None, []
            if (reason := self.budget.begin()) is not None:
                self.summary.stopped = self.summary.stopped or f"The budget is used up: {reason}"
                return None, []
            try:
                if not self.count_stops():  # while it waited for its share of the budget
                    row, calls = self.answer(question, earlier, self.budget.share(self.alone))
                if row is not None:
                    self.file.append(row)
            finally:
                self.budget.end(calls)
        except Exception as error:
            self.error = self.error or error
            return None, []
        return row, calls

    def _tell(self, row: Row | None) -> None:
        try:
            if self.error is None:
                self.on_row(row, self.summary)
        except Exception as error:
            self.error = error


@contextmanager
def _counting_interrupts(interrupts: list[int]) -> Iterator[None]:
    """Counts Ctrl-C: raised as KeyboardInterrupt it could fall between an answer and its being kept."""
    before = signal.getsignal(signal.SIGINT)
    # Other threads than the main one never see Ctrl-C; None: somebody outside Python handles it.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: interrupts.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_one_file(path: str | Path, other: str | Path) -> bool:
    return Path(path).exists() and Path(other).exists() and Path(path).samefile(other)


def _refuse_other_mixtures(path: str | Path | None, rows: Mapping[str, Row], asker: Asker) -> None:
    if asker.force:
        return
    # A verdict says itself who decided; only a mixture's own answer does not.
    parts = (*PANEL, "aggregator") if asker.whole else PANEL
    paid = [row for row in rows.values() if row.error is None or row.batch is not None]
    there = dict.fromkeys(row.mixture for row in paid if row.mixture != IMPORTED)
    others = [other for other in there if describe_changes(other, asker.mixture, parts)]
    if others:
        raise ValueError(
            f"{path} holds answers of another mixture:\n  there: {', '.join(others)}\n"
            f"  now:   {asker.mixture}\nWhat changed: {describe_changes(others[0], asker.mixture, parts)}. They would "
            "be mixed without a trace in the numbers. Use the same settings as before, write to another file, or force "
            "it: then the answers that are there are kept and the rest is asked with these settings."
        )
