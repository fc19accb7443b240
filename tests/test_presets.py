import re

import pytest
from dspy.clients.model_metadata import model_info, rate
from support.fake_lm import FakeLM
from support.mixtures import QA, both_ways, says

import moa_dspy.config.presets
from moa_dspy import MoA
from moa_dspy.config import MoAConfig
from moa_dspy.config.presets import PRESETS, preset

CALLS = {"balanced": 4, "max_quality": 9, "budget": 4, "together_moa": 13, "moa_lite": 7, "self_moa": 7}
every_preset = pytest.mark.parametrize("name", PRESETS)


def models(config: MoAConfig) -> list[str]:
    return [str(model) for model in [*config.proposer_models, config.aggregator_model]]


@every_preset
@both_ways
def test_a_preset_makes_the_calls_that_it_says(name: str, ask: object) -> None:
    moa = MoA.from_config(QA, MoAConfig.preset(name))
    fake = FakeLM("fake", says("42"))
    for agent in moa.agents:
        agent.lm = fake
    pred = ask(moa, question="?")  # type: ignore[operator]
    assert (pred.answer, pred.metadata.failures, fake.calls) == ("42", [], CALLS[name])


def test_the_documentation_says_how_many_calls_each_makes() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*?(\d+) \|$", str(moa_dspy.config.presets.__doc__), re.MULTILINE)
    assert {name: int(calls) for name, calls in rows} == {name: found.calls for name, found in PRESETS.items()} == CALLS


@every_preset
def test_a_presets_models_have_prices_and_no_end_in_sight(name: str) -> None:
    for model in models(PRESETS[name].config):
        provider, _, rest = model.partition("/")
        info = model_info(provider, rest)
        prices = [rate(info, f"{side}_cost_per_token") for side in ("input", "output")]
        assert all(prices) and info.get("deprecation_date") is None, model


def test_the_published_topologies_have_their_shapes() -> None:
    def shape(name: str) -> tuple[int, int, int, int]:
        config = MoAConfig.preset(name)
        named = models(config)[:-1]
        return len(named), len(set(named)), config.num_proposals_per_model, config.layers

    assert {name: shape(name) for name in ("together_moa", "moa_lite", "self_moa")} == {
        "together_moa": (6, 6, 1, 2),
        "moa_lite": (6, 6, 1, 1),
        "self_moa": (1, 1, 6, 1),
    }


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(ValueError) as raised:
        MoAConfig.preset("balance")
    assert str(raised.value) == (
        "There is no preset 'balance'. Did you mean 'balanced'? "
        "Allowed: balanced, max_quality, budget, together_moa, moa_lite, self_moa."
    )


def test_whoever_changes_a_preset_changes_his_own() -> None:
    MoAConfig.preset("budget").proposer_models.clear()
    assert len(preset("budget").config.proposer_models) == 3


@every_preset
def test_a_preset_is_saved_and_loaded(name: str, tmp_path: object) -> None:
    path = f"{tmp_path}/moa.yaml"
    MoAConfig.preset(name).save(path)
    assert MoAConfig.load(path) == PRESETS[name].config
