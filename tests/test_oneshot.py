import asyncio
from typing import Any

import pytest
from support.fake_lm import FakeLM

import moa_dspy.config.entry
from moa_dspy.config import MoAConfig
from moa_dspy.oneshot import arun_moa, run_moa

Fakes = dict[str, FakeLM]
CONFIG = MoAConfig(proposer_models=["fake/a", "fake/b"], aggregator_model="fake/judge", num_proposals_per_model=2)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Fakes:
    """Models by name, made when a config asks for them; each answers with its name."""
    made: Fakes = {}

    def as_fake(model: str, **options: Any) -> FakeLM:
        return made.setdefault(model, FakeLM(model, lambda prompt: {"reasoning": "so", "answer": model}))

    monkeypatch.setattr(moa_dspy.config.entry, "as_lm", as_fake)
    return made


def asked(*arguments: Any) -> Any:
    return asyncio.run(arun_moa(*arguments))


both = pytest.mark.parametrize("run", [pytest.param(run_moa, id="sync"), pytest.param(asked, id="async")])


@both
def test_one_call_gives_the_solution_and_the_account(fakes: Fakes, run: Any) -> None:
    solution, metadata = run("Why?", "Be brief.", CONFIG)
    assert (solution.answer, metadata.num_proposers) == ("fake/judge", 2)
    assert [p.outputs for p in metadata.all_proposals] == [{"answer": f"fake/{name}"} for name in "aabb"]
    assert {name: fake.calls for name, fake in fakes.items()} == {"fake/judge": 1, "fake/a": 2, "fake/b": 2}


@both
def test_the_system_prompt_is_every_models_instruction(fakes: Fakes, run: Any) -> None:
    run("Why is the sky blue?", "Answer as a pirate.", CONFIG)
    for fake in fakes.values():
        assert all("Answer as a pirate." in prompt and "Why is the sky blue?" in prompt for prompt in fake.prompts)


@pytest.mark.parametrize("empty", ["", " \n"])
def test_without_a_system_prompt_the_instructions_are_dspys_own(fakes: Fakes, empty: str) -> None:
    run_moa("Why?", empty, CONFIG)
    assert "Given the fields `query`, produce the fields `answer`." in fakes["fake/a"].prompts[0]


def test_a_presets_name_will_do(fakes: Fakes) -> None:
    _, metadata = run_moa("Why?", "", "moa_lite")
    assert (metadata.num_proposers, metadata.usage.calls) == (6, 7)
    with pytest.raises(ValueError, match="There is no preset 'moa_light'"):
        run_moa("Why?", "", "moa_light")
