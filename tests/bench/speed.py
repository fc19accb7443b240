"""What a mixture costs beside what the wire allows, and beside the leanest mixtures written by hand in DSPy.

    python tests/bench/speed.py [--rounds 5] [--quick]

A loopback server in a process of its own answers every chat completion after a set time with 600 characters. All
variants ask the same prompts of it, in turn, round by round, so that the machine's moods meet all of them; figures are
medians, and what counts are the ratios. "limit" is the time of the slowest proposer plus the aggregator.
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
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import aiohttp
import dspy
from rich.console import Console
from rich.table import Table

from moa_dspy import MoA
from moa_dspy.signatures import synthesis_signature, task_signature

ANSWER = "[[ ## reasoning ## ]]\n{}\n\n[[ ## answer ## ]]\n42\n\n[[ ## completed ## ]]".format("because " * 67)
# The names are in DSPy's price map: looking up others costs it 2 ms a call.
MODELS = ["gpt-4o-mini", "gpt-4o", "gpt-4.1-mini"]
POOL = ThreadPoolExecutor(512)


class Server(asyncio.Protocol):
    """The least HTTP server that speaks chat completions; answers after `latency` seconds."""

    latency = 0.0
    body = json.dumps(
        {
            "id": "1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": ANSWER}}],
            "usage": {"prompt_tokens": 300, "completion_tokens": 150, "total_tokens": 450},
        }
    ).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)

    def connection_made(self, transport: Any) -> None:
        self.transport, self.seen = transport, b""

    def data_received(self, data: bytes) -> None:
        self.seen += data
        while (end := self.seen.find(b"\r\n\r\n")) >= 0:
            length = next(
                int(line[15:]) for line in self.seen[:end].lower().split(b"\r\n") if line.startswith(b"content-length:")
            )
            if len(self.seen) < end + 4 + length:
                return
            self.seen = self.seen[end + 4 + length :]
            asyncio.get_running_loop().call_later(self.latency, self.transport.write, self.head + self.body)


async def serve(latency: float) -> None:
    """Be the server: print the address, answer until standard input closes."""
    Server.latency = latency
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


@dataclass
class Variant:
    """A way to ask n proposers and an aggregator one question: in a thread of its own, or awaited."""

    name: str
    ask: Callable[[str], Any]
    is_async: bool = False
    is_limit: bool = False


def variants(url: str, n: int, backend: str) -> list[Variant]:
    """Ours, and by hand: the limit, LM calls alone, threads, the caller running one proposer, gather."""

    def lm(number: int) -> dspy.LM:
        name = MODELS[number % len(MODELS)]
        return dspy.LM(f"openai/{name}", api_base=url, api_key="none", cache=False, engine=backend, temperature=1.0)

    lms, judge = [lm(number) for number in range(n)], lm(0)
    task = task_signature("question -> answer")
    moa = MoA("question -> answer", lms, judge)
    propose, aggregate = dspy.ChainOfThought(task), dspy.Predict(synthesis_signature(task))

    def one(lm: dspy.LM, question: str) -> Any:
        with dspy.context(lm=lm):
            return propose(question=question)

    def judged(question: str, proposals: list[Any]) -> Any:
        text = "\n\n".join(
            f"Proposal P{i}:\nreasoning: {p.reasoning}\nanswer: {p.answer}" for i, p in enumerate(proposals)
        )
        with dspy.context(lm=judge):
            return aggregate(question=question, proposals=text)

    def threads(question: str) -> Any:
        jobs = [POOL.submit(contextvars.copy_context().run, one, lm, question) for lm in lms]
        return judged(question, [job.result() for job in jobs])

    def caller_runs(question: str) -> Any:
        jobs = [POOL.submit(contextvars.copy_context().run, one, lm, question) for lm in lms[:-1]]
        last = one(lms[-1], question)
        return judged(question, [*(job.result() for job in jobs), last])

    async def gather(question: str) -> Any:
        async def aone(lm: dspy.LM) -> Any:
            with dspy.context(lm=lm):
                return await propose.acall(question=question)

        proposals = await asyncio.gather(*(aone(lm) for lm in lms))
        text = "\n\n".join(
            f"Proposal P{i}:\nreasoning: {p.reasoning}\nanswer: {p.answer}" for i, p in enumerate(proposals)
        )
        with dspy.context(lm=judge):
            return await aggregate.acall(question=question, proposals=text)

    def calls_alone(question: str) -> Any:
        prompt = question + " " * 600
        jobs = [POOL.submit(lm, prompt) for lm in lms[:-1]]
        last = lms[-1](prompt)
        return judge(" ".join([*(job.result()[0] for job in jobs), last[0]]))

    by_hand = [
        Variant("LM calls alone", calls_alone),
        Variant("by hand, threads", threads),
        Variant("by hand, caller runs one", caller_runs),
        Variant("by hand, gather", gather, is_async=True),
        Variant("ours, sync", lambda question: moa(question=question)),
        Variant("ours, async", lambda question: moa.acall(question=question), is_async=True),
    ]
    return by_hand


def bare(url: str, n: int) -> Variant:
    """The limit: the same requests by a bare HTTP client."""
    body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "x" * 2000}]}).encode()
    sessions: dict[Any, aiohttp.ClientSession] = {}

    async def ask(question: str) -> None:
        loop = asyncio.get_running_loop()
        if loop not in sessions:
            sessions[loop] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        session = sessions[loop]

        async def post() -> None:
            async with session.post(f"{url}/chat/completions", data=body) as response:
                json.loads(await response.read())

        await asyncio.gather(*(post() for _ in range(n)))
        await post()

    return Variant("bare aiohttp", ask, is_async=True, is_limit=True)


def one_after_other(variant: Variant, questions: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds a question, asked one after the other."""

    async def all_async() -> None:
        for question in questions:
            await variant.ask(question)

    started, cpu = time.perf_counter(), time.process_time()
    if variant.is_async:
        LOOP.run_until_complete(all_async())
    else:
        for question in questions:
            variant.ask(question)
    return (time.perf_counter() - started) / len(questions), (time.process_time() - cpu) / len(questions)


def throughput(variant: Variant, questions: list[str], in_flight: int) -> float:
    """Questions a second with so many in flight."""

    async def all_async() -> None:
        limit = asyncio.Semaphore(in_flight)

        async def one(question: str) -> None:
            async with limit:
                result: Awaitable[Any] = variant.ask(question)
                await result

        await asyncio.gather(*(one(question) for question in questions))

    started = time.perf_counter()
    if variant.is_async:
        LOOP.run_until_complete(all_async())
    else:
        with ThreadPoolExecutor(in_flight) as pool:
            list(pool.map(variant.ask, questions))
    return len(questions) / (time.perf_counter() - started)


LOOP = asyncio.new_event_loop()
Measures = dict[str, dict[str, list[float]]]


def measure(n: int, backend: str, rounds: int, quick: bool) -> Measures:
    """Variant -> figure -> one value per round; the variants in turn within each round."""
    figures: Measures = {}
    servers = {ms: start_server(ms) for ms in (0, 50, 200)}
    panels = {ms: [bare(url, n), *variants(url, n, backend)] for ms, (url, _) in servers.items()}
    asked = 0

    def ask(count: int) -> list[str]:
        nonlocal asked
        asked += count
        return [f"What is {number} and why?" for number in range(asked - count, asked)]

    for panel in panels.values():
        for variant in panel:
            one_after_other(variant, ask(2))  # connections, caches
    for _ in range(rounds):
        for ms, panel in panels.items():
            for variant in panel:
                row = figures.setdefault(variant.name, {})
                wall, cpu = one_after_other(variant, ask(40 if ms == 0 else 5))
                if ms == 0:
                    row.setdefault("CPU ms", []).append(cpu * 1000)
                else:
                    row.setdefault(f"wall/limit at {ms} ms", []).append(wall / (2 * ms / 1000))
        for in_flight in () if quick else (16, 64):
            for variant in panels[200]:
                row = figures[variant.name]
                row.setdefault(f"q/s, {in_flight} in flight", []).append(
                    throughput(variant, ask(max(2 * in_flight, 48)), in_flight)
                )
    for _, server in servers.values():
        server.communicate("")
    return figures


def start_server(ms: int) -> tuple[str, Any]:
    command = [sys.executable, __file__, "--serve", str(ms / 1000)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    return server.stdout.readline().strip(), server


def show(figures: Measures, title: str) -> None:
    """The medians, and ours against the leanest by hand of the same kind."""
    columns = list(dict.fromkeys(name for row in figures.values() for name in row))
    table = Table(title=title)
    for column in ["", *columns]:
        table.add_column(column, justify="left" if column == "" else "right")
    medians = {name: {c: statistics.median(v) for c, v in row.items()} for name, row in figures.items()}
    for name, row in medians.items():
        table.add_row(name, *(f"{row[c]:.3f}" if "limit" in c else f"{row[c]:.2f}" for c in columns))
    for ours, kind in (
        ("ours, sync", ("by hand, threads", "by hand, caller runs one")),
        ("ours, async", ("by hand, gather",)),
    ):
        cells = []
        for column in columns:
            # Of each round the leanest, so that both sides had the same machine.
            pick = max if "q/s" in column else min
            by_round = zip(*(figures[name][column] for name in kind), strict=True)
            ratios = [mine / pick(theirs) for mine, theirs in zip(figures[ours][column], by_round, strict=True)]
            cells.append(f"{statistics.median(ratios):.2f}")
        table.add_row(f"{ours} / leanest by hand", *cells, style="bold")
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--proposers", type=int, nargs="+", default=[3])
    parser.add_argument("--backends", nargs="+", default=["lm15", "litellm"])
    parser.add_argument("--quick", action="store_true", help="no throughput")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(serve(options.serve))
        return
    asyncio.set_event_loop(LOOP)
    for backend in options.backends:
        for n in options.proposers:
            figures = measure(n, backend, options.rounds, options.quick)
            show(figures, f"{n} proposers, {backend} backend, {options.rounds} rounds")


if __name__ == "__main__":
    main()
