"""Models by their names: LMs, keys, windows, prices."""

import os
from typing import Any

import dspy
import pytest
from dspy.clients.model_metadata import model_info, rate
from support.fake_lm import FakeLM
from support.mixtures import QA, both_ways, says

from moa_dspy import MoA
from moa_dspy.config import PRESETS
from moa_dspy.models import Prices, as_lm, context_window, missing_key


class TestAsLM:
    def test_takes_a_name_and_options(self) -> None:
        lm = as_lm("openai/gpt-4o", temperature=0.5, max_tokens=100, api_base="http://x", num_retries=1, top_p=None)
        assert (lm.model, lm.num_retries) == ("openai/gpt-4o", 1)
        assert lm.kwargs == {"temperature": 0.5, "max_tokens": 100, "api_base": "http://x"}

    def test_gives_an_lm_back_or_a_copy_with_options(self) -> None:
        lm = FakeLM("a", [], temperature=0.1)
        assert as_lm(lm) is lm and as_lm(lm, temperature=None) is lm
        copied = as_lm(lm, temperature=0.9, cache=True)
        assert (copied.kwargs["temperature"], copied.cache, lm.kwargs["temperature"]) == (0.9, True, 0.1)

    @pytest.mark.parametrize("model", [None, 3, ["openai/x"], dspy.Predict("a -> b")])
    def test_refuses_the_rest(self, model: Any) -> None:
        with pytest.raises(TypeError, match=rf"A model is a name .* or a dspy.LM, not {type(model).__name__}"):
            as_lm(model)


class TestKeysByReference:
    def test_are_read_from_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINE", "mine-1234")
        lm = as_lm("openai/x", api_key="os.environ/MINE", extra_headers={"Authorization": "Bearer os.environ/MINE"})
        assert (lm.kwargs["api_key"], lm.kwargs["extra_headers"]) == (
            "mine-1234",
            {"Authorization": "Bearer mine-1234"},
        )

    def test_may_be_set_later_and_are_missed_until_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        lm = as_lm("groq/x", api_key="os.environ/MINE")
        assert missing_key(lm) == "MINE"
        monkeypatch.setenv("MINE", "mine-1234")
        assert missing_key(lm) is None and lm.kwargs["api_key"] == "mine-1234"


class TestMissingKey:
    @pytest.mark.parametrize(
        ("model", "variable"),
        [
            ("openai/gpt-5", "OPENAI_API_KEY"),
            ("gpt-4o", "OPENAI_API_KEY"),
            ("anthropic/claude-haiku-4-5", "ANTHROPIC_API_KEY"),
            ("gemini/gemini-2.5-flash", "GEMINI_API_KEY"),
            ("openrouter/openai/gpt-4o", "OPENROUTER_API_KEY"),
        ],
    )
    def test_is_named_by_its_variable(self, model: str, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        assert missing_key(dspy.LM(model)) == variable
        monkeypatch.setenv(variable, "key")
        assert missing_key(dspy.LM(model)) is None

    def test_has_other_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_API_KEY", "key")
        assert missing_key(dspy.LM("gemini/gemini-2.5-flash")) is None

    @pytest.mark.parametrize("variable", ["OPENAI_API_BASE", "OPENAI_BASE_URL"])
    def test_is_not_known_of_a_gateway(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "http://localhost:9")
        assert missing_key(dspy.LM("openai/gpt-5")) is None

    @pytest.mark.parametrize(
        "options",
        [
            {"api_key": "k"},
            {"api_base": "http://h"},
            {"extra_headers": {"A": "x"}},
            {"engine": "litellm"},
            {"model_type": "text"},
        ],
        ids=str,
    )
    def test_is_not_known_where_the_access_is_given_in_code(self, options: Any) -> None:
        assert missing_key(dspy.LM("openai/gpt-5", **options)) is None

    @pytest.mark.parametrize("model", ["ollama_chat/llama3", "unknown/model", "bedrock/anthropic.claude-3"])
    def test_is_not_known_of_other_providers(self, model: str) -> None:
        assert missing_key(dspy.LM(model)) is None

    def test_is_none_of_a_custom_engines(self) -> None:
        assert missing_key(FakeLM("openai/gpt-5", [])) is None


@pytest.mark.parametrize(
    ("model", "tokens"),
    [("openai/gpt-4o", 128000), ("gpt-4o", 128000), ("anthropic/claude-haiku-4-5", 200000), ("a", None), ("", None)],
)
def test_the_window_is_what_dspys_metadata_says(model: str, tokens: int | None) -> None:
    assert context_window(model) == tokens


class TestPrices:
    @both_ways
    def test_make_the_cost(self, ask: Any) -> None:
        a = as_lm(FakeLM("a", says("4"), usage=(1_000_000, 500_000)), prices={"input": 0.15, "output": 0.6})
        pred = ask(MoA(QA, [a, FakeLM("b", says("4"))], strategy="voting", num_proposals_per_model=2), question="?")
        assert [(call.agent, call.cost_usd) for call in pred.metadata.calls] == [
            *[("a", pytest.approx(0.45))] * 2,
            *[("b", None)] * 2,
        ]
        assert "prices" not in a.kwargs

    def test_cost_nothing_from_the_cache(self, cached: None) -> None:
        lm = as_lm(FakeLM("a", says("4"), cache=True), prices=Prices(input=1, output=1))
        moa = MoA(QA, [lm], strategy="voting")
        assert [moa(question="?").metadata.usage.cost_usd for _ in range(2)] == [pytest.approx(15e-6), 0.0]

    @pytest.mark.parametrize("prices", [{"input": 1}, {"input": -1, "output": 1}, {"input": 1, "output": 1, "x": 1}])
    def test_that_are_none_are_refused(self, prices: Any) -> None:
        with pytest.raises(ValueError, match="validation error for Prices"):
            as_lm("openai/a", prices=prices)


@pytest.mark.parametrize("name", PRESETS)
def test_a_presets_models_have_prices_and_no_end_in_sight(name: str) -> None:
    config = PRESETS[name].config
    for model in map(str, [*config.proposer_models, config.aggregator_model]):
        provider, _, rest = model.partition("/")
        info = model_info(provider, rest)
        prices = [rate(info, f"{side}_cost_per_token") for side in ("input", "output")]
        assert all(prices) and info.get("deprecation_date") is None, model


def test_environment_of_the_tests_holds_no_keys() -> None:
    assert not [name for name in os.environ if name.endswith("_API_KEY")]
