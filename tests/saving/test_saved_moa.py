"""What a file says of a mixture, without building it."""

from pathlib import Path
from typing import Any

import dspy
import pytest
from support.mixtures import QA
from support.saved import real

from moa_dspy import Agent, MoA
from moa_dspy.saving.saved_moa import SavedAgent, describe


class NoState:
    """An engine that cannot be saved."""

    def complete(self, request: Any) -> Any:
        raise NotImplementedError


FILE = Path(__file__).parents[1] / "data" / "moa_format_1.json"


def test_the_mixture() -> None:
    saved = describe(FILE)
    assert saved.model_dump(exclude={"agents", "prompts", "path", "versions"}) == {
        "format": 1,
        "signature": "note, pages: int -> items: list[Item], mood: Mood, lang: Literal['en', 'de'] | None",
        "instructions": "Read the note.",
        "types": ["Item", "Mood"],
        "strategy": "voting",
        "options": {
            "fields": ["mood"],
            "weights": {"ann": 0.25},
            "early_stop": False,
            "tolerance": 0.5,
            "exact_text": False,
        },
        "num_proposals_per_model": 2,
        "use_specialized_prompts": True,
        "layers": 2,
        "limits": {"min_proposals": 2, "proposer_timeout": 9.0, "strict": True},
    }
    assert (saved.path, saved.versions["moa-dspy"], sorted(saved.versions)) == (
        FILE,
        "0.1.0",
        ["cloudpickle", "dspy", "moa-dspy", "python"],
    )


def test_the_agents() -> None:
    common = {"model_type": "chat", "cache": False, "num_retries": 3, "latency": 0.0}
    ann = SavedAgent(
        name="ann",
        layer=1,
        model="simulated/alice",
        settings={**common, "temperature": 0.5},
        left_out=[],
        weight=0.25,
        instructions="Be brief.",
    )
    assert describe(FILE).agents[0] == ann
    assert [(agent.name, agent.layer, agent.model, agent.weight) for agent in describe(FILE).agents] == [
        ("ann", 1, "simulated/alice", 0.25),
        ("bob", 1, "simulated/bob", None),
        ("ann", 2, "simulated/alice", 0.25),
        ("bob", 2, "simulated/bob", None),
        ("aggregator", None, "simulated/judge", None),
    ]


def test_the_prompts() -> None:
    saved = describe(FILE)
    assert [(prompt.name, prompt.instructions, len(prompt.demos)) for prompt in saved.prompts] == [
        ("proposers.ann.program.predict", "Prompt 0.\nDo it.", 1),
        ("proposers.bob.program.predict", "Prompt 1.\nDo it.", 1),
        ("layer_2.ann.program.predict", "Prompt 2.\nDo it.", 1),
        ("layer_2.bob.program.predict", "Prompt 3.\nDo it.", 1),
        ("aggregator.program.group", "Prompt 4.\nDo it.", 1),
        ("aggregator.program.break_tie", "Prompt 5.\nDo it.", 1),
    ]
    assert (saved.demos, saved.prompts[0].demos[0]["mood"]) == (6, "sad")


def test_what_was_left_out_and_what_cannot_be_built(tmp_path: Path) -> None:
    moa = MoA(QA, [Agent("openai/x", api_key="k"), Agent(program=real("a"), name="inner")], strategy="voting")
    moa.save(tmp_path / "moa.json")
    moa.agents[0].lm = dspy.LM("mine/x", engine=NoState())
    moa.save(tmp_path / "other.json")
    assert "NoState" in str(describe(tmp_path / "other.json").agents[0].unsaveable)
    x, inner, aggregator = describe(tmp_path / "moa.json").agents
    assert (x.left_out, inner.program, inner.model, aggregator.model) == (["api_key"], "moa_dspy.moa:MoA", None, None)


def test_a_file_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / "moa.json").write_text("{}")
    with pytest.raises(ValueError, match=r"moa\.json: This holds no mixture"):
        describe(tmp_path / "moa.json")
