"""Who was asked, what came, what it took: one row a call, added up by agent and model; unknown prices stay unknown."""

import json
from datetime import date
from enum import Enum
from typing import Any

import dspy
import pytest
from dspy.lm15 import Usage as Tokens
from pydantic import BaseModel
from support.fake_lm import FakeLM
from support.mixtures import QA, Ask, both_ways, cast, every_way, mixture, says
from support.openai_server import OpenAIServer, Reply
from support.openai_server import Tokens as Reported
from support.rendering import render

from moa_dspy import Agent, LMCall, MoA, MoAMetadata, Proposal, Selection, Usage, Vote

ANSWER = render("chat", {"reasoning": "r", "answer": "x"})
FREE: dict[str, Any] = {"prompt_tokens": 0, "completion_tokens": 0, "cost_usd": 0.0, "cache_hit": True}
GPT_4O_MINI = (800 * 0.15 + 200 * 0.075 + 100 * 0.6) / 1e6  # USD for the tokens below


class Colour(Enum):
    RED = "red"


class Point(BaseModel):
    x: float
    y: float = 0.0


class Opaque:
    def __repr__(self) -> str:
        return "opaque"


def row(agent: str, model: str | None = None, **columns: Any) -> dict[str, Any]:
    """A row of the account, without what the clock and the provider say."""
    call = LMCall(agent=agent, model=model or agent, **{"prompt_tokens": 10, "completion_tokens": 5, **columns})
    return call.model_dump(exclude={"seconds", "finish_reason"})


def rows(prediction: Any) -> list[dict[str, Any]]:
    return [call.model_dump(exclude={"seconds", "finish_reason"}) for call in prediction.metadata.calls]


class Tracks(dspy.Module):
    """A proposer that fans out by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)

    def forward(self, question: str) -> Any:
        run = dspy.Parallel(num_threads=3, disable_progress_bar=True)
        return run([(self.answer, {"question": f"{question}{n}"}) for n in range(3)])[0]


# One row a call.


@every_way
def test_every_call_has_a_row_in_declared_order(ask: Ask) -> None:
    tokens = Tokens(input_tokens=30, output_tokens=40, cache_read_tokens=7, reasoning_tokens=8)
    a, b = FakeLM("x/a", says("a"), usage=(1, 2), delay=0.1), FakeLM("b", says("b"), usage=tokens)
    pred = ask(MoA(QA, [Agent(a, name="mine"), b], FakeLM("judge", says("j"), usage=(5, 6))), question="?")
    assert rows(pred) == [
        row("mine", "x/a", prompt_tokens=1, completion_tokens=2),
        row("b", prompt_tokens=30, completion_tokens=40, cached_tokens=7, reasoning_tokens=8),
        row("aggregator", "judge", prompt_tokens=5, completion_tokens=6),
    ]
    assert 0.1 <= pred.metadata.calls[0].seconds < 1 and pred.metadata.calls[1].seconds < 0.1
    assert pred.metadata.seconds >= 0.1


@every_way
@pytest.mark.parametrize("settings", [{}, {"disable_history": True}, {"max_history_size": 0}], ids=str)
def test_what_the_cache_answers_costs_nothing(ask: Ask, settings: dict[str, Any], cached: None) -> None:
    moa = mixture(cast("a", "judge", cache=True))
    with dspy.context(**settings):
        first, again = ask(moa, question="?"), ask(moa, question="?")
    assert rows(first) == [row("a"), row("aggregator", "judge")]
    assert rows(again) == [row("a", **FREE), row("aggregator", "judge", **FREE)]
    usage = again.metadata.usage
    assert (usage.calls, usage.cache_hits, usage.cost_usd, usage.unpriced_calls) == (2, 2, 0.0, 0)


@both_ways
def test_a_call_that_failed_has_a_row_too(ask: Ask) -> None:
    pred = ask(mixture({"bad": FakeLM("bad", [dspy.lm15.RateLimitError("no")]), **cast("a", "judge")}), question="?")
    failed = row("bad", prompt_tokens=0, completion_tokens=0, error="LMRateLimitError")
    assert rows(pred) == [failed, row("a"), row("aggregator", "judge")]
    assert (pred.metadata.usage.failed_calls, pred.metadata.usage.unpriced_calls) == (1, 3)


@both_ways
def test_calls_of_programs_and_mixtures_inside_are_their_agents(ask: Ask) -> None:
    lms = cast("a", "b", "inner", "judge")
    agents = [Agent(lms["a"], Tracks(), name="fan"), MoA(QA, [lms["b"]], lms["inner"]), lms["b"]]
    metadata = ask(MoA(QA, agents, lms["judge"], num_proposals_per_model=2), question="?").metadata
    assert {name: usage.calls for name, usage in metadata.agents.items()} == {
        "fan": 6,
        "moa": 4,
        "b": 2,
        "aggregator": 1,
    }
    assert {name: usage.prompt_tokens for name, usage in metadata.models.items()} == {
        "a": 60,
        "b": 40,
        "inner": 20,
        "judge": 10,
    }
    assert (metadata.usage.calls, metadata.usage.completion_tokens) == (13, 65)


# Prices.


@both_ways
def test_a_known_price_is_charged_and_an_unknown_one_is_no_zero(ask: Ask) -> None:
    reply = Reply(ANSWER, usage=Reported(1000, 100, cached=200, reasoning=30))
    with OpenAIServer(lambda request: reply) as server:
        lm = dspy.LM("openai/gpt-4o-mini", api_base=server.url, api_key="key", cache=False)
        metadata = ask(MoA(QA, [lm, FakeLM("free", says("x"))], strategy="voting"), question="?").metadata
    assert [call.cost_usd for call in metadata.calls] == [pytest.approx(GPT_4O_MINI), None]
    assert (metadata.usage.cost_usd, metadata.usage.unpriced_calls) == (pytest.approx(GPT_4O_MINI), 1)
    assert {name: usage.cost_usd for name, usage in metadata.agents.items()}["free"] is None


def test_usage_adds_up() -> None:
    calls = [
        LMCall(agent="a", model="m", prompt_tokens=1, completion_tokens=2, cached_tokens=3, cost_usd=0.5, seconds=1),
        LMCall(agent="a", model="m", prompt_tokens=10, cost_usd=0.0, seconds=2, cache_hit=True),
        LMCall(agent="a", model="m", seconds=4, error="E"),
    ]
    usage = Usage.of(iter(calls))
    assert (usage.calls, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (3, 11, 2, 3)
    assert (usage.cost_usd, usage.unpriced_calls, usage.seconds) == (0.5, 1, 7)
    assert (usage.cache_hits, usage.failed_calls) == (1, 1)
    assert (Usage.of([]).cost_usd, Usage.of(calls[2:]).cost_usd) == (0, None)


@every_way
def test_dspys_own_tracking_agrees(ask: Ask, cached: None) -> None:
    moa = mixture(cast("a", "b", "judge", cache=True), num_proposals_per_model=2)
    for expected in ({"a": 20, "b": 20, "judge": 10}, {}):
        with dspy.context(track_usage=True):
            pred = ask(moa, question="?")
        ours = {name: usage.prompt_tokens for name, usage in pred.metadata.models.items() if usage.prompt_tokens}
        theirs = {model: tokens["prompt_tokens"] for model, tokens in pred.get_lm_usage().items()}
        assert ours == theirs == expected


def test_a_callback_of_the_users_sees_every_call_and_stays_alone() -> None:
    seen: list[str] = []

    class Watch(dspy.utils.callback.BaseCallback):
        def on_lm_start(self, call_id: str, instance: Any, inputs: Any) -> None:
            seen.append(instance.model)

    with dspy.context(callbacks=[Watch()]):
        mixture(cast("a", "judge"))(question="?")
        assert (seen, len(dspy.settings.callbacks)) == (["a", "judge"], 1)


# Agreement, and the rest of the account.


@both_ways
@pytest.mark.parametrize(
    ("answers", "agreement"),
    [(("x", "X ", "y"), 2 / 3), (("x", "x"), 1), (("x", "y"), 1 / 2), (("", " "), None)],
)
def test_agreement_is_counted_whatever_the_strategy(ask: Ask, answers: Any, agreement: Any) -> None:
    lms = [FakeLM(f"m{n}", says(answer)) for n, answer in enumerate(answers)]
    metadata = ask(MoA(QA, lms, FakeLM("judge", says("z"))), question="?").metadata
    assert metadata.agreement == (None if agreement is None else pytest.approx(agreement))
    assert sum(vote.weight for vote in metadata.votes) == (0 if agreement is None else len(answers))


@both_ways
def test_layers_samples_and_failures_are_counted(ask: Ask) -> None:
    lms = {**cast("a"), "bad": FakeLM("bad", [dspy.lm15.AuthError("?")] * 4), **cast("judge")}
    metadata = ask(mixture(lms, layers=2, num_proposals_per_model=2), question="?").metadata
    assert (metadata.num_proposers, metadata.proposals_asked, metadata.proposals_received) == (2, 8, 4)
    asked = [(p.layer, p.sample, p.id) for p in metadata.all_proposals]
    assert asked == [(1, 1, "a"), (1, 2, "a#2"), (2, 1, "a"), (2, 2, "a#2")]
    assert ([failure.agent for failure in metadata.failures], metadata.degraded) == (["bad"] * 4, True)
    [first, *_] = metadata.all_proposals
    assert (first.agent, first.model, first.reasoning, first.outputs) == ("a", "a", "so", {"answer": "a"})


@both_ways
def test_it_is_json_and_comes_back(ask: Ask) -> None:
    lms = {**cast("a"), "bad": FakeLM("bad", [dspy.lm15.AuthError("?")] * 2), **cast("c", "judge")}
    metadata = ask(mixture(lms, strategy=Selection(rotations=2), layers=2), question="?").metadata
    told = json.loads(metadata.model_dump_json())
    assert (told["usage"]["calls"], told["agents"]["bad"]["failed_calls"], told["degraded"]) == (8, 2, True)
    assert {"strategy", "answered_by", "calls", "votes", "order_shown", "flip_rate", "models"} <= {*told}
    assert MoAMetadata.model_validate_json(metadata.model_dump_json()) == metadata


def test_outputs_of_any_type_are_json() -> None:
    odd = {"point": Point(x=1), "colour": Colour.RED, "day": date(2024, 2, 29), "opaque": Opaque(), "half": "\ud800"}
    proposal, vote = Proposal(id="a", agent="a", outputs=odd), Vote(answer=odd, proposals=["a"], weight=1)
    told = json.loads(proposal.model_dump_json())["outputs"]
    assert told == json.loads(vote.model_dump_json())["answer"]
    assert told == {
        "point": {"x": 1.0, "y": 0.0},
        "colour": "red",
        "day": "2024-02-29",
        "opaque": "opaque",
        "half": "\N{REPLACEMENT CHARACTER}",
    }
    assert vote.answer["opaque"] is odd["opaque"]
