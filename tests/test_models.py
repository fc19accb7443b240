import os
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM

from moa_dspy.models import as_lm, context_window, missing_key, redact

SECRET = "planted-secret-1234"


class TestAsLM:
    def test_takes_a_name_and_options(self) -> None:
        lm = as_lm("openai/gpt-4o", temperature=0.5, max_tokens=100, api_base="http://x", num_retries=1)
        assert (lm.model, lm.num_retries) == ("openai/gpt-4o", 1)
        assert lm.kwargs == {"temperature": 0.5, "max_tokens": 100, "api_base": "http://x"}

    def test_gives_an_lm_back_as_it_is(self) -> None:
        lm = FakeLM("a", [])
        assert as_lm(lm) is lm and as_lm(lm, temperature=None) is lm

    def test_copies_an_lm_for_other_options(self) -> None:
        lm = FakeLM("a", [], temperature=0.1)
        copied = as_lm(lm, temperature=0.9, cache=True)
        assert (copied.kwargs["temperature"], copied.cache) == (0.9, True)
        assert (lm.kwargs["temperature"], lm.cache) == (0.1, False)

    def test_makes_simulated_ones(self) -> None:
        assert as_lm("simulated/alice").model == "simulated/alice"

    @pytest.mark.parametrize("model", [None, 3, ["openai/x"], dspy.Predict("a -> b")])
    def test_refuses_the_rest(self, model: Any) -> None:
        with pytest.raises(TypeError, match=rf"A model is a name .* or a dspy.LM, not {type(model).__name__}"):
            as_lm(model)


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
            {"api_key": "key"},
            {"api_base": "http://localhost:9"},
            {"base_url": "http://localhost:9"},
            {"extra_headers": {"Authorization": "x"}},
            {"engine": "litellm"},
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


class TestContextWindow:
    @pytest.mark.parametrize(
        ("model", "tokens"),
        [
            ("openai/gpt-4o", 128000),
            ("gpt-4o", 128000),
            ("anthropic/claude-haiku-4-5", 200000),
            ("a", None),
            ("", None),
        ],
    )
    def test_is_what_dspys_metadata_says(self, model: str, tokens: int | None) -> None:
        assert context_window(model) == tokens


class TestRedact:
    @pytest.mark.parametrize(
        "settings",
        [
            {"api_key": SECRET},
            {"azure_ad_token": SECRET},
            {"extra_headers": {"X-Custom": SECRET}},
            {"headers": {"Authorization": f"Bearer {SECRET}"}},
            {"aws": {"aws_secret_access_key": SECRET}},
        ],
        ids=str,
    )
    def test_masks_what_an_lm_holds(self, settings: Any) -> None:
        lm = dspy.LM("openai/x", **settings)
        assert SECRET not in redact(f"refused {SECRET} and Bearer {SECRET}", None, lm)

    def test_masks_what_the_environment_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SOME_PROVIDER_API_KEY", SECRET)
        monkeypatch.setenv("SHORT_KEY", "abc")
        assert redact(f"abc {SECRET}") == "abc ***"

    @pytest.mark.parametrize(
        "secret",
        [
            "sk-proj-abcdefghijkl1234",
            "sk-ant-api03-abcdefghijkl",
            "AIzaSyA-abcdefghijklmnop",
            "gsk_abcdefghijklmnop",
            "hf_abcdefghijklmnop",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIi",
        ],
    )
    def test_masks_what_looks_like_a_key(self, secret: str) -> None:
        assert redact(f"Incorrect API key provided: {secret}.") in (
            "Incorrect API key provided: ***.",
            "Incorrect API key provided: ***",
        )

    def test_masks_credentials_in_a_header(self) -> None:
        text = redact("{'Authorization': 'Bearer abc', 'x': 'Basic dXNlcjpwYXNzd29yZA=='}")
        assert text == "{'Authorization': 'Bearer ***', 'x': 'Basic ***'}"

    def test_masks_the_longer_of_two_that_overlap(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ONE_KEY", "12345678")
        monkeypatch.setenv("TWO_KEY", "1234567890")
        assert redact("1234567890") == "***"

    def test_leaves_the_rest(self) -> None:
        text = "Rate limit reached for gpt-4o: 30000 tokens per min. key=value, sk, Bearer of news"
        assert redact(text, dspy.LM("openai/x", max_tokens=30000)) == text.replace("Bearer of", "Bearer ***")


def test_environment_of_the_tests_holds_no_keys() -> None:
    assert not [name for name in os.environ if name.endswith("_API_KEY")]
