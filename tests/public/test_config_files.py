"""A mixture as data: YAML and JSON files, presets, routers, and the one-call form."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from support.mixtures import QA, both_ways
from support.openai_server import ChatRequest, OpenAIServer, Tokens
from support.openai_server import Reply as Answered
from support.rendering import asked

from moa_dspy import MoA, MoAConfig, arun_moa, run_moa

ALICE, BOB, JUDGE = "simulated/alice", "simulated/bob", "simulated/judge"
# Calls per question and proposers, by preset.
PRESETS = {"balanced": 4, "max_quality": 9, "budget": 4, "together_moa": 13, "moa_lite": 7, "self_moa": 7}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer": 2}, "layer.*layers"),
        ({"proposer_models": [{"model": ALICE, "temprature": 1}]}, "temprature.*temperature"),
        ({"limits": {"min_proposal": 1}}, "min_proposal.*min_proposals"),
        ({"aggregation_strategy": "synthesys"}, "'synthesys'.*'synthesis'"),
        ({"aggregation_strategy": {"name": "selection", "rotation": 3}}, "rotation.*rotations"),
        ({"aggregation_strategy": {"name": "selection", "rotations": 0}}, "rotations"),
        ({"aggregation_strategy": {"rotations": 3}}, "name.*synthesis, selection, voting, fusion"),
        ({"proposer_models": []}, "proposer_models"),
        ({"proposer_models": [{"name": "x"}]}, "model"),
        ({"proposer_models": [{"model": ALICE, "temperature": -1}]}, "temperature"),
        ({"num_proposals_per_model": 0}, "num_proposals_per_model"),
        ({"layers": "2"}, "layers"),
        ({"use_specialized_prompts": "yes"}, "use_specialized_prompts"),
        ({"proposer_models": [{"model": ALICE, "name": "a"}, {"model": BOB, "name": "a"}]}, "'a'"),
        ({"proposer_models": [{"model": ALICE, "instructions": "x"}]}, "share one prompt"),
        ({"proposer_models": [{"model": ALICE, "temperature": 0}], "num_proposals_per_model": 3}, "temperature 0"),
        ({"limits": {"min_proposals": 2}}, "min_proposals"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(settings: Any, words: str, tmp_path: Path) -> None:
    import yaml

    data = {"proposer_models": [ALICE], **settings}
    with pytest.raises(ValueError, match=f"(?s){words}"):
        MoA.from_config(QA, MoAConfig(**data))
    (tmp_path / "moa.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ValueError, match=rf"(?s)moa\.yaml.*{words}|{words}"):
        MoA.from_config(QA, MoAConfig.load(tmp_path / "moa.yaml"))


def test_a_config_is_frozen_and_a_copy_is_checked() -> None:
    config = MoAConfig(proposer_models=[ALICE])
    with pytest.raises(ValidationError):
        config.layers = 3
    changed = config.model_copy(update={"proposer_models": [BOB], "layers": 2})
    assert (changed.proposer_models, changed.layers) == ([BOB], 2)
    with pytest.raises(ValidationError, match="layers"):
        config.model_copy(update={"layers": 0})


# Presets.


@pytest.mark.parametrize(("name", "calls"), PRESETS.items())
def test_a_preset_is_a_whole_mixture_and_a_file(name: Any, calls: int, tmp_path: Path) -> None:
    config = MoAConfig.preset(name)
    proposals = len(config.proposer_models) * config.num_proposals_per_model * config.layers
    assert config.aggregator_model is not None and proposals + 1 == calls
    config.save(tmp_path / "moa.yaml")
    assert MoAConfig.load(tmp_path / "moa.yaml") == config
    assert all(agent.model for agent in MoA.from_config(QA, config).agents)


# In one call.


def asked_async(*arguments: Any) -> Any:
    return asyncio.run(arun_moa(*arguments))


@pytest.mark.parametrize("run", [run_moa, asked_async], ids=["sync", "async"])
def test_one_call_gives_the_solution_and_the_account(run: Any) -> None:
    config = MoAConfig(proposer_models=[ALICE, BOB], aggregator_model=JUDGE, num_proposals_per_model=2)
    solution, metadata = run("What is the capital of Turkey?", "Name the city only.", config)
    assert (solution.answer, metadata.num_proposers, len(metadata.all_proposals)) == ("Ankara", 2, 4)
    with pytest.raises(ValueError, match=r"'moa_light'.*moa_lite"):
        run("Why?", "", "moa_light")


# Routers.


def reply(request: ChatRequest) -> Answered:
    if request.model == "broken":
        return Answered("out of order", status=500)
    wanted = asked(request.prompt)
    assert wanted is not None
    return Answered(wanted.render({"reasoning": "so", "answer": f"I am {request.model}"}), usage=Tokens(100, 50))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    monkeypatch.setenv("KEY_ONE", "first-secret")
    with OpenAIServer(reply) as started:
        yield started


def deployment(server: OpenAIServer, group: str, model: str) -> dict[str, Any]:
    params = {"model": f"openai/{model}", "api_base": server.url, "api_key": "os.environ/KEY_ONE"}
    return {"model_name": group, "litellm_params": params}


@both_ways
@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")  # litellm's own
def test_a_proposer_may_be_a_group_of_a_router(server: OpenAIServer, ask: Any) -> None:
    groups: Any = {"model_list": [deployment(server, "mini", "gpt-4o-mini"), deployment(server, "mine", "mine")]}
    config = MoAConfig(proposer_models=["router/mini"], aggregator_model="router/mine", router=groups)
    pred = ask(MoA.from_config(QA, config), question="Who are you?")
    assert (pred.answer, pred.proposals[0].outputs["answer"]) == ("I am mine", "I am gpt-4o-mini")
    price = pytest.approx((100 * 0.15 + 50 * 0.6) / 1e6)
    rows = [(call.agent, call.model, call.cost_usd) for call in pred.metadata.calls]
    assert rows == [("mini", "router/mini", price), ("aggregator", "router/mine", None)]
    assert {request.headers["Authorization"] for request in server.requests} == {"Bearer first-secret"}
    assert "first-secret" not in config.model_dump_json() + repr(config)


@pytest.mark.filterwarnings("ignore::pydantic.PydanticDeprecatedSince211")
def test_a_router_of_your_own_falls_back_as_it_was_told(server: OpenAIServer) -> None:
    from litellm.router import Router

    groups = [deployment(server, "mini", "broken"), deployment(server, "spare", "gpt-4o-mini")]
    own = Router(groups, fallbacks=[{"mini": ["spare"]}], num_retries=0)
    config = MoAConfig(proposer_models=["router/mini"], aggregation_strategy="voting")
    pred = MoA.from_config(QA, config, router=own)(question="Who are you?")
    assert pred.answer == "I am gpt-4o-mini" and [r.model for r in server.requests] == ["broken", "gpt-4o-mini"]
    with pytest.raises(ValueError, match=r"(?s)fats.*mini"):
        MoA.from_config(QA, MoAConfig(proposer_models=["router/fats"], aggregation_strategy="voting"), router=own)
