"""Wall time of a mixture against the limit: the slowest proposer plus the aggregator.

    python tests/bench/latency.py

A loopback server in a process of its own answers after a fixed time. The mixture, sync and async,
and the plain DSPy ways to do the same are asked in turn, round by round, so that the machine's
moods meet all of them; what counts is the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import contextvars
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
sys.path.insert(0, str(Path(__file__).parents[1]))

import dspy
from rich.console import Console
from rich.table import Table

from moa_dspy import MoA

ANSWER = "[[ ## reasoning ## ]]\n{}\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]".format("because " * 75)
Ask = Callable[[str], Any]


def serve(latency: int) -> None:
    """Be the server: print the address, answer until standard input closes."""
    from support.openai_server import OpenAIServer

    with OpenAIServer(lambda request: ANSWER, latency=latency / 1000) as server:
        print(json.dumps(server.url), flush=True)
        sys.stdin.read()


def variants(url: str) -> dict[str, Ask]:
    """Ways to ask three proposers and an aggregator."""
    # The names are in DSPy's price map: looking up others costs it 2 ms a call.
    names = ["gpt-4o-mini", "gpt-4o", "gpt-4.1-mini", "gpt-4.1"]
    lms = [dspy.LM(f"openai/{name}", api_base=url, api_key="none", cache=False) for name in names]
    moa = MoA("question -> answer", lms[:3], lms[3])
    propose = dspy.ChainOfThought("question -> answer")
    aggregate = dspy.ChainOfThought("question, proposals: list[str] -> answer")

    def one(lm: dspy.LM, question: str) -> str:
        with dspy.context(lm=lm):
            return propose(question=question).answer

    def close(question: str, proposals: list[str]) -> Any:
        with dspy.context(lm=lms[3]):
            return aggregate(question=question, proposals=proposals)

    def serial(question: str) -> Any:
        return close(question, [one(lm, question) for lm in lms[:3]])

    def threads(question: str) -> Any:
        with ThreadPoolExecutor(3) as pool:
            jobs = [pool.submit(contextvars.copy_context().run, one, lm, question) for lm in lms[:3]]
            return close(question, [job.result() for job in jobs])

    loop = asyncio.new_event_loop()
    return {
        "moa_dspy, sync": lambda question: moa(question=question),
        "moa_dspy, async": lambda question: loop.run_until_complete(moa.acall(question=question)),
        "plain DSPy, threads": threads,
        "plain DSPy, one after another": serial,
    }


def measure(ways: dict[str, Ask], rounds: int) -> dict[str, tuple[float, float]]:
    """Median seconds, wall and CPU, of each way."""
    walls: dict[str, list[float]] = {name: [] for name in ways}
    cpus: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(-2, rounds):
        for name, ask in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            ask(f"{name} {number}")
            if number >= 0:
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    return {name: (statistics.median(walls[name]), statistics.median(cpus[name])) for name in ways}


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=int, action="append", help="ms a call (repeatable; default 200, 50, 0)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(options.serve)
        return
    table = Table(title="3 proposers + 1 aggregator on a loopback server, medians")
    for name in ("ms a call", "way", "wall ms", "wall / limit", "CPU ms"):
        table.add_column(name, justify="left" if name == "way" else "right")
    for latency in options.latency or (200, 50, 0):
        command = [sys.executable, __file__, "--serve", str(latency)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            url = json.loads(server.stdout.readline()) if server.stdout else ""
            for name, (wall, cpu) in measure(variants(url), options.rounds).items():
                ratio = f"{wall * 1000 / (2 * latency):.3f}" if latency else ""
                table.add_row(str(latency), name, f"{wall * 1000:.1f}", ratio, f"{cpu * 1000:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
