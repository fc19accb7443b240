"""A bad tracking server costs one warning and a bounded time."""

import os
import threading
import time
from contextvars import ContextVar

import mlflow
import pytest
from support.mlflow_server import broken_server, hanging_server

from moa_dspy.tracking.guard import LIMIT, LOCAL_LIMIT, SETTINGS, Guard, bounded, reach

_here: ContextVar[str] = ContextVar("here", default="lost")


def _fails() -> None:
    raise OSError("connection refused")


def test_work_is_done_elsewhere_in_the_callers_context() -> None:
    _here.set("kept")
    guard = Guard()
    assert guard.run("look", lambda: (_here.get(), threading.current_thread().daemon)) == ("kept", True)
    assert guard.run("give nothing", lambda: None) is None
    assert not guard.broken


def test_after_the_first_failure_nothing_is_tried_and_one_warning_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    guard, tried = Guard(), list[int]()
    assert guard.run("log the metrics", _fails) is None
    assert guard.run("log more", lambda: tried.append(1)) is None
    assert guard.here("log here", lambda: tried.append(2)) is None
    assert guard.broken and tried == []
    [record] = caplog.records
    assert "could not log the metrics (OSError: connection refused)" in record.getMessage()
    assert mlflow.get_tracking_uri() in record.getMessage()


def test_slow_work_is_not_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    started, go_on = time.monotonic(), threading.Event()
    assert Guard(0.2).run("wait", go_on.wait) is None
    assert time.monotonic() - started < 2
    go_on.set()
    assert "TimeoutError: no answer within 0.2 s" in caplog.text


def test_the_warning_holds_no_login(untracked: None, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.set_tracking_uri("http://me:planted-password@127.0.0.1:1/?token=planted-token")
    with bounded():
        Guard().run("reach it", reach)
    assert "http://***@127.0.0.1:1/?token=***" in caplog.text
    assert "planted" not in caplog.text


@pytest.mark.parametrize("kind", [hanging_server, broken_server])
def test_in_the_callers_thread_a_bad_server_is_found_out_first(
    kind: object, untracked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    started, done = time.monotonic(), list[int]()
    with kind() as url:  # type: ignore[operator]
        mlflow.set_tracking_uri(url)
        Guard(1.0).here("start a run", lambda: done.append(1))
    assert done == []
    assert time.monotonic() - started < 5


def test_an_error_of_the_work_here_is_taken(store: object, caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard()
    guard.here("start a run", _fails)
    assert guard.broken
    assert len(caplog.records) == 1


def test_a_store_on_this_machine_may_build_its_tables_and_a_server_may_not_keep_us(store: object) -> None:
    assert Guard().seconds == LOCAL_LIMIT == 60.0
    mlflow.set_tracking_uri("http://127.0.0.1:9")
    assert Guard().seconds == LIMIT == 10.0
    assert Guard(2.5).seconds == 2.5


def test_settings_hold_until_the_last_one_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "77")
    before = dict(os.environ)
    first, second = bounded(), bounded()
    first.__enter__()
    with second:
        first.__exit__(None, None, None)
        assert {name: os.environ[name] for name in SETTINGS} == SETTINGS | {"MLFLOW_HTTP_REQUEST_TIMEOUT": "77"}
    assert dict(os.environ) == before


def test_what_the_user_sets_meanwhile_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with bounded():
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "55")
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "55"
