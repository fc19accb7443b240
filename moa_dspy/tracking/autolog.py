"""One line that turns MLflow on for mixtures."""

from __future__ import annotations

import atexit
import threading
import weakref
from contextlib import ExitStack, suppress
from typing import Any

import dspy
import mlflow
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.dspy.callback import MlflowCallback
from mlflow.utils.autologging_utils import get_autologging_config

from moa_dspy.tracking.guard import Guard, bounded, reach
from moa_dspy.tracking.losses import Losses
from moa_dspy.tracking.runs import Runs
from moa_dspy.tracking.spans import logger

__all__ = ["autolog", "flush"]


def autolog(disable: bool = False, *, log_traces_from_compile: bool = False) -> None:
    """Log every mixture and DSPy program to MLflow from now on: traces, evaluations, optimizers.

    Traces name proposers, aggregator and layers, with the tokens and the cost of each LM call; every
    `dspy.Evaluate` and every optimizer gives a run. Secrets are left out. Built on `mlflow.dspy.autolog`, which need
    not be called. Calling it twice is as good as once, and calls it again after something changed.

    A tracking server that is down or hangs costs one warning and `LIMIT` seconds, 10, never an answer; a store on this
    machine has `LOCAL_LIMIT`, 60, as its first use builds its tables.

    Args:
        disable: Turn it off again: callbacks, settings and environment are as they were before.
        log_traces_from_compile: Trace what optimizers try, too: hundreds of calls.

    Raises:
        RuntimeError: In a thread or task that may not call `dspy.configure`.

    Example:
        ```python
        mlflow.set_tracking_uri("sqlite:///mlflow.db")
        moa_dspy.autolog()
        moa(question="Why is the sky blue?")  # mlflow ui --backend-store-uri sqlite:///mlflow.db
        ```
    """
    _refuse_other_threads()
    global _session
    with _lock:
        earlier = _session
        if earlier is not None and not disable and earlier.still_holds(log_traces_from_compile):
            return
        if earlier is not None:
            _session = None
            earlier.close()
        if not disable:
            _session = _Session.open(log_traces_from_compile)


def flush(seconds: float = 120.0) -> None:
    """Wait until the traces so far are stored, and say how many could not be.

    Args:
        seconds: Wait no longer than this.
    """
    session = _session
    if session is not None:
        session.losses.flush(seconds)


class _Session:
    """Autolog as it is on: what it put in, and what was there before."""

    def __init__(self, log_traces_from_compile: bool) -> None:
        self.guard = Guard()
        self.losses = Losses(self.guard)
        self.log_traces_from_compile = log_traces_from_compile
        self.callbacks = list(dspy.settings.callbacks)
        config: Any = get_autologging_config
        self.config: dict[str, Any] = {name: config("dspy", name) for name in _OPTIONS}
        self.is_gone = False
        self._undo = ExitStack()

    @classmethod
    def open(cls, log_traces_from_compile: bool) -> _Session | None:
        """Turn it on; None where the server is of no use."""
        session = cls(log_traces_from_compile)
        session._undo.enter_context(bounded())
        session.guard.run("reach it", reach)
        if session.guard.broken:
            session._undo.close()
            return None
        session._undo.enter_context(session.losses.listening())
        session._install()
        atexit.register(session._at_exit)
        _hush_litellm()
        return session

    def _install(self) -> None:
        # MLflow's patches of Evaluate and compile() stay out: with them a metric that raises gives None, on which the
        # evaluation fails, and each example waits for a server that hangs. Its callback does what they are for.
        mlflow_autolog(disable=True, log_evals=True, log_traces_from_compile=self.log_traces_from_compile)
        callback = Runs(self.guard, self.losses, self.log_traces_from_compile)
        dspy.configure(callbacks=[*dspy.settings.callbacks, callback])
        # Nothing but DSPy's settings holds the callback: it goes when somebody replaces them.
        weakref.finalize(callback, self._replaced).atexit = False

    def still_holds(self, log_traces_from_compile: bool) -> bool:
        """Whether there is nothing to do when it is turned on again."""
        return (
            not self.is_gone
            and not self.guard.broken
            and self.guard.uri == mlflow.get_tracking_uri()
            and self.log_traces_from_compile == log_traces_from_compile
        )

    def close(self) -> None:
        """Put everything back."""
        atexit.unregister(self._at_exit)
        self.losses.flush(_AT_EXIT)
        self.is_gone = True
        mlflow_autolog(disable=True)
        before = next((other for other in self.callbacks if isinstance(other, MlflowCallback)), None)
        here = [other for other in dspy.settings.callbacks if not isinstance(other, MlflowCallback)]
        dspy.configure(callbacks=here)
        if before is not None:
            dspy.configure(callbacks=_in_place(before, self.callbacks, here))
            mlflow_autolog(**{name: value for name, value in self.config.items() if value is not None})
        self._undo.close()

    def _replaced(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            logger.warning(
                "dspy.configure(callbacks=...) has put out the callbacks of moa_dspy.autolog(): nothing is traced any "
                "more. Call moa_dspy.autolog() after it, or keep them: callbacks=[*dspy.settings.callbacks, ...]."
            )

    def _at_exit(self) -> None:
        self.losses.flush(_AT_EXIT)


def _hush_litellm() -> None:
    """Let LiteLLM, where MLflow looks up prices, not print a line for each model that it does not know."""
    # Here and now: MLflow would import it in the background, where it collides with DSPy's own import of it.
    with suppress(Exception):
        import litellm

        litellm.suppress_debug_info = True


def _in_place(callback: Any, before: list[Any], here: list[Any]) -> list[Any]:
    """The callbacks with this one where it was before."""
    number = before.index(callback)
    return [*here[:number], callback, *here[number:]]


def _refuse_other_threads() -> None:
    try:
        dspy.configure()
    except RuntimeError as error:
        raise RuntimeError(
            "moa_dspy.autolog() changes DSPy's settings, and only the thread or task that first called "
            "dspy.configure() may do that. Call it there, before the threads start: it holds for all of them."
        ) from error


_OPTIONS = ("log_traces", "log_traces_from_compile", "log_traces_from_eval", "log_compiles", "log_evals")
_AT_EXIT = 60.0
_lock = threading.RLock()
_session: _Session | None = None
