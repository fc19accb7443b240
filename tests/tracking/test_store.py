"""Whatever the store does, the answers come, in a bounded time, for one warning; what is missing is said."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from mlflow.utils.import_hooks import register_post_import_hook
from support.mixtures import EXAMPLES, cast, mixture
from support.mlflow_server import free_port, mortal_server

import moa_dspy
from moa_dspy import track
from moa_dspy.tracking import flush, store


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.getfixturevalue("store")  # by another name: `store` is the module here
    return folder


@pytest.fixture(autouse=True)
def quick(untracked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # MLflow's own bound holds where its queue is emptied
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setattr(store, "LIMIT", 1.0)
    monkeypatch.setattr(sys.modules["moa_dspy.tracking.run"], "LIMIT_AT_END", 2.0)


def exact(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The warnings of ours, and of those who ask the server for us."""
    names = ("moa_dspy", "mlflow", "dspy", "urllib3")
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING and r.name.split(".")[0] in names]


def test_one_that_dies_in_the_middle(
    server_url: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    moa = mixture(cast("a", "b", "judge"))
    with mortal_server(server_url) as url:
        mlflow.set_tracking_uri(url)
        mlflow.set_experiment("dying")
        moa_dspy.autolog()
        block = track(moa, "qa")
        tracked = block.__enter__()
        moa(question="before")
        flush()
    started = time.monotonic()
    assert moa(question="after").answer == "judge"
    dspy.Evaluate(devset=EXAMPLES, metric=exact)(moa)
    block.__exit__(None, None, None)
    assert time.monotonic() - started < 15
    assert tracked.usage.calls == 5 * 3
    [warning] = [line for line in said(caplog) if "is incomplete" in line]
    assert str(tracked.run_id) in warning and "its end" in warning
    monkeypatch.setattr(store, "LIMIT", 30.0)
    # The next block is not below the one that could not end.
    mlflow.set_tracking_uri(server_url)
    with track(moa, "next") as following:
        pass
    runs = {run.info.run_id: run for run in mlflow.search_runs(output_format="list", search_all_experiments=True)}
    assert "mlflow.parentRunId" not in runs[str(following.run_id)].data.tags
    assert (runs[str(tracked.run_id)].info.status, mlflow.active_run()) == ("FAILED", None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_one_that_is_killed_and_comes_back_has_every_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES")
    from support.mlflow_server import migrated

    database, port = migrated(tmp_path / "server.db"), free_port()
    url = f"http://127.0.0.1:{port}"
    moa = mixture(cast("a", "b", "judge"))

    def serve() -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
        process = subprocess.Popen(
            [*command, "--backend-store-uri", f"sqlite:///{database}"],
            cwd=tmp_path,
            env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        mlflow.set_tracking_uri(url)
        for _ in range(120):
            try:
                store.within(2, lambda: mlflow.MlflowClient(url).search_experiments(max_results=1))
            except Exception:
                time.sleep(0.5)
            else:
                break
        return process

    process = serve()
    mlflow.set_experiment("restarted")
    moa_dspy.autolog()
    for number in range(60):
        if number == 20:
            os.killpg(process.pid, signal.SIGKILL)
        if number == 40:
            process = serve()
        moa(question=str(number))
    flush(200)
    found = len(mlflow.search_traces(return_type="list"))
    os.killpg(process.pid, signal.SIGKILL)
    assert found == 60


def test_the_end_of_the_program_stores_what_is_left(local: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import mlflow, moa_dspy\n"
        "from support.mixtures import cast, mixture\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "moa_dspy.autolog()\n"
        "print(mixture(cast('a', 'b', 'judge'))(question='?').answer)\n"
    )
    command = [sys.executable, "-c", code, mlflow.get_tracking_uri(), str(Path(__file__).parents[1])]
    done = subprocess.run(command, cwd=local, capture_output=True, text=True, check=True, timeout=300)
    assert (done.stdout, len(mlflow.search_traces(return_type="list"))) == ("judge\n", 1)


def test_the_end_of_the_program_does_not_wait_for_a_server_that_died(tmp_path: Path, server_url: str) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "import mlflow, moa_dspy\n"
        "from moa_dspy.tracking import run, store\n"
        "from support.mixtures import cast, mixture\n"
        "mlflow.set_tracking_uri(sys.argv[1])\n"
        "with moa_dspy.track(mixture(cast('a', 'judge'))) as tracked:\n"
        "    print(tracked.run_id, flush=True)\n"
        "    input()\n"
        "    store.LIMIT = run.LIMIT_AT_END = 2.0\n"
    )
    # Not the limits of the tests, nor the experiment of another store, which `mlflow.set_experiment` leaves there.
    others = ("MLFLOW_HTTP", "MLFLOW_EXPERIMENT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    with mortal_server(server_url) as url:
        command = [sys.executable, "-c", code, url, str(Path(__file__).parents[1])]
        process = subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, stderr=-1, text=True, cwd=tmp_path)
        assert process.stdout is not None and len(process.stdout.readline().strip()) == 32
    _, said = process.communicate("\n", timeout=60)  # MLflow by itself asks for 247 s
    assert process.returncode == 0 and "is incomplete. It lacks: its end" in said


def test_requests_do_not_wait_for_mlflows_import_hooks(local: Path) -> None:
    moa_dspy.autolog()
    ended = []

    def fail(url: str) -> None:
        with suppress(mlflow.MlflowException):
            mlflow.MlflowClient(url).search_experiments()

    def ask(module: object) -> None:  # MLflow calls it at once, and keeps others from its hooks meanwhile
        asking = threading.Thread(target=fail, args=(f"http://127.0.0.1:{free_port()}",))
        asking.start()
        asking.join(10)
        ended.append(not asking.is_alive())

    fail(f"http://127.0.0.1:{free_port()}")  # imports what the first request needs
    register_post_import_hook(ask, "json")
    assert ended == [True]


def test_what_waits_for_a_slow_store_goes_out_together() -> None:
    answered, sent = threading.Event(), list[Any]()

    def send(items: list[Any]) -> None:
        answered.wait(10)
        sent.append(items)

    writer = store.Writer(send)
    for item in ("first", "second", "third"):
        writer.write(item, item)
    assert writer.finish(0) == [f"{item} (no answer in time)" for item in ("first", "second", "third")]
    answered.set()
    assert (writer.finish(10), [item for items in sent for item in items]) == ([], ["first", "second", "third"])
    assert len(sent) <= 2
