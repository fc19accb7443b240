"""Turned on once, turned off without a trace, and said when somebody else turns it off."""

import os
import threading
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from dspy.utils.callback import BaseCallback
from mlflow.dspy import autolog as mlflow_autolog
from mlflow.dspy.callback import MlflowCallback
from support.fake_lm import FakeLM
from support.mixtures import cast, mixture

import moa_dspy
from moa_dspy.tracking.autolog import flush


def traces() -> list[Any]:
    flush()
    found: Any = mlflow.search_traces(return_type="list")
    return list(found)


def test_twice_is_once(store: Path) -> None:
    mine = BaseCallback()
    dspy.configure(callbacks=[mine])
    moa_dspy.autolog()
    callbacks = dspy.settings.callbacks
    moa_dspy.autolog()
    assert dspy.settings.callbacks == callbacks
    assert callbacks[0] is mine and len(callbacks) == 2
    mixture(cast("a", "b", "judge"))(question="?")
    assert len(traces()) == 1


def test_off_leaves_everything_as_it_was(store: Path) -> None:
    mine = BaseCallback()
    dspy.configure(callbacks=[mine], track_usage=False)
    environment, settings = dict(os.environ), dict(dspy.settings.config)
    moa_dspy.autolog()
    assert dict(os.environ) != environment
    moa_dspy.autolog(disable=True)
    assert dict(os.environ) == environment
    assert dict(dspy.settings.config) == settings
    mixture(cast("a", "b", "judge"))(question="?")
    assert traces() == []


def test_off_when_it_is_not_on_is_nothing(untracked: None) -> None:
    moa_dspy.autolog(disable=True)
    assert dspy.settings.callbacks == []


def test_mlflows_own_autolog_comes_back(store: Path) -> None:
    mlflow_autolog(log_evals=False)
    [theirs] = dspy.settings.callbacks
    moa_dspy.autolog()
    [ours] = dspy.settings.callbacks
    assert isinstance(ours, MlflowCallback) and ours is not theirs
    moa_dspy.autolog(disable=True)
    assert dspy.settings.callbacks == [theirs]
    FakeLM("a", ["x"])("hello")
    mlflow.flush_trace_async_logging()
    assert len(mlflow.search_traces(return_type="list")) == 1


def test_it_is_said_when_the_callbacks_are_replaced(store: Path, caplog: pytest.LogCaptureFixture) -> None:
    moa_dspy.autolog()
    dspy.configure(callbacks=[*dspy.settings.callbacks, BaseCallback()])
    assert caplog.records == []
    dspy.configure(callbacks=[])
    mixture(cast("a", "b", "judge"))(question="?")
    [record] = caplog.records
    assert "Call moa_dspy.autolog() after it" in record.getMessage()
    moa_dspy.autolog()
    mixture(cast("a", "b", "judge"))(question="?")
    assert len(traces()) == 1


def test_another_thread_is_refused(store: Path) -> None:
    dspy.configure(track_usage=False)
    errors = list[str]()

    def turn_on() -> None:
        try:
            moa_dspy.autolog()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=turn_on)
    thread.start()
    thread.join()
    [message] = errors
    assert "Call it there, before the threads start" in message


def test_a_new_address_is_taken_over(store: Path, server_url: str) -> None:
    moa_dspy.autolog()
    mlflow.set_tracking_uri(server_url)
    mlflow.set_experiment("taken over")
    moa_dspy.autolog()
    mixture(cast("a", "b", "judge"))(question="?")
    assert len(traces()) == 1


def test_a_model_saved_meanwhile_loads_without_us(store: Path) -> None:
    import pickle

    moa_dspy.autolog()
    [ours] = dspy.settings.callbacks
    assert type(pickle.loads(pickle.dumps(ours))) is MlflowCallback
