"""What autolog costs: `python tests/bench/tracking.py`. Tables; figures of this machine, under its load.

(a) A mixture whose models take 200 ms each: untraced, with autolog and with MLflow's own, in turns. (b) The same at no
latency, in a SQLite store and in a server over HTTP. (c) Calls on 8 threads: how many of their traces are in the store
once MLflow has emptied its queue, and how many of those say another cost than the provider's.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}

import dspy
import mlflow
from mlflow.dspy import autolog as mlflow_autolog
from rich.console import Console
from rich.table import Table
from support.fake_lm import FakeLM
from support.mixtures import QA, says
from support.mlflow_server import migrated, mlflow_server
from support.openai_server import OpenAIServer, Reply, Tokens
from support.rendering import render

import moa_dspy
from moa_dspy import MoA


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="calls of each kind, per measurement")
    parser.add_argument("--calls", type=int, default=300, help="calls whose traces are counted")
    options = parser.parse_args()
    table = Table("store", "models take", "untraced", "autolog", "MLflow's own", title="Milliseconds a call, medians")
    counts = Table("store", "calls", "stored", "another cost", "calls took", "storing took", title="Traces, 8 threads")
    with tempfile.TemporaryDirectory() as folder:
        stores: dict[str, str] = {"SQLite": f"sqlite:///{migrated(Path(folder) / 'mlflow.db')}"}
        with mlflow_server(Path(folder), migrated(Path(folder) / "empty.db")) as url:
            stores["HTTP"] = url
            for name, uri in stores.items():
                mlflow.set_tracking_uri(uri)
                mlflow.set_experiment("bench")
                for delay in (0.2, 0.0):
                    rounds = options.rounds if delay else 10 * options.rounds
                    plain, *traced = (1000 * seconds for seconds in compared(mixture(delay), rounds))
                    more = [f"{taken:.1f} ({taken - plain:+.1f})" for taken in traced]
                    table.add_row(name, f"{delay * 1000:.0f} ms", f"{plain:.1f}", *more)
                counts.add_row(name, *counted(options.calls))
    Console().print(table, counts)


def mixture(delay: float) -> MoA:
    """Three proposers and an aggregator that take so long."""
    lms = [FakeLM(name, says(name), delay=delay) for name in ("a", "b", "c", "judge")]
    return MoA(QA, lms[:3], lms[3])


def compared(moa: MoA, rounds: int) -> list[float]:
    """Median seconds of a call: untraced, with autolog, with MLflow's own."""
    mlflow_autolog(silent=True)
    own = list(dspy.settings.callbacks)
    moa_dspy.autolog()
    kinds = [[], list(dspy.settings.callbacks), own]
    taken = [[timed(moa, callbacks) for callbacks in kinds] for _ in range(rounds + 2)][2:]
    mlflow.flush_trace_async_logging()
    moa_dspy.autolog(disable=True)
    mlflow_autolog(disable=True, silent=True)
    return [statistics.median(each) for each in zip(*taken, strict=True)]


def timed(moa: MoA, callbacks: Sequence[Any]) -> float:
    """Seconds of one call."""
    with dspy.context(callbacks=list(callbacks)):
        started = time.perf_counter()
        moa(question="Why?")
        return time.perf_counter() - started


def counted(calls: int) -> tuple[str, ...]:
    """Calls, their traces in the store, those with another cost; seconds for the calls and for storing the rest."""
    experiment = mlflow.set_experiment(f"count {calls}")
    reply = Reply(render("chat", {"reasoning": "so", "answer": "x"}), usage=Tokens(prompt=1000, completion=100))
    cost = 4 * (1000 * 0.15e-6 + 100 * 0.6e-6)
    with OpenAIServer(lambda request: reply) as provider:
        access: dict[str, Any] = {"api_base": provider.url, "api_key": "key", "cache": False}
        lms = [dspy.LM("openai/gpt-4o-mini", **access, temperature=n / 10) for n in range(4)]
        moa = MoA(QA, lms[:3], lms[3])
        moa_dspy.autolog()
        started = time.perf_counter()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: moa(question=str(number)), range(calls)))
        called = time.perf_counter()
    mlflow.flush_trace_async_logging()
    flushed = time.perf_counter()
    client, token, found = mlflow.MlflowClient(), None, list[Any]()
    while not found or token:
        locations = [experiment.experiment_id]
        page = client.search_traces(locations=locations, max_results=500, page_token=token, include_spans=False)
        found, token = [*found, *page], page.token
    moa_dspy.autolog(disable=True)
    wrong = sum(abs((trace.info.cost or {}).get("total_cost", 0) - cost) > 1e-9 for trace in found)
    seconds = f"{called - started:.1f} s", f"{flushed - called:.1f} s"
    return f"{calls:,}", f"{len(found):,}", str(wrong), *seconds


if __name__ == "__main__":
    main()
