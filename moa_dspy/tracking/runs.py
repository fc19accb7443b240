"""MLflow's runs of evaluations and optimizers: what was set, what came out, which run belongs to which."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import dspy
import mlflow
from mlflow.dspy.callback import MlflowCallback
from mlflow.dspy.util import log_dspy_dataset, log_dummy_model_outputs, save_dspy_module_state
from mlflow.exceptions import MlflowException

from moa_dspy.secrets import strip_lm as keyless_lm
from moa_dspy.secrets import strip_module as keyless
from moa_dspy.tracking.active import deactivate
from moa_dspy.tracking.guard import Guard
from moa_dspy.tracking.losses import Losses
from moa_dspy.tracking.spans import Spans, logger
from moa_dspy.values import to_jsonable

__all__ = ["Runs"]


@dataclass
class Compile:
    """An optimizer at work.

    Attributes:
        run_id: The run that it is logged into.
        is_own: Whether that run was started for it.
        is_counted: Whether it was us who told MLflow's callback that an optimizer is at work.
        inputs: What `compile()` was given.
    """

    run_id: str
    is_own: bool
    is_counted: bool
    inputs: Mapping[str, Any]


class Runs(Spans):
    """Makes the runs too. MLflow's own logic does the evaluations; what it writes is given to it without secrets."""

    def __init__(self, guard: Guard, losses: Losses, traces_compiles: bool) -> None:
        super().__init__(guard, losses)
        self.traces_compiles = traces_compiles
        self._metrics: dict[str, str] = {}
        self._traced: dict[int, tuple[Any, str]] = {}
        self._compiles: dict[str, Compile] = {}
        self._current: ContextVar[str | None] = ContextVar("moa_dspy_compile", default=None)
        self._evaluations: dict[str, str] = {}
        self._runs_lock = threading.Lock()

    def is_silent(self) -> bool:
        return self.optimizer_stack_level > 0 and not self.traces_compiles

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        span = mlflow.get_current_active_span() if self._metrics else None
        if span is not None and span.parent_id is None:
            self._traced[id(outputs)] = (outputs, span.trace_id)  # held, so that no other gets its id
        super().on_module_end(call_id, outputs, exception)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if self._compiles.keys() & {self._current.get()}:
            return  # an optimizer inside the optimizer is a part of its run
        self.guard.here("start the run of an optimizer", lambda: self._compile(call_id, instance, inputs))

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        with self._runs_lock:
            compile = self._compiles.pop(call_id, None)
        if compile is None:
            return
        self._current.set(None)
        if compile.is_counted:
            self.optimizer_stack_level -= 1
            if self.optimizer_stack_level == 0:
                MlflowCallback.reset(self)  # type: ignore[no-untyped-call]
        self.guard.here("log the outcome of an optimizer", lambda: self._compiled(compile, outputs))
        if compile.is_own:
            self._leave(compile.run_id, exception)

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if not self.is_silent():
            metric = inputs.get("metric") or instance.metric
            self._metrics[call_id] = getattr(metric, "__name__", type(metric).__name__)

        def start() -> None:
            before = mlflow.active_run()
            try:
                shown = self._without_keys(inputs.get("program"))
                with dspy.context(lm=dspy.settings.lm and keyless_lm(dspy.settings.lm)):
                    super(Runs, self).on_evaluate_start(call_id, instance, {**inputs, "program": shown})
            finally:
                run = mlflow.active_run()
                is_new = run is not None and (before is None or before.info.run_id != run.info.run_id)
                self._evaluations[call_id] = run.info.run_name or "" if run is not None and is_new else ""
            if before is None and run is not None and (parent := self._parent()) is not None:
                # GEPA evaluates its candidates in threads, where MLflow knows of no run around them.
                mlflow.MlflowClient().set_tag(run.info.run_id, "mlflow.parentRunId", parent)

        self.guard.here("start the run of an evaluation", start)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: Any = None) -> None:
        self._score(self._metrics.pop(call_id, None), getattr(outputs, "results", ()))
        if call_id not in self._evaluations:
            return
        name, run = self._evaluations.pop(call_id), mlflow.active_run()

        def end() -> None:
            super(Runs, self).on_evaluate_end(call_id, outputs, exception)
            key, _, step = name.rpartition("_")
            parent, score = self._parent(), _score(outputs)
            if mlflow.active_run() is None and parent is not None and score is not None and step.isdigit():
                mlflow.MlflowClient().log_metric(parent, key, score, step=int(step))

        self.guard.here("log an evaluation", end)
        left = mlflow.active_run()
        if name and left is not None and run is not None and left.info.run_id == run.info.run_id:
            self._leave(run.info.run_id, exception)

    def _score(self, metric: str | None, results: Sequence[tuple[Any, Any, Any]]) -> None:
        """Put the metric's scores on the traces, once these are stored: MLflow itself tries at once, and loses them."""
        scored = [(self._traced.pop(id(prediction), None), score) for _, prediction, score in results]
        if not self._metrics:
            self._traced.clear()
        if metric is not None and not self.guard.broken and any(trace for trace, _ in scored):
            self.losses.later(lambda: _log_scores(metric, [(trace[1], score) for trace, score in scored if trace]))

    def _compile(self, call_id: str, optimizer: Any, inputs: Mapping[str, Any]) -> None:
        name = type(optimizer).__name__
        is_own = mlflow.active_run() is None
        run = mlflow.active_run() or mlflow.start_run(run_name=name)
        is_counted = self.optimizer_stack_level == 0
        self.optimizer_stack_level += is_counted
        with self._runs_lock:
            self._compiles[call_id] = Compile(run.info.run_id, is_own, is_counted, inputs)
        self._current.set(call_id)
        log_dummy_model_outputs()  # type: ignore[no-untyped-call]  # without it MLflow's page shows no tab with the runs
        mlflow.set_tag("moa.optimizer", name)
        settings = {**optimizer.get_params(), **_arguments(inputs)}
        settings = {key: self.mask.data(value, key) for key, value in settings.items() if not key.startswith("_")}
        scalars = {key: value for key, value in settings.items() if isinstance(value, (str, int, float, bool))}
        _log_params({f"{name}.{key}": value for key, value in scalars.items()})
        mlflow.log_dict({"optimizer": name, "settings": to_jsonable(scalars)}, f"optimizers/{call_id}.json")

    def _compiled(self, compile: Compile, program: Any) -> None:
        if isinstance(program, dspy.Module):
            save_dspy_module_state(_best_alone(self._without_keys(program)), "best_model.json")
        for name in ("trainset", "valset"):
            if compile.inputs.get(name):
                log_dspy_dataset(compile.inputs[name], f"{name}.json")

    def _leave(self, run_id: str, exception: BaseException | None) -> None:
        """End the run of this thread, as far as MLflow has not: also when its server is gone."""
        status = "FAILED" if exception is not None else "FINISHED"
        self.guard.here("end a run", lambda: mlflow.end_run(status))
        deactivate(run_id)

    def _parent(self) -> str | None:
        """The run of the optimizer at work; of several, the one that this context is in."""
        with self._runs_lock:
            compiles = dict(self._compiles)
        current = compiles.get(self._current.get() or "")
        if current is None and len(compiles) == 1:
            [current] = compiles.values()
        return None if current is None else current.run_id

    def _without_keys(self, program: Any) -> Any:
        """What may be written of a program: a copy without secrets, else nothing."""
        if not isinstance(program, dspy.Module):
            return None
        try:
            return keyless(program)
        except Exception as error:
            logger.warning("The program is not logged, as it cannot be copied without its secrets: %s", error)
            return None


def _best_alone(program: Any) -> Any:
    """The program without the candidates that DSPy hangs on the best one, of which a state holds nothing."""
    if "candidate_programs" in vars(program or object):
        program = copy.copy(program)
        del program.candidate_programs
    return program


def _log_scores(metric: str, scores: Sequence[tuple[str, Any]]) -> None:
    for trace_id, score in scores:
        value, rationale = (score.score, score.get("feedback")) if isinstance(score, dspy.Prediction) else (score, None)
        mlflow.log_feedback(trace_id=trace_id, name=metric, value=value, rationale=rationale)


def _log_params(params: Mapping[str, Any]) -> None:
    """Log them, also into a run that has others of these names: the optimizer before it was another one."""
    try:
        mlflow.log_params(dict(params))
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        logger.info("The run has other parameters of these names already; the file under optimizers/ has them all.")


def _arguments(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What `compile()` was given beside programs and data, its `**kwargs` among it."""
    found: dict[str, Any] = {}
    for name, value in inputs.items():
        if name not in _PROGRAMS_AND_DATA:
            found.update(value if isinstance(value, Mapping) else {name: value})
    return found


def _score(outputs: Any) -> float | None:
    value: Any = outputs[0] if isinstance(outputs, tuple) and outputs else outputs
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


_PROGRAMS_AND_DATA = frozenset({"student", "teacher", "trainset", "valset", "testset", "self"})
