"""What autolog costs: `python tests/bench/tracking.py`. A table; figures of this machine, under its load.

(a) A mixture whose models take 200 ms each, with autolog and without, in turns. (b) The same at no latency, in a SQLite
store and in a server over HTTP. (c) 1,000 calls, and how many of their traces are in the store.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}

import dspy
import mlflow
from rich.console import Console
from rich.table import Table
from support.fake_lm import FakeLM
from support.mixtures import QA, says
from support.mlflow_server import migrated, mlflow_server

import moa_dspy
from moa_dspy import MoA
from moa_dspy.tracking import flush


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=15, help="calls with and without autolog, per measurement")
    parser.add_argument("--calls", type=int, default=1000, help="calls whose traces are counted")
    options = parser.parse_args()
    table = Table("store", "models take", "without", "with autolog", "more", title="Seconds per mixture call, medians")
    counts = Table("store", "calls", "traces stored", "calls took", "flush took", title="Traces")
    with tempfile.TemporaryDirectory() as folder:
        database = migrated(Path(folder) / "mlflow.db")
        stores: dict[str, str] = {"SQLite": f"sqlite:///{database}"}
        with mlflow_server(Path(folder), migrated(Path(folder) / "server.db")) as url:
            stores["HTTP"] = url
            for name, uri in stores.items():
                mlflow.set_tracking_uri(uri)
                mlflow.set_experiment("bench")
                for delay in (0.2, 0.0):
                    plain, traced = compared(mixture(delay), options.pairs if delay else 10 * options.pairs)
                    more = f"{traced / plain - 1:+.1%}" if delay else f"{(traced - plain) * 1000:+.1f} ms"
                    table.add_row(name, f"{delay * 1000:.0f} ms", f"{plain:.4f}", f"{traced:.4f}", more)
                counts.add_row(name, *counted(mixture(0.0), options.calls))
    Console().print(table, counts)


def mixture(delay: float) -> MoA:
    """Three proposers and an aggregator that take so long."""
    lms = [FakeLM(name, says(name), delay=delay) for name in ("a", "b", "c", "judge")]
    return MoA(QA, lms[:3], lms[3])


def compared(moa: MoA, pairs: int) -> tuple[float, float]:
    """Median seconds of a call without and with autolog, in turns."""
    moa_dspy.autolog()
    on = list(dspy.settings.callbacks)
    timed(moa, on)
    taken = [(timed(moa, []), timed(moa, on)) for _ in range(pairs)]
    flush()
    moa_dspy.autolog(disable=True)
    return statistics.median(plain for plain, _ in taken), statistics.median(traced for _, traced in taken)


def timed(moa: MoA, callbacks: list[Callable[..., object]]) -> float:
    """Seconds of one call."""
    with dspy.context(callbacks=callbacks):
        started = time.perf_counter()
        moa(question="Why?")
        return time.perf_counter() - started


def counted(moa: MoA, calls: int) -> tuple[str, ...]:
    """Calls, traces of them in the store, seconds for the calls and for storing the rest."""
    experiment = mlflow.set_experiment(f"count {calls}")
    moa_dspy.autolog()
    started = time.perf_counter()
    for number in range(calls):
        moa(question=str(number))
    called = time.perf_counter()
    flush(600)
    flushed = time.perf_counter()
    client, token, stored = mlflow.MlflowClient(), None, 0
    while True:
        page = client.search_traces(
            locations=[experiment.experiment_id], max_results=500, page_token=token, include_spans=False
        )
        stored, token = stored + len(page), page.token
        if not token:
            break
    moa_dspy.autolog(disable=True)
    return f"{calls:,}", f"{stored:,}", f"{called - started:.1f} s", f"{flushed - called:.1f} s"


if __name__ == "__main__":
    main()
