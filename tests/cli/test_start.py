import json
from pathlib import Path

import pytest
from support.command import CAPITAL, moa_dspy, printed, words

from moa_dspy import MoAConfig


def test_presets_are_listed() -> None:
    names = [preset["name"] for preset in printed("presets")]
    assert names == ["balanced", "max_quality", "budget", "together_moa", "moa_lite", "self_moa"]
    shown = moa_dspy("presets").stdout
    assert all(name in shown for name in names)


def test_the_sample_is_data_for_the_other_commands() -> None:
    result = moa_dspy("data", "sample")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(rows) == 120 and all(set(row) == {"question", "answer", "kind"} for row in rows)
    assert moa_dspy("run", "-", "--out", "-", stdin=result.stdout).stdout.count("\n") == 120
    assert moa_dspy("data", "nope").exit_code == 2


def test_init_writes_a_commented_config_of_the_keys_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEMINI_API_KEY", "any")
    assert moa_dspy("init").exit_code == 0
    config = MoAConfig.load("moa.yaml")
    assert config.proposer_models == ["openai/gpt-5.4-mini", "gemini/gemini-3.8-flash"]
    assert config.aggregator_model == "openai/gpt-5.4-mini" and Path("moa.yaml").read_text().count("\n# ") >= 5


def test_init_without_a_key_is_simulated_and_never_overwrites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    moa_dspy("init")
    assert printed("ask", CAPITAL, "-c", "moa.yaml")["outputs"] == {"answer": "Edinburgh"}
    refused = moa_dspy("init")
    assert refused.exit_code == 2 and "moa.yaml exists already" in words(refused.stderr)
    assert moa_dspy("init", "--force").exit_code == 0 and moa_dspy("init", "-o", "moa.json").exit_code == 2


def test_init_takes_a_preset_and_parts() -> None:
    moa_dspy("init", "--preset", "budget", "-s", "voting", "-o", "a.yaml")
    expected = MoAConfig.preset("budget").model_copy(update={"aggregation_strategy": "voting"})
    assert MoAConfig.load("a.yaml") == expected
    moa_dspy("init", "-p", "simulated/alice", "-a", "simulated/judge", "-o", "b.yaml")
    config = MoAConfig.load("b.yaml")
    assert (config.proposer_models, config.aggregator_model) == (["simulated/alice"], "simulated/judge")


def test_init_takes_providers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    moa_dspy("init", "--provider", "ollama", "--provider", "groq", "-o", "a.yaml")
    assert MoAConfig.load("a.yaml").proposer_models == ["ollama_chat/llama3.2", "groq/openai/gpt-oss-120b"]
    refused = moa_dspy("init", "--provider", "nobody", "-o", "b.yaml")
    assert refused.exit_code == 2 and "no provider 'nobody' here" in words(refused.stderr)
