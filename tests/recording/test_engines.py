"""Who asks a recording's questions: this process, or workers on a local Ray (uv run --extra ray pytest -m ray)."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, echo
from support.openai_server import ChatRequest, OpenAIServer, Reply
from support.rendering import asked

import moa_dspy
from moa_dspy import Agent, MoA, Recording, record
from moa_dspy.recording import RecordingStopped

ROWS = [{"id": n, "question": f"q{n}"} for n in range(12)]
on_ray = [
    pytest.mark.ray,
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'moa-dspy[ray]'"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning"),  # Ray's own
]


class Dies(dspy.Module):
    """Answers with the question, but for those after which its process is killed: as long as there is a flag."""

    def __init__(self, flags: Path) -> None:
        super().__init__()
        self.flags = flags

    def forward(self, question: str) -> dspy.Prediction:
        if (flag := self.flags / question).exists():
            time.sleep(0.3)  # others are under way too
            if not flag.read_text():  # once only
                flag.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return dspy.Prediction(answer=question)


def reply(request: ChatRequest) -> Reply:
    prompt = asked(request.prompt)
    assert prompt is not None
    return Reply(prompt.render({"reasoning": "so", "answer": prompt.inputs["question"]}), latency=0.05)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "any")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray: Any = __import__("ray")
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not see the tests
        ray.init(num_cpus=2, log_to_driver=False)
        yield ray
        ray.shutdown()


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with OpenAIServer(reply) as server:
        yield server


def panel(provider: OpenAIServer, *beside: dspy.Module) -> MoA:
    agents = [Agent(f"openai/{name}", api_base=provider.url, cache=False, num_retries=0) for name in "ab"]
    return MoA(QA, [*agents, *beside], strategy="voting")


def test_an_engine_that_is_not_there_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moa, out = MoA(QA, [FakeLM("only", echo)], strategy="voting"), tmp_path / "answers.jsonl"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'moa-dspy\[ray\]'"):
        record(moa, ROWS, out, engine="ray")
    with pytest.raises(ValueError, match=r"engine='rya': there is no such engine. Did you mean 'ray'\? Allowed: local"):
        record(moa, ROWS, out, engine="rya")  # type: ignore[arg-type]
    assert not out.exists()


class RayHere:
    """Ray's actors in this process; the worker that asks one of these questions dies, so often."""

    exceptions = SimpleNamespace(RayActorError=LookupError)

    def __init__(self, **deaths: int) -> None:
        self.deaths, self.started = deaths, 0
        self.is_initialized, self.cluster_resources = lambda: True, lambda: {"CPU": 2}
        self.put, self.get, self.kill = lambda sent: sent, lambda call: call(), lambda actor: None

    def remote(self, **options: Any) -> Any:
        return lambda kind: SimpleNamespace(remote=lambda *sent: self.start(kind(*sent)))

    def start(self, worker: Any) -> Any:
        self.started += 1
        return SimpleNamespace(answer=SimpleNamespace(remote=lambda asked: lambda: self.call(worker, asked)))

    def call(self, worker: Any, asked: Any) -> Any:
        name = asked[0].inputs["question"]
        self.deaths[name] = self.deaths.get(name, 0) - 1
        if self.deaths[name] >= 0:
            raise LookupError
        return worker.answer(asked)


def test_what_a_lost_worker_may_have_paid_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    ray, lm = RayHere(q2=1, q5=3), FakeLM("only", echo)
    monkeypatch.setitem(sys.modules, "ray", ray)
    with pytest.raises(RecordingStopped, match="12 of 14 calls are spent") as stop:
        record(MoA(QA, [lm], strategy="voting"), ROWS, engine="ray", concurrency=1, max_calls=14)
    rows = {row.id: row for row in stop.value.recording}
    assert {id: len(row.earlier_calls) for id, row in rows.items() if row.earlier_calls} == {2: 1, 5: 3}
    assert {id: row.error.type for id, row in rows.items() if row.error} == {5: "WorkerDied"}
    assert {call.error for id in (2, 5) for call in rows[id].earlier_calls} == {"Unfinished"}
    assert (ray.started, lm.calls, stop.value.summary.usage.calls) == (1 + 4, 8, 12)


class TestOnRay:
    pytestmark = on_ray

    def test_it_is_the_file_that_this_process_writes(self, ray: Any, provider: OpenAIServer, tmp_path: Path) -> None:
        there, here = tmp_path / "ray.jsonl", tmp_path / "local.jsonl"
        moa_dspy.configure(max_concurrency=3)
        try:
            record(panel(provider), ROWS[:5], there, engine="ray")
            assert len(provider.requests) == 10
            record(panel(provider), ROWS, there, engine="ray")
        finally:
            moa_dspy.configure(max_concurrency=None)
        assert (len(provider.requests), provider.peak) == (24, 3)
        record(panel(provider), ROWS, here)
        seconds = {"seconds", "calls", "proposals"}
        rows = [[row.model_dump(exclude=seconds) for row in Recording.load(path)] for path in (there, here)]
        assert rows[0] == rows[1] and Recording.load(there).usage.calls == 24

    def test_the_budget_is_one(self, ray: Any, provider: OpenAIServer, tmp_path: Path) -> None:
        with pytest.raises(RecordingStopped, match="6 of 7 calls are spent") as stop:
            record(panel(provider), ROWS, tmp_path / "out.jsonl", engine="ray", max_calls=7)
        assert (len(provider.requests), stop.value.summary.usage.calls, stop.value.summary.answered) == (6, 6, 3)

    def test_a_killed_workers_questions_are_asked_again(self, ray: Any, provider: OpenAIServer, tmp_path: Path) -> None:
        (tmp_path / "q4").touch()
        rows: list[Any] = []
        out = tmp_path / "out.jsonl"
        record(
            panel(provider, Dies(tmp_path)),
            ROWS,
            out,
            engine="ray",
            on_row=lambda row, summary: rows.append((row, summary)),
        )
        recording = Recording.load(out)
        assert [row.outputs for row in recording] == [{"answer": f"q{n}"} for n in range(12)]
        lost = [call for row in recording for call in row.earlier_calls]
        assert len(lost) >= 3 and {call.error for call in lost} == {"Unfinished"}
        assert rows[-1][1].usage == recording.usage
        assert recording.usage.calls == 24 + len(lost) and recording.usage.unpriced_calls >= len(lost)
        assert 24 < len(provider.requests) <= recording.usage.calls

    def test_a_question_that_kills_every_worker_is_given_up(
        self, ray: Any, provider: OpenAIServer, tmp_path: Path
    ) -> None:
        (tmp_path / "q1").write_text("always")
        out = tmp_path / "out.jsonl"
        record(panel(provider, Dies(tmp_path)), ROWS[:3], out, engine="ray", concurrency=1)
        errors = [row.error and row.error.type for row in Recording.load(out)]
        assert errors == [None, "WorkerDied", None]
        (tmp_path / "q1").unlink()
        again = record(panel(provider, Dies(tmp_path)), ROWS[:3], out, engine="ray")
        assert again[1].outputs == {"answer": "q1"} and len(again[1].earlier_calls) == 9
