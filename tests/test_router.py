"""Models behind a litellm Router: what they answer, cost and say of who answered; and what they are made of."""

import asyncio
import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
import yaml
from dspy.lm15 import Message, Request
from support.mixtures import QA
from support.openai_server import ChatRequest, OpenAIServer, Reply, Tokens
from support.rendering import asked

from moa_dspy import MoA
from moa_dspy.config import MoAConfig
from moa_dspy.meter import metered
from moa_dspy.router import AsyncRouterEngine, RouterEngine, router_lm
from moa_dspy.usage import LMCall

# LiteLLM 1.106 itself still uses what Pydantic has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")

TOKENS = Tokens(100, 50, cached=10, reasoning=3)
COST = pytest.approx((90 * 0.15 + 10 * 0.075 + 50 * 0.6) / 1e6)  # gpt-4o-mini, in USD
SECRETS = {"KEY_ONE": "first-secret", "KEY_TWO": "second-secret"}


def answer(request: ChatRequest) -> Reply:
    if request.model == "broken":
        return Reply("out of order", status=500)
    wanted = asked(request.prompt)
    text = f"I am {request.model}"
    return Reply(wanted.render({"answer": text, "reasoning": "so"}) if wanted else text, usage=TOKENS)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    with OpenAIServer(answer) as started:
        yield started


def deployment(server: OpenAIServer, group: str, model: str, key: str = "KEY_ONE", **params: Any) -> dict[str, Any]:
    params = {"model": f"openai/{model}", "api_base": server.url, "api_key": f"os.environ/{key}", **params}
    return {"model_name": group, "litellm_params": params}


def config(server: OpenAIServer, **settings: Any) -> dict[str, Any]:
    deployments = [
        deployment(server, "priced", "gpt-4o-mini"),
        deployment(server, "unpriced", "mine", "KEY_TWO"),
        deployment(server, "stated", "mine-too", input_cost_per_token=1e-3, output_cost_per_token=2e-3),
        deployment(server, "free", "mine-as-well", input_cost_per_token=0.0, output_cost_per_token=0.0),
        deployment(server, "broken", "broken"),
    ]
    return {"model_list": deployments, "router_settings": {"num_retries": 0, **settings}}


def request(group: str) -> Request:
    return Request(model=f"router/{group}", messages=(Message.user("Hello there"),))


def ask(lm: dspy.LM, way: str) -> Any:
    """The answer of an LM, and its row in the account."""
    with metered("me") as meter:
        [text] = lm("Hello") if way == "sync" else asyncio.run(lm.acall("Hello"))
    return text, meter.calls()[0]


def streamed(engine: RouterEngine, group: str, way: str) -> list[Any]:
    if way == "sync":
        return list(engine.stream(request(group)))

    async def collect() -> list[Any]:
        return [event async for event in AsyncRouterEngine(engine).stream(request(group))]

    return asyncio.run(collect())


ways = pytest.mark.parametrize("way", ["sync", "async"])


@ways
def test_a_group_answers_with_usage_and_cost(server: OpenAIServer, way: str) -> None:
    text, row = ask(router_lm("priced", config(server), cache=False), way)
    assert text == "I am gpt-4o-mini"
    assert row.cost_usd == COST
    assert row.model_copy(update={"cost_usd": None, "seconds": 0.0}) == LMCall(
        agent="me",
        model="router/priced",
        deployment="gpt-4o-mini",
        finish_reason="stop",
        prompt_tokens=100,
        completion_tokens=50,
        cached_tokens=10,
        reasoning_tokens=3,
    )


@ways
@pytest.mark.parametrize(("group", "cost"), [("unpriced", None), ("stated", 0.2), ("free", 0.0)])
def test_a_cost_is_known_only_if_there_is_a_price(server: OpenAIServer, way: str, group: str, cost: Any) -> None:
    engine = RouterEngine(config(server))
    _, row = ask(router_lm(group, engine, cache=False), way)
    end = streamed(engine, group, way)[-1]
    assert (row.cost_usd, end.provider_data["response_cost"]) == (cost, cost)


@ways
def test_a_stream_comes_in_pieces_and_ends_with_usage_and_cost(server: OpenAIServer, way: str) -> None:
    start, *deltas, end = streamed(RouterEngine(config(server)), "priced", way)
    assert start.type == "start"
    assert [event.delta.text for event in deltas] == ["I", " am", " gpt-4o-mini"]
    assert (end.type, end.finish_reason, end.usage.input_tokens, end.usage.output_tokens) == ("end", "stop", 100, 50)
    assert end.provider_data["response_cost"] == COST


def test_streamify_streams_a_mixture_behind_a_router(server: OpenAIServer) -> None:
    config_ = MoAConfig(proposer_models=["router/priced"], aggregator_model="router/unpriced", router=config(server))
    moa = MoA.from_config(QA, config_)
    judge: Any = moa.aggregator.program
    listener = dspy.streaming.StreamListener("answer", predict=judge.synthesize)
    program: Any = dspy.streamify(moa, stream_listeners=[listener])

    async def collect() -> list[Any]:
        return [piece async for piece in program(question="Who are you?")]

    *pieces, prediction = asyncio.run(collect())
    assert prediction.answer == "I am mine"
    assert len(pieces) > 1 and "".join(piece.chunk for piece in pieces) == "I am mine"


@ways
def test_a_failing_deployment_falls_back_to_a_good_one(server: OpenAIServer, way: str) -> None:
    lm = router_lm("broken", config(server, fallbacks=[{"broken": ["priced"]}]), cache=False)
    text, row = ask(lm, way)
    assert (text, row.cost_usd, row.error) == ("I am gpt-4o-mini", COST, None)
    assert [request.model for request in server.requests] == ["broken", "gpt-4o-mini"]


@ways
def test_the_router_repeats_and_dspy_does_not(server: OpenAIServer, way: str) -> None:
    pair = [deployment(server, "pair", "broken"), deployment(server, "pair", "broken", "KEY_TWO")]
    lm = router_lm(
        "pair", {"model_list": pair, "router_settings": {"num_retries": 2, "allowed_fails": 10}}, cache=False
    )
    with pytest.raises(dspy.LMServerError, match="out of order"):
        ask(lm, way)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply("slow down", status=429), dspy.LMRateLimitError),
        (Reply("who are you", status=401), dspy.LMAuthError),
        (Reply("too long", status=400, code="context_length_exceeded"), dspy.ContextWindowExceededError),
        (Reply("no such thing", status=404), dspy.LMUnsupportedModelError),
        (Reply(hang=True), dspy.LMTimeoutError),
    ],
)
@ways
def test_errors_arrive_as_dspys_own(server: OpenAIServer, reply: Reply, error: type[Exception], way: str) -> None:
    server.answer = lambda request: reply
    with pytest.raises(error):
        ask(router_lm("unpriced", config(server, timeout=0.2 if reply.hang else 30), cache=False), way)


def test_a_stream_that_breaks_off_is_no_answer(server: OpenAIServer) -> None:
    server.answer = lambda request: Reply("one two three four five six", drop=True, pace=0.01)
    with pytest.raises(dspy.lm15.LM15Error):
        streamed(RouterEngine(config(server)), "unpriced", "sync")


def test_a_router_of_your_own_cannot_be_saved(server: OpenAIServer) -> None:
    from litellm.router import Router

    own = Router([deployment(server, "priced", "gpt-4o-mini", "KEY_TWO")])
    with pytest.raises(ValueError, match=r"^The router has no group 'prized'\. Its groups: priced\.$"):
        router_lm("router/prized", own)
    with pytest.raises(TypeError, match="cannot be saved"):
        RouterEngine(own).dump_state()


def test_what_stands_in_the_cache_is_for_these_deployments_only(server: OpenAIServer, cached: None) -> None:
    for _ in range(2):
        assert router_lm("mine", {"model_list": [deployment(server, "mine", "one")]})("Hello") == ["I am one"]
    assert router_lm("mine", {"model_list": [deployment(server, "mine", "two")]})("Hello") == ["I am two"]
    assert [request.model for request in server.requests] == ["one", "two"]
    assert all("metadata" not in request.body for request in server.requests)


@ways
def test_what_is_sent_is_what_dspy_asks_for(server: OpenAIServer, way: str) -> None:
    given = {"temperature": 0.5, "top_k": 3, "metadata": {"team": "blue"}, "seed": 7, "max_tokens": 9, "cache": False}
    ask(router_lm("priced", config(server), **given), way)
    body = {name: value for name, value in server.requests[0].body.items() if name != "messages"}
    assert body.pop("extra_body", {"top_k": 3}) == {"top_k": 3} and body.pop("top_k", 3) == 3
    assert body == {"model": "gpt-4o-mini", "temperature": 0.5, "seed": 7, "max_completion_tokens": 9}


def test_an_answer_of_either_of_two_deployments_at_two_prices_has_no_known_cost(server: OpenAIServer) -> None:
    rows = [deployment(server, "two", "mine", input_cost_per_token=n, output_cost_per_token=n) for n in (1e-6, 2e-6)]
    row = ask(router_lm("two", {"model_list": rows}, cache=False), "sync")[1]
    assert (row.deployment, row.cost_usd) == ("mine", None)


def test_a_dated_name_has_the_price_that_its_provider_has_for_it(server: OpenAIServer) -> None:
    def dated(request: ChatRequest) -> Reply:
        request.model += "-2024-07-18"
        return answer(request)

    server.answer = dated
    row = ask(router_lm("priced", config(server), cache=False), "sync")[1]
    assert (row.deployment, row.cost_usd) == ("gpt-4o-mini-2024-07-18", COST)


def test_a_missing_key_is_found_before_anything_is_paid_for(
    server: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KEY_TWO")
    described = MoAConfig(proposer_models=["router/priced"], aggregation_strategy="voting", router=config(server))
    with pytest.raises(ValueError, match="KEY_TWO is not set"):
        MoA.from_config(QA, described)(question="Who are you?")
    with pytest.raises(dspy.LMConfigurationError, match="The environment variable KEY_TWO, which a deployment"):
        router_lm("priced", config(server), cache=False)("Hello")
    assert server.requests == []


def test_it_is_saved_and_loaded_without_secrets(server: OpenAIServer) -> None:
    predict = dspy.Predict(QA)
    predict.lm = router_lm("priced", config(server), temperature=0.7, cache=False)
    state = json.loads(json.dumps(predict.dump_state()))
    assert not any(secret in json.dumps(state) for secret in SECRETS.values())
    loaded = dspy.Predict(QA)
    loaded.load_state(state, allow_unsafe_lm_state=True)
    assert loaded(question="Who are you?").answer == "I am gpt-4o-mini"
    assert server.requests[0].body["temperature"] == 0.7


def test_copies_share_the_router_and_pickles_its_config(server: OpenAIServer) -> None:
    lm: Any = router_lm("priced", config(server), cache=False)
    assert lm("Hello") == ["I am gpt-4o-mini"]
    assert copy.deepcopy(lm).engine is lm.engine and lm.copy(rollout_id=1).engine is lm.engine
    assert pickle.loads(pickle.dumps(lm.engine)).config == lm.engine.config


def test_it_may_be_the_proxys_own_file(server: OpenAIServer, tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(yaml.safe_dump(config(server, fallbacks=[{"broken": ["priced"]}])))
    assert ask(router_lm("broken", tmp_path / "proxy.yaml", cache=False), "sync")[0] == "I am gpt-4o-mini"
    described = MoAConfig(proposer_models=["router/priced"], router=str(tmp_path / "proxy.yaml"))
    assert described.router == config(server, fallbacks=[{"broken": ["priced"]}])


@pytest.mark.parametrize(
    ("router", "words"),
    [
        ({}, "a router needs its `model_list`"),
        ({"model_list": [{"model_name": "g"}]}, "router.model_list.0: a deployment has a `model_name`"),
        ({"model_list": [{"model_name": "g", "litellm_params": {}}]}, "router.model_list.0: a deployment has"),
        ({"litellm_settings": {}, "model_list": []}, "litellm_settings is the proxy's own"),
        (
            {"model_list": [{"model_name": "g", "litellm_params": {"model": "openai/a", "api_key": "planted-s3cret"}}]},
            r"router.model_list.0.litellm_params.api_key: this holds a secret.*os.environ/OPENAI_API_KEY",
        ),
    ],
)
def test_what_is_no_router_is_refused_in_a_sentence(router: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        router_lm("g", router)
    assert "planted" not in str(raised.value)


def test_what_litellm_does_not_know_is_litellms_to_refuse(server: OpenAIServer) -> None:
    with pytest.raises(dspy.LMError, match="surprise"):
        router_lm("priced", config(server, surprise=1), cache=False)("Hello")


@pytest.mark.parametrize("router", [None, 3, object()])
def test_a_router_of_another_type_is_refused(router: Any) -> None:
    with pytest.raises(TypeError, match=r"A router is a litellm\.Router, or a mapping with a `model_list`, not"):
        router_lm("g", router)
