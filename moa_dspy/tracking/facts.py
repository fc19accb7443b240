"""What the calls, evaluations and compiles of a mixture say about it, seen through DSPy's callbacks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import dspy
import numpy as np
from dspy.utils.callback import BaseCallback

from moa_dspy.errors import MoAError
from moa_dspy.evaluation.metrics import score
from moa_dspy.moa import MoA
from moa_dspy.rendering import group_identical
from moa_dspy.results import MoAMetadata, MoAPrediction

from .ledger import PROGRAM, Ledger
from .tables import ProposalTable

__all__ = ["Facts", "is_like"]


class Facts(BaseCallback):
    """Watches the calls of one mixture and of its copies, and what is done to it.

    Calls made while an optimizer compiles are candidates' and say nothing about the mixture: they are left out.

    Args:
        moa: The mixture.
        ledger: Stands before this among the callbacks.
        started: Told of an optimizer that begins to compile, and of what it was given.
        compiled: Told of what came of it.

    Attributes:
        table: The proposals.
        scores: Of each evaluation, in order: the mean of what the metric gave.
        oracles: Of each evaluation of the mixture itself: the mean of the best proposal's scores.
    """

    def __init__(
        self,
        moa: MoA,
        ledger: Ledger,
        started: Callable[[Any, Mapping[str, Any]], None],
        compiled: Callable[[Any, Any], None],
    ) -> None:
        self.moa = moa
        self.table = ProposalTable(moa.signature)
        self.scores: list[float] = []
        self.oracles: list[float] = []
        self._ledger = ledger
        self._started = started
        self._compiled = compiled
        self._asked: dict[str, Mapping[str, Any]] = {}
        self._evaluations: dict[str, tuple[Any, int]] = {}
        self._compiles: dict[str, Any] = {}
        self._answers: list[tuple[float | None, bool, bool, float]] = []
        self._unanswered = 0
        self._lock = threading.Lock()

    def metrics(self) -> dict[str, float]:
        """Quality, as far as it is known: `score`, `oracle`, `agreement`, `degraded_share`, `fallback_share`, ..."""
        found: dict[str, float] = {}
        asked = len(self._answers) + self._unanswered
        if asked:
            found |= {"questions": asked, "unanswered": self._unanswered}
        if self._answers:
            agreements, degraded, fallbacks, seconds = zip(*self._answers, strict=True)
            known = [agreement for agreement in agreements if agreement is not None]
            found |= {"agreement": fmean(known)} if known else {}
            found |= {"degraded_share": fmean(degraded), "fallback_share": fmean(fallbacks)}
            found["answer_p50_s"], found["answer_p95_s"] = (float(value) for value in np.percentile(seconds, [50, 95]))
        for name, values in {"score": self.scores, "oracle": self.oracles}.items():
            if values:
                found[name] = values[-1]
        return found

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if not self._ledger.compiles and is_like(instance, self.moa):
            self._asked[call_id] = inputs.get("kwargs", {})

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        inputs = self._asked.pop(call_id, None)
        if inputs is None:
            return
        account = _account(outputs, exception)
        with self._lock:
            if exception is not None or account is None:
                self._unanswered += 1
            else:
                self._answers.append((account.agreement, account.degraded, account.fallback_used, account.seconds))
        if account is not None:
            self.table.add(inputs, account, None if exception is not None else dict(outputs.items()))

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if not self._ledger.compiles:
            self._evaluations[call_id] = inputs.get("metric") or instance.metric, self._asked_by_program()

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        metric, asked = self._evaluations.pop(call_id, (None, 0))
        if metric is None or exception is not None:
            return
        self.scores.append(float(outputs.score) / 100)
        # A metric that asks a model would cost something again for every proposal.
        if self._asked_by_program() == asked:
            self.oracles += _oracle(metric, outputs.results)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._ledger.compiles == {call_id}:  # not an optimizer that another one uses
            self._compiles[call_id] = instance
            self._started(instance, inputs)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        optimizer = self._compiles.pop(call_id, None)
        if optimizer is not None and exception is None:
            self._compiled(optimizer, outputs)

    def _asked_by_program(self) -> int:
        return sum(call.agent == PROGRAM for call in self._ledger.calls())


def is_like(module: Any, moa: MoA) -> bool:
    """Whether it is this mixture or a copy of it, compiled perhaps: of the same strategy, agents and fields."""
    return isinstance(module, MoA) and _shape(module) == _shape(moa)


def _shape(moa: MoA) -> Any:
    return moa.strategy.name, [agent.name for agent in moa.agents], list(moa.signature.fields)


def _account(outputs: Any, exception: BaseException | None) -> MoAMetadata | None:
    if isinstance(exception, MoAError):
        return exception.metadata
    return outputs.metadata if isinstance(outputs, MoAPrediction) else None


def _oracle(metric: Any, results: Sequence[Any]) -> list[float]:
    """The mean of the best proposals' scores; none where a result is not a mixture's own."""
    best = []
    for example, prediction, _ in results:
        if isinstance(prediction, MoAPrediction):
            said = [group[0].outputs for group in group_identical(prediction.proposals)]
            best.append(max((score(metric, example, dspy.Prediction(**outputs)) for outputs in said), default=0.0))
        elif len(prediction):  # another program's answer, and not the empty one of a question that failed
            return []
    return [fmean([*best, *[0.0] * (len(results) - len(best))])] if best else []
