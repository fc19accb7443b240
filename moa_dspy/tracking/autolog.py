"""One line that turns MLflow on for mixtures."""

from __future__ import annotations

import atexit
import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import dspy
import mlflow
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.dspy.callback import MlflowCallback
from mlflow.tracing import configure
from mlflow.tracing.client import TracingClient
from mlflow.tracing.config import get_config

from moa_dspy.tracking.spans import Spans, trace_of
from moa_dspy.tracking.store import LIMIT_AT_END, Writer, address, check_store, describe, logger, within
from moa_dspy.tracking.track import Tracked, track
from moa_dspy.tracking.watch import BLOCK

__all__ = ["autolog", "flush"]


def autolog(
    disable: bool = False, *, detail: Literal["roles", "full"] = "roles", log_traces_from_compile: bool = False
) -> None:
    """Log every mixture and DSPy program to MLflow from now on: traces, evaluations, optimizers.

    Traces name proposers, aggregator and layers, with the tokens and the cost of each LM call; every `dspy.Evaluate`
    and every optimizer outside of `track` is a tracked block of its own. Secrets are left out. It stands among DSPy's
    callbacks, in the place of `mlflow.dspy.autolog`'s: `dspy.configure(callbacks=...)` after it must keep them.

    A store that does not answer within 10 seconds (60 for one on this machine) costs one warning, and nothing is
    turned on. One that goes away later costs no answer: MLflow keeps traces in a queue and asks again.

    Args:
        disable: Turn it off again.
        detail: `"full"` makes spans of what DSPy's adapters format and parse, too.
        log_traces_from_compile: Trace what optimizers try, too: hundreds of calls.

    Raises:
        ValueError: If `detail` is something else.
        RuntimeError: In a thread or task that may not change DSPy's settings: turn it on where the program first called
            `dspy.configure`. It holds for all threads.

    Examples:
        ```python
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        moa_dspy.autolog()
        moa(question="Why is the sky blue?")  # moa-dspy ui
        ```
    """
    if detail not in ("roles", "full"):
        raise ValueError(f"detail={detail!r} is no detail of traces. There are 'roles' and 'full'.")
    dspy.configure()  # refused by DSPy itself where it may not be called
    global _session
    with _lock:
        if _session is not None:
            _session.close()
            _session = None
        if disable:
            return
        try:
            check_store()
        except Exception as error:
            logger.warning(
                "MLflow at %s does not answer, so nothing is traced: %s. Mend that or name another place "
                "(MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri() in code), then call moa_dspy.autolog() again.",
                address(),
                describe(error),
            )
            return
        _session = _Session(detail == "full", log_traces_from_compile)


def flush(seconds: float = 120.0) -> None:
    """Wait until the traces so far are stored with what they took, and say how many could not be.

    Args:
        seconds: Wait no longer than this.
    """
    if _session is not None:
        _session.flush(seconds)


class _Session(Spans):
    """Autolog as it is on: spans, and a tracked block of each evaluation and each compile outside of `track`."""

    def __init__(self, is_full: bool, log_traces_from_compile: bool) -> None:
        super().__init__(is_full, log_traces_from_compile)
        self._writer = Writer()
        self._blocks: dict[str, Tracked] = {}
        self._metrics: dict[str, str] = {}
        self._no_run_before = 0.0
        others = [callback for callback in dspy.settings.callbacks if not isinstance(callback, MlflowCallback)]
        self._was_on = others != list(dspy.settings.callbacks)
        if self._was_on:
            mlflow_autolog(disable=True, silent=True)
        dspy.configure(callbacks=[*others, self])
        self._processor = lambda span: self.process(span)  # MLflow wants a function of one argument
        configure(span_processors=[*get_config().span_processors, self._processor])
        atexit.register(self.flush, _AT_EXIT)
        # Here and now: MLflow would import LiteLLM, where it looks up prices, in the background, where that collides
        # with DSPy's own import of it; and LiteLLM would print a line for each model that it does not know.
        with suppress(Exception):
            import litellm

            litellm.suppress_debug_info = True

    def flush(self, seconds: float) -> None:
        """Store what is left, mend sums that MLflow overwrote, and count what is not stored."""
        made = dict(self.made)
        if not made:
            return  # MLflow's own flush takes a second and more, also with nothing to store
        try:
            within(seconds, mlflow.flush_trace_async_logging)
            self._writer.finish(seconds)
            lost, why = within(LIMIT_AT_END, lambda: _count_lost(made)), "MLflow's log says why"
        except Exception as error:
            lost, why = len(made), describe(error)
        for trace_id in made:
            self.made.pop(trace_id, None)
        if lost:
            logger.warning("%d of %d traces are not in MLflow at %s so far: %s.", lost, len(made), address(), why)

    def close(self) -> None:
        """Put everything back."""
        atexit.unregister(self.flush)
        self.flush(_AT_EXIT)
        dspy.configure(callbacks=[one for one in dspy.settings.callbacks if one is not self])
        configure(span_processors=[one for one in get_config().span_processors if one is not self._processor])
        if self._was_on:
            mlflow_autolog()

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        metric = inputs.get("metric") or instance.metric
        self._metrics[call_id] = getattr(metric, "__name__", type(metric).__name__)
        block = self._enter(call_id, inputs.get("program"), "eval", inputs.get("devset") or instance.devset)
        if block is not None:
            block.on_evaluate_start(call_id, instance, inputs)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        metric, block = self._metrics.pop(call_id, ""), self._blocks.pop(call_id, None)
        results = [] if exception is not None else outputs.results
        scores = [(trace_id, score) for _, prediction, score in results if (trace_id := trace_of(prediction))]
        if scores:  # as soon as the traces are stored: before, MLflow does not find them
            self._writer.write("scores", lambda: _log_scores(metric, scores))
        if block is not None:
            block.on_evaluate_end(call_id, outputs, exception)
            block.__exit__(None, exception, None)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        block = self._enter(call_id, inputs.get("student"), type(instance).__name__, inputs.get("trainset"))
        if block is not None:
            block.on_compile_start(call_id, instance, inputs)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        block = self._blocks.pop(call_id, None)
        if block is not None:
            block.on_compile_end(call_id, outputs, exception)
            block.__exit__(None, exception, None)

    def _enter(self, call_id: str, program: Any, name: str, data: Any) -> Tracked | None:
        is_tracked = dspy.settings.get(BLOCK) is not None
        if is_tracked or not isinstance(program, dspy.Module) or time.monotonic() < self._no_run_before:
            return None
        try:
            block = track(program, name, data or None)
        except (TypeError, ValueError):  # data of another kind: the run goes without it
            block = track(program, name)
        tracked = self._blocks[call_id] = block.__enter__()
        if tracked.run_id is None:
            self._no_run_before = time.monotonic() + _PAUSE
        return tracked


def _log_scores(metric: str, scores: Sequence[tuple[str, Any]]) -> None:
    mlflow.flush_trace_async_logging()
    for trace_id, score in scores:
        value, rationale = (score.score, score.get("feedback")) if isinstance(score, dspy.Prediction) else (score, None)
        mlflow.log_feedback(trace_id=trace_id, name=metric, value=value, rationale=rationale)


def _count_lost(made: Mapping[str, Mapping[str, str]]) -> int:
    """How many of these traces the store lacks; those that it has get their sums back.

    A store adds up a trace's spans whenever some arrive. In SQLite, which locks no rows, it can do so beside the
    root's arrival, and overwrite the sums that came with it by those of a part.
    """
    client, token, missing = mlflow.MlflowClient(), None, set(made)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    while missing:  # the latest come first
        page = client.search_traces(locations=experiments, max_results=500, page_token=token, include_spans=False)
        for info in (trace.info for trace in page if trace.info.trace_id in missing):
            missing.discard(info.trace_id)
            stored = {name: json.loads(info.trace_metadata.get(name) or "{}") for name in made[info.trace_id]}
            if any(stored[name] | json.loads(sums) != stored[name] for name, sums in made[info.trace_id].items()):
                info.trace_metadata.update(made[info.trace_id])
                TracingClient().start_trace(info)
        token = page.token
        if not token:
            break
    return len(missing)


_AT_EXIT = 60.0
_PAUSE = 60.0  # seconds without runs, after a store gave none
_lock = threading.RLock()
_session: _Session | None = None
