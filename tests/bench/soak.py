"""Thousands of calls, a fifth of them faulty, and a command that is killed again and again: what is lost, what leaks.

    python tests/bench/soak.py [--calls 20000] [--at-once 64] [--kills 20]

A provider in a process of its own fails a fifth of the calls: 429, 500, a dropped connection, a body that is no JSON,
an answer without a field. Sync, the questions are recorded into a file; async, they are asked one by one. After each
quarter it prints what is held: memory, threads, sockets, tasks. At the end the calls and tokens of the recording are
compared with the server's. The kills are of `moa-dspy run`, at random moments.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import dspy
from support.mixtures import question
from support.openai_server import ChatRequest, OpenAIServer, Reply, Tokens
from support.rendering import render

from moa_dspy import MoA, Recording, record
from moa_dspy.cli import app
from moa_dspy.errors import MoAError
from moa_dspy.usage import Usage

QUARTERS = 4
FAULTS = [
    Reply("slow down", status=429, headers={"Retry-After": "0"}),
    Reply("broken", status=500),
    Reply(drop=True),
    Reply(raw='{"choices": ['),
    Reply("I would rather not say.", usage=Tokens(10, 5)),
]


# Processes of their own, of which the first imports all that the others need.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["aiohttp.web", "moa_dspy.cli", "moa_dspy.moa", "moa_dspy.recording", "pytest"])


class Server:
    """The provider, in a process of its own."""

    def __init__(self, share: float, latency: float = 0.0) -> None:
        self.pipe, theirs = processes.Pipe()
        self.process = processes.Process(target=serve, args=(share, latency, theirs), daemon=True)
        self.process.start()
        self.url = self.pipe.recv()

    def seen(self) -> dict[str, Any]:
        """Requests, tokens, and how often each question was asked."""
        self.pipe.send(None)
        seen: dict[str, Any] = self.pipe.recv()
        return seen


@contextmanager
def serving(share: float, latency: float = 0.0) -> Iterator[Server]:
    """A server that fails this share of its calls."""
    server = Server(share, latency)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.join()


def serve(share: float, latency: float, pipe: Any) -> None:
    """Be the server: tell the address, then what was seen as often as somebody asks."""
    draw, tokens, asked = random.Random(7), Counter[str](), Counter[str]()

    def answer(request: ChatRequest) -> Reply:
        asked[question(request.prompt)] += 1
        fine = Reply(render("chat", {"reasoning": "so", "answer": question(request.prompt)}), usage=Tokens(10, 5))
        reply = draw.choice(FAULTS) if draw.random() < share else fine
        if reply.usage is not None:
            tokens.update(prompt=10, completion=5)
        server.requests.clear()
        return reply

    with OpenAIServer(answer, latency) as server:
        pipe.send(server.url)
        while True:
            pipe.recv()
            pipe.send({"calls": asked.total(), **tokens, "asked": dict(asked)})


def held() -> dict[str, int]:
    """What this process holds now."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    files = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return {
        "MB": int(status.split("VmRSS:")[1].split()[0]) // 1024,
        "threads": threading.active_count(),
        "sockets": sum(file.startswith("socket:") for file in files),
    }


def soak(calls: int, at_once: int, is_async: bool, folder: Path) -> dict[str, Any]:
    """Ask so many calls' worth of questions; what was lost, and what was held after each quarter."""
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    with serving(share=0.2) as server, dspy.context(disable_history=True):
        models = [dspy.LM(f"openai/{name}", api_base=server.url, api_key="any", num_retries=0) for name in "abcj"]
        moa = MoA("question -> answer", models[:3], models[3])
        quarters, usage, came, failed = [held()], Usage.of([]), 0, 0
        rows = [{"id": n, "question": f"question {n}"} for n in range(calls // 4)]
        started = time.perf_counter()
        for number in range(QUARTERS):
            part = rows[number::QUARTERS]
            if is_async:
                metadata, tasks = asyncio.run(_ask_all(moa, part, at_once))
            else:
                recording = record(moa, part, folder / f"{number}.jsonl", concurrency=at_once, max_failures=len(rows))
                assert len(Recording.load(folder / f"{number}.jsonl")) == len(part)
                metadata, tasks = list(recording), 0
            usage = sum((one.usage for one in metadata), usage)
            came += len(metadata)
            failed += sum(one.error is not None for one in metadata) if not is_async else 0
            del metadata
            quarters.append({**held(), "tasks": tasks})
        seen = server.seen()
    return {
        "way": "async" if is_async else "sync, recorded",
        "questions": len(rows),
        "lost": len(rows) - came,
        "calls": (usage.calls, seen["calls"]),
        "tokens": (usage.prompt_tokens + usage.completion_tokens, seen["prompt"] + seen["completion"]),
        "failed calls": usage.failed_calls,
        "failed questions": failed,
        "seconds": round(time.perf_counter() - started, 1),
        "held": quarters,
    }


async def _ask_all(moa: MoA, rows: list[dict[str, Any]], at_once: int) -> tuple[list[Any], int]:
    room = asyncio.Semaphore(at_once)

    async def ask(row: dict[str, Any]) -> Any:
        async with room:
            try:
                return (await moa.acall(question=row["question"])).metadata
            except MoAError as error:
                return error.metadata

    came = await asyncio.gather(*(ask(row) for row in rows))
    return list(came), len(asyncio.all_tasks()) - 1


def kill(times: int, questions: int, folder: Path, seed: int = 7) -> dict[str, Any]:
    """Kill `moa-dspy run` so often at random moments, and let it end: what was lost, and what was paid twice."""
    rows = [{"id": n, "question": f"question {n}"} for n in range(questions)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw, again, kept, seen = random.Random(seed), 0, Counter[str](), dict[str, Any]()
    with serving(share=0.0, latency=0.02) as server:
        entry = {"api_base": server.url, "num_retries": 0}
        models = [{"model": f"openai/{name}", **entry} for name in "ab"]
        (folder / "moa.json").write_text(json.dumps({"proposer_models": models, "aggregation_strategy": "voting"}))
        for number in range(times + 1):
            process = processes.Process(target=run, args=(folder,))
            process.start()
            if number < times:
                target = server.seen()["calls"] + draw.randint(0, 3 * questions // times)
                while process.is_alive() and server.seen()["calls"] < target:
                    time.sleep(0.005)
                time.sleep(draw.random() * 0.05)
                process.kill()
            process.join()
            time.sleep(0.05)  # what was on its way to the server has arrived
            seen = server.seen()["asked"]
            again += sum(seen[text] > count for text, count in kept.items())
            there = folder / "answers.jsonl"
            answered = [row.inputs["question"] for row in Recording.load(there)] if there.exists() else []
            kept = Counter({text: seen[text] for text in answered})
        recording = Recording.load(folder / "answers.jsonl")
    ids = [json.loads(line)["id"] for line in (folder / "answers.jsonl").read_bytes().splitlines()]
    return {
        "kills": times,
        "complete": [row.id for row in recording] == list(range(questions)) == ids,
        "asked though kept": again,
        "asked in all": (sum(seen.values()), 2 * questions),
        "left beside": sorted(p.name for p in folder.iterdir() if "answers" in p.name and p.name != "answers.jsonl"),
    }


def run(folder: Path) -> None:
    """Be `moa-dspy run`."""
    os.chdir(folder)
    os.environ["OPENAI_API_KEY"] = "any"
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)  # which would hide what is asked twice
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        app(["run", "questions.jsonl", "-o", "answers.jsonl", "-c", "moa.json"])


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for is_async in (False, True):
            print(json.dumps(soak(options.calls, options.at_once, is_async, Path(name)), indent=1), flush=True)
        print(json.dumps(kill(options.kills, 200, Path(name)), indent=1))


if __name__ == "__main__":
    main()
