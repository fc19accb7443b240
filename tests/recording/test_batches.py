"""Recordings that providers' batch APIs fill, over real sockets: each call of `record` is a command of its own."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.batch_server import BatchServer
from support.fake_lm import FakeLM
from support.mixtures import QA, echo
from support.openai_server import ChatRequest, Reply
from support.rendering import asked
from typer.testing import CliRunner

from moa_dspy import Agent, MoA, Recording, Selection, Voting, record
from moa_dspy.cli import app
from moa_dspy.recording import RecordingStopped, Summary, estimate

ROWS = [{"id": n, "question": f"q{n}"} for n in range(4)]
PRICES = {"input": 1e6, "output": 2e6}


def reply(request: ChatRequest) -> Reply:
    prompt = asked(request.prompt)
    assert prompt is not None
    return Reply(prompt.render({"reasoning": "so", "answer": prompt.inputs["question"]}))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[BatchServer]:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with BatchServer(reply) as server:
        yield server


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def mixture(server: BatchServer, *names: str, strategy: Any = "voting", **options: Any) -> MoA:
    agents = [Agent(f"openai/{name}", api_base=server.url, cache=False, num_retries=0) for name in names]
    judge = None if strategy == "voting" else Agent("openai/judge", api_base=server.url, prices=PRICES, cache=False)
    return MoA(QA, agents, judge, strategy, **options)


def step(moa: MoA, out: Path, rows: Any = ROWS, **options: Any) -> tuple[Recording, Summary]:
    seen: list[Summary] = []
    recording = record(moa, rows, out, engine="batch", on_row=lambda row, summary: seen.append(summary), **options)
    return recording, seen[-1]


def submitted(server: BatchServer) -> list[tuple[str, int]]:
    return [(batch.lines[0]["body"]["model"], len(batch.lines)) for batch in server.batches]


def test_a_vote_takes_two_calls_and_is_what_this_process_would_have_recorded(server: BatchServer, out: Path) -> None:
    moa = mixture(server, "a", "b", num_proposals_per_model=2)
    recording, summary = step(moa, out)
    assert submitted(server) == [("a", 8), ("b", 8)] and (summary.pending, summary.left) == (4, 4)
    assert [row.error and row.error.message for row in recording.pending] == ["It waits for batch_1, batch_2."] * 4
    assert step(moa, out)[1].batches[0].model_dump() == {
        "model": "openai/a",
        "id": "batch_1",
        "status": "in_progress",
        "requests": 8,
        "done": 0,
        "failed": 0,
    }
    server.finish()
    recording, summary = step(moa, out)
    assert (summary.answered, summary.pending, recording.pending, len(server.batches)) == (4, 0, [], 2)
    local = record(moa, ROWS, out.with_name("local.jsonl"))
    apart: Any = {"seconds": True, "calls": {"__all__": {"seconds"}}, "proposals": {"__all__": {"seconds"}}}
    rows = [[row.model_dump(exclude=apart) for row in one] for one in (Recording.load(out), local)]
    assert rows[0] == rows[1] and recording.usage.calls == 16
    assert step(moa, out)[1].skipped == 4 and {path.name for path in out.parent.iterdir()} == {out.name, "local.jsonl"}


def test_the_judge_and_each_layer_take_a_call_more_and_wait_for_all_that_they_read(
    server: BatchServer, out: Path
) -> None:
    moa = mixture(server, "a", "b", strategy=Selection(rotations=2), layers=2)

    def answer(request: ChatRequest) -> Reply:
        prompt: Any = asked(request.prompt)
        return Reply(prompt.render({"reasoning": "so", "choice": "P1", "answer": f"{request.model}'s"}))

    server.answer = answer
    step(moa, out)
    server.batches[0].status = "completed"
    step(moa, out)
    assert submitted(server) == [("a", 4), ("b", 4)]
    for expected in [("a", 4), ("b", 4)], [("judge", 8)]:
        server.finish()
        step(moa, out)
        assert submitted(server)[-len(expected) :] == expected
    server.finish()
    recording, summary = step(moa, out)
    judged = [call for row in recording for call in row.calls if call.model == "openai/judge"]
    assert (summary.answered, len(server.batches), recording.usage.calls, len(judged)) == (4, 5, 4 * 6, 8)
    half = [(call.prompt_tokens + 2 * call.completion_tokens) / 2 for call in judged]
    assert [call.cost_usd for call in judged] == half
    assert recording.usage.unpriced_calls == 16  # of the proposers nobody knows the price


def test_what_expired_is_a_failure_and_asked_again_and_what_came_is_not_paid_twice(
    server: BatchServer, out: Path
) -> None:
    moa = mixture(server, "a", "b", limits={"min_proposals": 2})
    step(moa, out)
    server.batches[0].status = "completed"
    server.finish("expired", done=3)
    recording, summary = step(moa, out)
    assert (summary.answered, summary.failed, len(server.batches)) == (3, 1, 2)
    [(lost, failure)] = [(row.id, failure) for row in recording for failure in row.failures]
    assert (failure.agent, "completion window expired" in failure.message) == ("b", True)
    recording, _ = step(moa, out)
    assert submitted(server)[2:] == [("b", 1)] and [row.id for row in recording.pending] == [lost]
    server.finish()
    recording, _ = step(moa, out)
    assert [row.outputs for row in recording] == [{"answer": f"q{n}"} for n in range(4)]
    paid = Counter(call.model for row in recording for call in row.paid if call.prompt_tokens)
    assert paid == {"openai/a": 4, "openai/b": 4} and len(server.requests) == 8


@pytest.mark.parametrize(("status", "words"), [("failed", "is failed, without a reply"), ("gone", "knows no batch")])
def test_a_batch_that_is_lost_is_a_failure_and_submitted_again(
    server: BatchServer, out: Path, status: str, words: str
) -> None:
    moa = mixture(server, "a")
    step(moa, out)
    if status == "gone":
        server.batches[0].id = "other"
    server.finish(status, done=0)
    recording, summary = step(moa, out)
    assert summary.failed == 4 and words in str(recording[0].failures[0].message)
    step(moa, out)
    server.finish()
    assert step(moa, out)[1].answered == 4


def test_refused_requests_and_replies_of_no_use_are_what_they_are_elsewhere(server: BatchServer, out: Path) -> None:
    tried: Counter[str] = Counter()

    def answer(request: ChatRequest) -> Reply:
        if request.model == "b":
            return Reply("too much", status=400, code="context_length_exceeded")
        tried[request.prompt] += 1
        return reply(request) if tried.total() > 1 else Reply("no field of yours")

    server.answer = answer
    moa = mixture(server, "a", "b")
    for _ in range(2):
        step(moa, out, ROWS[:1])
        server.finish()
    [row], _ = step(moa, out, ROWS[:1])
    assert (row.outputs, [one.error for one in row.failures]) == ({"answer": "q0"}, ["ContextWindowExceededError"])
    assert submitted(server) == [("a", 1), ("b", 1), ("a", 1)] and row.usage.calls == 3


def test_a_provider_that_cannot_be_reached_lets_its_questions_wait(server: BatchServer, out: Path) -> None:
    moa = mixture(server, "a")
    step(moa, out)
    server.broken = True
    _, summary = step(moa, out)
    assert (summary.pending, len(server.batches)) == (4, 1) and "not to be reached (InternalS" in summary.batches[
        0
    ].status
    server.broken = False
    server.finish()
    assert step(moa, out)[1].answered == 4


def test_a_judges_reply_that_is_cut_off_is_asked_for_once_more(server: BatchServer, out: Path) -> None:
    def answer(request: ChatRequest) -> Reply:
        prompt: Any = asked(request.prompt)
        whole = request.model != "judge" or len(server.batches) > 3
        text = prompt.render({"reasoning": "so", "answer": f"{request.model}'s"})
        return Reply(text, finish_reason="stop" if whole else "length")

    server.answer = answer
    moa = mixture(server, "a", "b", strategy="synthesis")
    for _ in range(3):
        step(moa, out, ROWS[:1])
        server.batches[-1].status = server.batches[0].status = "completed"
    server.finish()
    step(moa, out, ROWS[:1])
    server.finish()
    [row], _ = step(moa, out, ROWS[:1])
    assert (row.outputs, row.usage.calls, row.degraded) == ({"answer": "judge's"}, 4, False)
    assert submitted(server)[2:] == [("judge", 1), ("judge", 1)]
    assert server.batches[2].bodies == server.batches[3].bodies


def test_a_quorum_and_an_early_stop_wait_for_what_is_paid(server: BatchServer, out: Path) -> None:
    strategy, limits = Voting(early_stop=True), {"quorum": 1}
    moa = mixture(server, "a", "b", "c", strategy=strategy, limits=limits)
    moa.aggregator.lm = None
    step(moa, out)
    server.batches[0].status = server.batches[1].status = "completed"
    assert step(moa, out)[1].pending == 4
    server.finish()
    recording, _ = step(moa, out)
    assert [row.usage.calls for row in recording] == [3] * 4


@pytest.mark.parametrize("kill", [True, False])
def test_a_kill_while_a_batch_is_made_neither_loses_nor_doubles_it(
    server: BatchServer, out: Path, tmp_path: Path, kill: bool
) -> None:
    left: list[bytes] = []

    def on_create() -> None:
        left.append(out.read_bytes())  # what a kill at this moment leaves
        if not kill:
            raise ConnectionError("went away")

    server.on_create = on_create
    moa = mixture(server, "a")
    if kill:
        step(moa, out)
        out.write_bytes(left[0])
    else:
        with pytest.raises(RecordingStopped, match=r"Not all could be submitted: .*went away"):
            step(moa, out)
    assert len(Recording.load(out).pending) == 4
    server.on_create = lambda: None
    step(moa, out)
    server.finish()
    assert step(moa, out)[1].answered == 4 and submitted(server) == [("a", 4)]


def test_an_upload_that_no_batch_was_made_of_is_submitted(server: BatchServer, out: Path) -> None:
    server.on_create = lambda: server.batches.pop() and 1 / 0
    moa = mixture(server, "a")
    with pytest.raises(RecordingStopped, match="Not all could be submitted"):
        step(moa, out)
    server.on_create = lambda: None
    step(moa, out)
    server.finish()
    assert step(moa, out)[1].answered == 4 and submitted(server) == [("a", 4)]


def test_strategies_decide_on_proposals_that_are_recorded(server: BatchServer, out: Path) -> None:
    moa = mixture(server, "a", "b", strategy="synthesis")
    record(moa, ROWS, out, strategies=[])
    step(moa, out, strategies=["synthesis"])
    assert submitted(server) == [("judge", 4)]
    server.finish()
    recording, _ = step(moa, out, strategies=["synthesis"])
    assert [row.verdicts["synthesis"].outputs for row in recording] == [{"answer": f"q{n}"} for n in range(4)]
    assert recording.usage.calls == 12


def test_another_mixture_does_not_take_over_what_is_pending(server: BatchServer, out: Path) -> None:
    step(mixture(server, "a"), out)
    with pytest.raises(ValueError, match="holds answers of another mixture"):
        step(mixture(server, "b"), out)


def test_what_cannot_be_is_refused_before_anything_is_submitted(server: BatchServer, out: Path) -> None:
    agents = [
        Agent("openai/a", api_base=server.url),
        "simulated/alice",
        FakeLM("f", echo),
        Agent("groq/c", name="c", api_key="any"),
    ]
    with pytest.raises(ValueError, match="cannot ask simulated/alice, f, groq/c: it asks chat models of openai, azure"):
        step(MoA(QA, agents, strategy="voting"), out)
    given: list[dict[str, Any]] = [{"max_calls": 9}, {"max_cost_usd": 9}, {"path": None}]
    for options in given:
        with pytest.raises(ValueError, match="keeps no budget"):
            record(mixture(server, "a"), ROWS, engine="batch", **{"path": out, **options})
    assert not out.exists() and not server.batches


def test_an_ambient_lm_and_programs_with_lms_of_their_own_answer_from_batches(server: BatchServer, out: Path) -> None:
    class Twice(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = dspy.Predict(QA), dspy.Predict(QA)
            self.first.lm = dspy.LM("openai/own", api_base=server.url, cache=False)

        def forward(self, question: str) -> Any:
            self.first(question=question)  # a prompt that is sent twice is two calls
            return self.second(question=self.first(question=question).answer + "!")

    with dspy.context(lm=dspy.LM("openai/ambient", api_base=server.url, cache=False)):
        for _ in range(3):
            step(MoA(QA, [Twice()], strategy="voting"), out, ROWS[:1])
            server.finish()
        [row], _ = step(MoA(QA, [Twice()], strategy="voting"), out, ROWS[:1])
    assert row.outputs == {"answer": "q0!"} and submitted(server) == [("own", 1), ("own", 1), ("ambient", 1)]
    assert [call.model for call in row.calls] == ["openai/own", "openai/own", "openai/ambient"]


def test_an_estimate_is_at_half_of_the_price(server: BatchServer) -> None:
    moa = MoA(QA, [Agent("openai/a", api_base=server.url, prices=PRICES)], strategy="voting")
    whole, half = estimate(moa, ROWS), estimate(moa, ROWS, engine="batch")
    assert whole.cost_usd is not None and half.cost_usd == whole.cost_usd / 2


def test_the_command_submits_says_what_is_pending_and_collects(
    server: BatchServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    entries = [{"model": f"openai/{name}", "api_base": server.url} for name in "ab"]
    Path("moa.json").write_text(json.dumps({"proposer_models": entries, "aggregation_strategy": "voting"}))
    command = ["run", "q.jsonl", "-o", "out.jsonl", "--config", "moa.json", "--engine", "batch"]
    first = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert first.exit_code == 3 and "4, 4 of them pending" in first.output, first.output
    assert "openai/a: batch_1 is in_progress, 0 of 4 calls done" in first.output
    assert "The same command again asks what is pending" in " ".join(first.output.split())
    server.finish()
    last = CliRunner().invoke(app, [*command, "--json"])
    told = json.loads(last.stdout)
    assert (last.exit_code, told["answered"], told["pending"], len(told["batches"])) == (0, 4, 0, 2)
    refused = CliRunner().invoke(app, [*command, "-o", "-"])
    assert refused.exit_code == 2 and "Give --out a file" in " ".join(refused.output.split())
