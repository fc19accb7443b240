from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moa_dspy import Agent, Limits, MoA
from moa_dspy.config import MoAConfig, ModelConfig
from moa_dspy.router import Deployment, RouterConfig

ALICE, BOB, JUDGE = "simulated/alice", "simulated/bob", "simulated/judge"
DEPLOYMENT = Deployment(model_name="fast", litellm_params={"model": "openai/any", "api_key": "os.environ/FAST_KEY"})
FULL = MoAConfig(
    proposer_models=[
        ALICE,
        ModelConfig(
            model="openai/gpt-4o-mini",
            name="mini",
            temperature=0.5,
            max_tokens=500,
            instructions="Be brief.",
            api_base="http://localhost:1/v1",
            num_retries=1,
            timeout=20,
        ),
        ModelConfig(model="router/fast", temperature=0.7),
    ],
    aggregator_model=ModelConfig(model=JUDGE, temperature=0.3),
    num_proposals_per_model=2,
    aggregation_strategy={"name": "voting", "weights": {"mini": 2}, "early_stop": True},
    use_specialized_prompts=True,
    layers=2,
    limits=Limits(min_proposals=3, proposer_timeout=30, strict=True),
    router=RouterConfig(model_list=[DEPLOYMENT], num_retries=1, routing_strategy="least-busy"),
)


def problems(**settings: Any) -> list[tuple[Any, str]]:
    with pytest.raises(ValidationError) as raised:
        MoAConfig(**{"proposer_models": [ALICE], **settings})
    return [(problem["loc"], problem["msg"]) for problem in raised.value.errors()]


def options(lm: Any) -> dict[str, Any]:
    return {name: value for name, value in lm.kwargs.items() if value is not None and name != "metadata"}


def test_the_least_config_has_the_defaults_of_the_mixture() -> None:
    arguments = MoAConfig(proposer_models=[ALICE]).arguments()
    assert [agent.model for agent in arguments.pop("proposers")] == [ALICE]
    assert arguments.pop("strategy").name == "synthesis"
    assert arguments == {
        "aggregator": None,
        "num_proposals_per_model": 1,
        "use_specialized_prompts": False,
        "layers": 1,
        "limits": Limits(),
    }


def test_every_setting_arrives_in_the_mixture() -> None:
    moa = MoA.from_config("question -> answer", FULL)
    mini = {"temperature": 0.5, "max_tokens": 500, "api_base": "http://localhost:1/v1", "timeout": 20.0}
    layer = [
        ("alice", ALICE, {}, None),
        ("mini", "openai/gpt-4o-mini", mini, "Be brief."),
        ("fast", "router/fast", {"temperature": 0.7}, None),
    ]
    assert [(a.name, a.model, options(a.lm), a.instructions) for a in moa.agents[:-1]] == layer * 2
    assert (moa.aggregator.model, options(moa.aggregator.lm)) == (JUDGE, {"temperature": 0.3})
    assert [getattr(agent.lm, "num_retries", None) for agent in moa.agents[:3]] == [3, 1, 0]
    assert [panel.samples for panel in moa.panels] == [2, 2]
    assert moa.strategy.weights == {"mini": 2} and moa.strategy.early_stop
    assert moa.limits == FULL.limits


def test_a_config_makes_a_mixture_that_answers() -> None:
    config = MoAConfig(proposer_models=[ALICE, BOB], aggregator_model=JUDGE)
    pred = MoA.from_config("question -> answer", config)(question="What is the capital of Turkey?")
    assert (pred.answer, len(pred.proposals), pred.metadata.usage.calls) == ("Ankara", 2, 3)


def test_a_model_may_stand_twice() -> None:
    arguments = MoAConfig(proposer_models=[ALICE, ALICE]).arguments()
    assert all(isinstance(agent, Agent) and not agent.is_named for agent in arguments["proposers"])
    assert len(MoA.from_config("q -> a", MoAConfig(proposer_models=[ALICE, ALICE], aggregator_model=JUDGE)).agents) == 3


@pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion"])
def test_a_strategy_is_named(strategy: str) -> None:
    config = MoAConfig(proposer_models=[ALICE], aggregation_strategy=strategy)
    assert config.arguments()["strategy"].name == strategy


def test_a_strategy_takes_its_options() -> None:
    config = MoAConfig(proposer_models=[ALICE], aggregation_strategy={"name": "selection", "rotations": 3})
    assert config.arguments()["strategy"].rotations == 3


@pytest.mark.parametrize(
    ("strategy", "where", "what"),
    [
        ("synthesys", (), "there is no strategy 'synthesys'. Did you mean 'synthesis'? Allowed: "),
        ({"rotations": 3}, (), "the strategy has no name. Allowed: synthesis, selection, voting, fusion."),
        (3, (), "a strategy is a name, or a mapping such as {name: selection, rotations: 3}."),
        ({"name": "selection", "rotation": 3}, ("rotation",), "unknown key. Did you mean 'rotations'? Allowed: name,"),
        ({"name": "selection", "rotations": "3"}, ("rotations",), "Input should be a valid integer."),
        ({"name": "selection", "rotations": 0}, (), "rotations=0 asks for no verdict at all."),
        ({"name": "voting", "weights": {"a": "x"}}, ("weights", "a"), "Input should be a valid number."),
    ],
)
def test_a_strategy_that_cannot_be_made_is_refused(strategy: Any, where: tuple[Any, ...], what: str) -> None:
    [(path, message)] = problems(aggregation_strategy=strategy)
    assert path == ("aggregation_strategy", *where)
    assert message.startswith(what)


def test_an_unknown_key_names_the_nearest_at_every_level() -> None:
    deployment = {"model_name": "g", "litellm_params": {"modle": "openai/any"}}
    found = problems(
        layer=2,
        proposer_models=[{"model": ALICE, "temprature": 1}],
        limits={"min_proposal": 1},
        router={"model_list": [deployment], "fallback": []},
    )
    meant = {path: message.split("?")[0] for path, message in found}
    assert meant == {
        ("proposer_models", 0, "temprature"): "unknown key. Did you mean 'temperature'",
        ("limits", "min_proposal"): "unknown key. Did you mean 'min_proposals'",
        ("router", "model_list", 0, "litellm_params", "modle"): "unknown key. Did you mean 'model'",
        ("router", "fallback"): "unknown key. Did you mean 'fallbacks'",
        ("layer",): "unknown key. Did you mean 'layers'",
    }
    assert found[-1][1].endswith("Allowed: " + ", ".join(MoAConfig.model_fields) + ".")


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        ({"proposer_models": []}, ("proposer_models",)),
        ({"proposer_models": ALICE}, ("proposer_models",)),
        ({"proposer_models": [3]}, ("proposer_models", 0)),
        ({"proposer_models": [" "]}, ("proposer_models", 0)),
        ({"proposer_models": [{"name": "x"}]}, ("proposer_models", 0, "model")),
        ({"proposer_models": [{"model": ALICE, "name": "two words"}]}, ("proposer_models", 0, "name")),
        ({"proposer_models": [{"model": ALICE, "temperature": -1}]}, ("proposer_models", 0, "temperature")),
        ({"proposer_models": [{"model": ALICE, "temperature": float("nan")}]}, ("proposer_models", 0, "temperature")),
        ({"proposer_models": [{"model": ALICE, "max_tokens": 1.5}]}, ("proposer_models", 0, "max_tokens")),
        ({"aggregator_model": ""}, ("aggregator_model",)),
        ({"num_proposals_per_model": 0}, ("num_proposals_per_model",)),
        ({"num_proposals_per_model": True}, ("num_proposals_per_model",)),
        ({"layers": "2"}, ("layers",)),
        ({"use_specialized_prompts": "yes"}, ("use_specialized_prompts",)),
        ({"limits": {"min_proposals": 0}}, ("limits", "min_proposals")),
        ({"limits": {"min_proposals": "1"}}, ("limits", "min_proposals")),
        ({"limits": 3}, ("limits",)),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_where_it_stands(settings: Any, where: tuple[Any, ...]) -> None:
    assert [path for path, _ in problems(**settings)] == [where]


@pytest.mark.parametrize(
    ("settings", "where", "what"),
    [
        (
            {"proposer_models": [{"model": ALICE, "name": "a"}, {"model": BOB, "name": "a"}]},
            ("proposer_models", 1, "name"),
            "'a' is another proposer's name",
        ),
        (
            {"proposer_models": [{"model": ALICE, "name": "aggregator"}]},
            ("proposer_models", 0, "name"),
            "'aggregator' is the aggregator's name",
        ),
        (
            {"proposer_models": [{"model": ALICE, "instructions": "Be brief."}]},
            ("proposer_models", 0, "instructions"),
            "all proposers share one prompt",
        ),
        (
            {"proposer_models": [{"model": ALICE, "temperature": 0}], "num_proposals_per_model": 3},
            ("proposer_models", 0, "temperature"),
            "at temperature 0 the 3 samples would be one answer",
        ),
        (
            {"aggregator_model": {"model": JUDGE, "instructions": "Be fair."}},
            ("aggregator_model", "instructions"),
            "the aggregator is called 'aggregator'",
        ),
        ({"limits": {"min_proposals": 2}}, ("limits", "min_proposals"), "only 1 proposals are asked for"),
        (
            {"proposer_models": [{"model": "router/fast", "timeout": 3}]},
            ("proposer_models", 0, "timeout"),
            "the router does not see this setting of router/fast. Set it in the router.",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: Any, where: tuple[Any, ...], what: str) -> None:
    [(path, message)] = problems(**settings)
    assert path == where
    assert message.startswith(what)


def test_a_routers_group_needs_a_router() -> None:
    config = MoAConfig(proposer_models=["router/fast"])
    with pytest.raises(ValueError, match="'router/fast' names a group of a router, and there is no router here"):
        config.arguments()
    [agent] = config.arguments(RouterConfig(model_list=[DEPLOYMENT]))["proposers"]
    assert agent.model == "router/fast"


def test_a_group_that_the_router_does_not_have_is_refused() -> None:
    config = MoAConfig(proposer_models=["router/fats"], router=RouterConfig(model_list=[DEPLOYMENT]))
    with pytest.raises(ValueError, match="no group 'fats'"):
        config.arguments()


def test_a_copy_is_checked() -> None:
    assert FULL.model_copy(update={"layers": 1}).layers == 1
    assert FULL.model_copy() == FULL and FULL.model_copy().proposer_models is not FULL.proposer_models
    with pytest.raises(ValidationError, match="layers"):
        FULL.model_copy(update={"layers": 0})


def test_it_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FULL.layers = 3


@pytest.mark.parametrize("name", ["moa.yaml", "moa.yml", "moa.json", "MOA.JSON"])
def test_what_is_saved_is_loaded(tmp_path: Path, name: str) -> None:
    FULL.save(tmp_path / name)
    assert MoAConfig.load(tmp_path / name) == FULL
    assert MoAConfig.load(str(tmp_path / name)) == FULL


def test_it_is_written_as_one_would_write_it() -> None:
    config = MoAConfig(proposer_models=[ALICE, ModelConfig(model=BOB, temperature=0.7)], aggregator_model=JUDGE)
    assert config.to_yaml() == (
        "proposer_models:\n- simulated/alice\n- model: simulated/bob\n  temperature: 0.7\n"
        "aggregator_model: simulated/judge\nnum_proposals_per_model: 1\naggregation_strategy: synthesis\n"
        "use_specialized_prompts: false\nlayers: 1\nlimits:\n  min_proposals: 1\n  strict: false\n"
    )
    assert config.to_json().startswith('{\n  "proposer_models": [\n    "simulated/alice",\n')


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
models = st.one_of(
    st.just(ALICE),
    st.builds(
        ModelConfig,
        model=texts.filter(lambda text: text == text.strip()).map("openai/{}".format).filter(lambda t: t == t.strip()),
        temperature=st.none() | st.floats(0.1, 2),
        max_tokens=st.none() | st.integers(1),
        instructions=st.none() | texts,
    ),
)


def test_an_instruction_of_several_lines_is_written_in_lines() -> None:
    model = ModelConfig(model=ALICE, instructions="Be brief.\nBe right.\n")
    config = MoAConfig(proposer_models=[model], use_specialized_prompts=True)
    assert "  instructions: |\n    Be brief.\n    Be right.\n" in config.to_yaml()


@given(proposers=st.lists(models, min_size=1, max_size=4), seconds=st.none() | st.floats(0.001, 1e9))
def test_nothing_is_lost_in_a_file(proposers: list[str | ModelConfig], seconds: float | None) -> None:
    config = MoAConfig(proposer_models=proposers, use_specialized_prompts=True, limits=Limits(proposer_timeout=seconds))
    with TemporaryDirectory() as folder:
        for name in ("moa.yaml", "moa.json"):
            config.save(Path(folder, name))
            assert MoAConfig.load(Path(folder, name)) == config
