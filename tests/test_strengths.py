import pytest

from moa_dspy.signatures import starting_instructions


@pytest.mark.parametrize(
    ("model", "start"),
    [
        ("openai/o3", "Reason the task through"),
        ("openai/gpt-5-mini", "Reason the task through"),
        ("deepseek/deepseek-r1", "Reason the task through"),
        ("together/Qwen/Qwen2.5-Coder-32B", "Treat the task as a procedure"),
        ("anthropic/claude-haiku-4-5", "Read the inputs closely"),
        ("gemini/gemini-2.5-flash", "Recall what is known"),
        ("deepseek/deepseek-chat", "Work the task out step by step"),
        ("openai/gpt-4o", "Plan the answer in a few steps"),
        ("meta/llama-3.3-70b", "Plan the answer in a few steps"),
    ],
)
def test_a_family_has_a_starting_prompt(model: str, start: str) -> None:
    assert (starting_instructions(model) or "").startswith(start)


@pytest.mark.parametrize("model", [None, "", "acme/unheard-of"])
def test_others_have_none(model: str | None) -> None:
    assert starting_instructions(model) is None
