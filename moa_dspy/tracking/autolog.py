"""One line that turns MLflow on for mixtures."""

from __future__ import annotations

import atexit
import threading
import time
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any, Literal

import dspy
import mlflow
from dspy.utils.callback import BaseCallback
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.dspy.callback import MlflowCallback
from mlflow.tracing import configure
from mlflow.tracing.config import get_config

from moa_dspy.tracking.spans import Spans
from moa_dspy.tracking.store import Writer, describe, limit, logger, mask_address, within
from moa_dspy.tracking.track import Tracked, track
from moa_dspy.tracking.watch import BLOCK

__all__ = ["autolog", "flush"]


def autolog(
    disable: bool = False, *, log_traces_from_compile: bool = False, detail: Literal["normal", "full"] = "normal"
) -> None:
    """Log every mixture and DSPy program to MLflow from now on: traces, evaluations, optimizers.

    Traces name proposers, aggregator and layers, with the tokens and the cost of each LM call; every `dspy.Evaluate`
    and every optimizer outside of `track` is a tracked block of its own. Secrets are left out. Built on
    `mlflow.dspy.autolog`, which need not be called. Calling it twice is as good as once.

    A store that does not answer within 10 seconds (60 for one on this machine, whose tables may have to be built)
    costs one warning, and nothing is turned on. One that goes away later costs no answer: MLflow keeps traces in a
    queue and asks again. How long, and how many fit, its own settings say. For servers that are slow or busy:
    MLFLOW_ASYNC_TRACE_LOGGING_MAX_SPAN_BATCH_SIZE=200, MLFLOW_ASYNC_TRACE_LOGGING_MAX_QUEUE_SIZE=10000,
    MLFLOW_HTTP_REQUEST_TIMEOUT and MLFLOW_HTTP_REQUEST_MAX_RETRIES, in the environment before Python starts.

    Args:
        disable: Turn it off again.
        log_traces_from_compile: Trace what optimizers try, too: hundreds of calls.
        detail: `"full"` shows the modules inside of agents and what adapters format and parse, too.

    Raises:
        RuntimeError: In a thread or task that may not call `dspy.configure`.

    Example:
        ```python
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        moa_dspy.autolog()
        moa(question="Why is the sky blue?")  # moa-dspy ui
        ```
    """
    _refuse_other_threads()
    global _session
    with _lock:
        if _session is not None:
            _session.close()
            _session = None
        if disable:
            return
        try:
            within(limit(), lambda: mlflow.MlflowClient().search_experiments(max_results=1))
        except Exception as error:
            logger.warning(
                "MLflow at %s does not answer, so nothing is traced: %s. Mend that or name another place "
                "(MLFLOW_TRACKING_URI, or mlflow.set_tracking_uri() in code), then call moa_dspy.autolog() again.",
                mask_address(mlflow.get_tracking_uri()),
                describe(error),
            )
            return
        _session = _Session(Spans(detail, log_traces_from_compile))


def flush(seconds: float = 120.0) -> None:
    """Wait until the traces so far are stored, and say how many could not be.

    Args:
        seconds: Wait no longer than this.
    """
    session = _session
    if session is not None:
        session.flush(seconds)


class _Session:
    """Autolog as it is on: what it put in, and whether MLflow's own was there before."""

    def __init__(self, spans: Spans) -> None:
        callbacks = list(dspy.settings.callbacks)
        self.was_on = any(isinstance(callback, MlflowCallback) for callback in callbacks)
        self.is_over = False
        self.writer = Writer()
        self.trace_ids = spans.trace_ids
        # Only DSPy's settings hold the callbacks: they go when somebody replaces them, which is said.
        spans_of = weakref.ref(spans)
        weakref.finalize(spans, self._replaced).atexit = False

        def process(span: Any) -> None:
            spans = spans_of()
            if spans is not None:
                spans.process(span)

        self.process = process
        if self.was_on:
            mlflow_autolog(disable=True, silent=True)
        others = [callback for callback in callbacks if not isinstance(callback, MlflowCallback)]
        dspy.configure(callbacks=[*others, spans, Runs(spans, self.writer)])
        configure(span_processors=[*get_config().span_processors, process])
        atexit.register(self._at_exit)
        _hush_litellm()

    def flush(self, seconds: float) -> None:
        """Store what is left, and count what is not stored."""
        made = set(self.trace_ids)
        if not made:
            return  # MLflow's own flush takes a second and more, also with nothing to store
        self.trace_ids.difference_update(made)
        try:
            within(seconds, mlflow.flush_trace_async_logging)
            self.writer.finish(seconds)
            lost = len(made - within(limit(), lambda: _stored(made)))
            why = "MLflow's log says why"
        except Exception as error:
            lost, why = len(made), describe(error)
        if lost:
            uri = mask_address(mlflow.get_tracking_uri())
            logger.warning("%d of %d traces are not in MLflow at %s so far: %s.", lost, len(made), uri, why)

    def close(self) -> None:
        """Put everything back."""
        atexit.unregister(self._at_exit)
        self.flush(_AT_EXIT)
        self.is_over = True
        dspy.configure(callbacks=[one for one in dspy.settings.callbacks if not isinstance(one, (Spans, Runs))])
        processors = [one for one in get_config().span_processors if one is not self.process]
        configure(span_processors=processors)
        if self.was_on:
            mlflow_autolog()

    def _at_exit(self) -> None:
        self.flush(_AT_EXIT)

    def _replaced(self) -> None:
        if not self.is_over:
            self.is_over = True
            logger.warning(
                "dspy.configure(callbacks=...) has put out the callbacks of moa_dspy.autolog(): nothing is traced any "
                "more. Call moa_dspy.autolog() after it, or keep them: callbacks=[*dspy.settings.callbacks, ...]."
            )


class Runs(BaseCallback):
    """Makes each evaluation and each compile outside of `track` a tracked block, and puts scores on traces."""

    def __init__(self, spans: Spans, writer: Writer) -> None:
        self.spans = spans
        self.writer = writer
        self._blocks: dict[str, tuple[AbstractContextManager[Tracked], Tracked]] = {}
        self._metrics: dict[str, str] = {}
        self._no_run_before = 0.0

    def on_evaluate_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        metric = inputs.get("metric") or instance.metric
        self._metrics[call_id] = getattr(metric, "__name__", type(metric).__name__)
        self.spans.keeps_answers = True
        tracked = self._enter(call_id, inputs.get("program"), "eval", inputs.get("devset") or instance.devset)
        if tracked is not None:
            tracked.watch.on_evaluate_start(call_id, instance, inputs)

    def on_evaluate_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        metric = self._metrics.pop(call_id, None)
        if metric is not None and exception is None:
            self._score(metric, outputs.results)
        if not self._metrics:
            self.spans.keeps_answers = False
            self.spans.answered.clear()
        if call_id in self._blocks:
            self._blocks[call_id][1].watch.on_evaluate_end(call_id, outputs, exception)
            self._exit(call_id, exception)

    def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        tracked = self._enter(call_id, inputs.get("student"), type(instance).__name__, inputs.get("trainset"))
        if tracked is not None:
            tracked.watch.on_compile_start(call_id, instance, inputs)

    def on_compile_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        if call_id in self._blocks:
            self._blocks[call_id][1].watch.on_compile_end(call_id, outputs, exception)
            self._exit(call_id, exception)

    def _enter(self, call_id: str, program: Any, name: str, data: Any) -> Tracked | None:
        if dspy.settings.get(BLOCK) is not None or not isinstance(program, dspy.Module):
            return None
        if time.monotonic() < self._no_run_before:
            return None
        try:
            block = track(program, name, data or None)
        except (TypeError, ValueError):  # data of another kind: the run goes without it
            block = track(program, name)
        tracked = block.__enter__()
        if tracked.run_id is None:
            self._no_run_before = time.monotonic() + _PAUSE
        self._blocks[call_id] = block, tracked
        return tracked

    def _exit(self, call_id: str, exception: BaseException | None) -> None:
        block, _ = self._blocks.pop(call_id)
        block.__exit__(None if exception is None else type(exception), exception, None)

    def _score(self, metric: str, results: Sequence[tuple[Any, Any, Any]]) -> None:
        """Put the metric's scores on the traces, once these are stored: before, MLflow does not find them."""
        scored = [(self.spans.answered.get(id(prediction)), score) for _, prediction, score in results]
        found = [(answered[1], score) for answered, score in scored if answered is not None]
        if found:
            self.writer.write("scores", lambda: _log_scores(metric, found))


def _log_scores(metric: str, scores: Sequence[tuple[str, Any]]) -> None:
    mlflow.flush_trace_async_logging()
    for trace_id, score in scores:
        value, rationale = (score.score, score.get("feedback")) if isinstance(score, dspy.Prediction) else (score, None)
        mlflow.log_feedback(trace_id=trace_id, name=metric, value=value, rationale=rationale)


def _stored(trace_ids: set[str]) -> set[str]:
    """Which of these traces the store has."""
    client = mlflow.MlflowClient()
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found: set[str] = set()
    token = None
    while not trace_ids <= found:  # the latest come first
        page = client.search_traces(locations=experiments, max_results=500, page_token=token, include_spans=False)
        found |= {trace.info.trace_id for trace in page}
        token = page.token
        if not token:
            break
    return found


def _hush_litellm() -> None:
    """Let LiteLLM, where MLflow looks up prices, not print a line for each model that it does not know."""
    # Here and now: MLflow would import it in the background, where it collides with DSPy's own import of it.
    with suppress(Exception):
        import litellm

        litellm.suppress_debug_info = True


def _refuse_other_threads() -> None:
    try:
        dspy.configure()
    except RuntimeError as error:
        raise RuntimeError(
            "moa_dspy.autolog() changes DSPy's settings, and only the thread or task that first called "
            "dspy.configure() may do that. Call it there, before the threads start: it holds for all of them."
        ) from error


_AT_EXIT = 60.0
_PAUSE = 60.0  # seconds without runs, after a store gave none
_lock = threading.RLock()
_session: _Session | None = None
