"""The bill of a stage: every LM call under the name of who asked, and an end to asking models that are dead."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy
from dspy.utils.exceptions import ContextWindowExceededError

from moa_dspy.usage import LMCall, Meter, Usage

from .report import StageReport

__all__ = ["OPTIMIZER", "Bill", "Stop"]

OPTIMIZER = "optimizer"
"""Who asked, where it was no agent: reflection, proposals of prompts."""

PATIENCE = 5
"""Failed calls in a row after which a model is taken for dead."""


class Stop(BaseException):
    """Ends an optimizer from inside: what derives from `Exception` it would score as a wrong answer, and go on."""


class Bill(Meter):
    """Meters a stage, and stops it where going on would cost money for nothing.

    Attributes:
        runs: How often the program that is tuned was run.
    """

    def __init__(self) -> None:
        super().__init__(OPTIMIZER)
        self.runs = 0
        self._started = time.perf_counter()
        self._in_a_row: Counter[tuple[str, str]] = Counter()
        self._stopped: BaseException | None = None
        self._lock = threading.Lock()

    @contextmanager
    def asking(self, agent: str) -> Iterator[None]:
        """Bill the calls made inside to an agent, as one run.

        Raises:
            Stop: If the stage was stopped, by `stop` or by an LM that answers no more.
        """
        if self._stopped is not None:
            raise Stop from self._stopped
        with self._lock:
            self.runs += 1
        with dspy.context(**{_ASKING: agent}):
            yield

    def stop(self, reason: BaseException) -> None:
        """Let no program of this stage run any more."""
        self._stopped = self._stopped or reason

    def of_agents(self) -> list[LMCall]:
        """The calls that programs made."""
        return [call for call in self.calls() if call.agent != OPTIMIZER]

    def report(self, stage: str, **details: Any) -> StageReport:
        """What came of the stage until now, with these details."""
        return StageReport(
            name=stage,
            runs=self.runs,
            usage=Usage.of(self.of_agents()),
            optimizer_usage=Usage.of(call for call in self.calls() if call.agent == OPTIMIZER),
            seconds=time.perf_counter() - self._started,
            **details,
        )

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        super().on_lm_start(call_id, instance, inputs)
        self._rows[call_id].agent = dspy.settings.get(_ASKING) or OPTIMIZER

    def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        super().on_lm_end(call_id, outputs, exception)
        # A mixture answers without one of its models: not only who asks counts, but also whom.
        who = self._rows[call_id].agent, self._rows[call_id].model
        with self._lock:
            if exception is None:
                self._in_a_row[who] = 0
            elif not isinstance(exception, ContextWindowExceededError):
                self._in_a_row[who] += 1
                if self._in_a_row[who] >= PATIENCE:
                    self.stop(exception)


# Among DSPy's settings, because those reach the workers of its executors.
_ASKING = "moa_dspy_asking"
