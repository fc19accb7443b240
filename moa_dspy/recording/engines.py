"""Who answers a recording's questions: this process, or the workers of a Ray cluster.

Workers answer and give rows back, and nothing else: the file, its order, the budget and what is asked next stay with
the process that records. Ray's actors and not Ray Data, which would hand back rows by the block, and ask a lost block
again without a trace of what it had cost.
"""

from __future__ import annotations

import importlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import dspy

from moa_dspy import permits
from moa_dspy.allowance import ALLOWANCE, Allowance
from moa_dspy.limits import name_nearest
from moa_dspy.recording.asking import Asker
from moa_dspy.recording.batches import Batches
from moa_dspy.recording.files import RecordingFile
from moa_dspy.recording.rows import Row
from moa_dspy.secrets import strip_lm
from moa_dspy.usage import LMCall

__all__ = ["ENGINES", "Answer", "opened"]

_TRIES = 3  # of a question whose worker died: it may be the question that kills them
ENGINES = ("local", "ray", "batch")

# Question, what is known of it, and how many LM calls it may take -> row, calls made for it.
# No row: a provider's batch is still to answer.
Answer: TypeAlias = Callable[[Row, "Row | None", "int | None"], tuple["Row | None", list[LMCall]]]


class WorkerDied(Exception):
    """Workers were lost with the question that they were asking."""


@contextmanager
def opened(engine: str, asker: Asker, concurrency: int, file: RecordingFile) -> Iterator[Answer]:
    """What answers questions, as long as it is open.

    Raises:
        ValueError: If there is no such engine, or the mixture cannot be sent to workers.
        ImportError: If Ray is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r}: there is no such engine. {name_nearest(engine, ENGINES)}")
    if engine == "local":
        # The budget is here too, and the allowance of all questions in force.
        yield lambda question, earlier, max_calls: asker.answer(question, earlier)
        return
    if engine == "batch":
        yield Batches(asker, file)
        return
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise ImportError("engine='ray' needs Ray: pip install 'moa-dspy[ray]'.") from None
    is_ours = not ray.is_initialized()
    if is_ours:
        ray.init(log_to_driver=False)  # the cluster that RAY_ADDRESS names, or one on this machine
    workers = None
    try:
        workers = _Workers(ray, asker, concurrency)
        yield workers.answer
    finally:
        if workers is not None:
            workers.close()
        if is_ours:
            ray.shutdown()


class _Workers:
    """At most one a CPU of the cluster; together they have as many calls under way as this process might."""

    def __init__(self, ray: Any, asker: Asker, concurrency: int) -> None:
        self._ray, self._asker, self._is_open = ray, asker, True
        limit = permits.limit()
        number = max(1, min(concurrency, int(ray.cluster_resources().get("CPU", 1)), limit or concurrency))
        self._shares = [None if limit is None else limit // number + (n < limit % number) for n in range(number)]
        settings = {name: dspy.settings.get(name) for name in ("lm", "adapter", "warn_on_type_mismatch")}
        if settings["lm"] is not None:
            settings["lm"] = strip_lm(settings["lm"])
        try:
            self._sent = ray.put((asker, settings))
        except Exception as error:
            raise ValueError(
                f"The mixture cannot be sent to Ray's workers, as it cannot be pickled: {error} Leave out what it "
                "holds of this process (open files, locks, clients), or record with engine='local'."
            ) from error
        threads = -(-concurrency // number)
        self._actor = ray.remote(max_concurrency=threads, num_cpus=1, scheduling_strategy="SPREAD")(_Worker)
        self._starting = threading.Lock()
        self._workers = [self._start(place) for place in range(number)]
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(concurrency):
            self._free.put(slot % number)

    def answer(self, question: Row, earlier: Row | None, max_calls: int | None) -> tuple[Row, list[LMCall]]:
        lost: list[LMCall] = []
        for _ in range(_TRIES):
            place = self._free.get()
            worker = self._workers[place]
            try:
                # In one piece, in which a call that stands in two rows stays one.
                row, calls = self._ray.get(worker.answer.remote((question, earlier, max_calls)))
                row.earlier_calls += lost
                return row, calls + lost
            except self._ray.exceptions.RayActorError:
                lost += self._asker.unfinished()
                with self._starting:
                    if self._is_open and self._workers[place] is worker:
                        self._workers[place] = self._start(place)
            finally:
                self._free.put(place)
        died = WorkerDied(f"{_TRIES} workers were lost asking it, and what they had paid with them.")
        return self._asker.fail(question, earlier, died, lost), lost

    def close(self) -> None:
        with self._starting:
            self._is_open = False
            for worker in self._workers:
                self._ray.kill(worker)

    def _start(self, place: int) -> Any:
        return self._actor.remote(self._sent, self._shares[place])


class _Worker:
    """Answers questions in a process of Ray's."""

    def __init__(self, sent: tuple[Asker, dict[str, Any]], share: int | None) -> None:
        self._asker, self._settings = sent
        permits.configure(max_concurrency=share)

    def answer(self, asked: tuple[Row, Row | None, int | None]) -> tuple[Row, list[LMCall]]:
        question, earlier, max_calls = asked
        limit = {} if max_calls is None else {ALLOWANCE: Allowance(max_calls=max_calls)}
        with dspy.context(**self._settings, **limit):
            return self._asker.answer(question, earlier)
