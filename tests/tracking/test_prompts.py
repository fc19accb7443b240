from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import dspy
import mlflow
import mlflow.genai
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, cast, mixture

from moa_dspy import Agent, MoA, register_prompts
from moa_dspy.tracking.prompts import LONGEST, prompts_of

ODD = 'Say {{x}} and {y}, [z], %s, «ü» 日本 🎉 "q"\r\n\r\n  tail  '


def rewritten(moa: MoA, name: str, text: str) -> MoA:
    """A copy with other instructions for one predictor."""
    copy = moa.deepcopy()
    predictor: Any = dict(copy.named_predictors())[name]
    predictor.signature = predictor.signature.with_instructions(text)
    return copy


def versions(name: str) -> list[Any]:
    found: list[Any] = []
    while (prompt := mlflow.genai.load_prompt(name, version=len(found) + 1, allow_missing=True)) is not None:
        found.append(prompt.template)
    return found


def test_one_per_predictor_and_a_version_where_it_changed(store: Path) -> None:
    moa = mixture(cast("a", "b", "judge"))
    shared, judge = "qa.proposers.shared.predict", "qa.aggregator.program.synthesize"
    assert register_prompts(moa, "qa") == {shared: 1, judge: 1}
    assert register_prompts(moa.deepcopy(), "qa") == {shared: 1, judge: 1}
    tuned = rewritten(moa, "proposers.shared.predict", "Think twice.")
    assert register_prompts(tuned, "qa") == {shared: 2, judge: 1}
    assert versions(shared) == ["Given the fields `question`, produce the fields `answer`.", "Think twice."]


def test_any_text_survives_exactly(store: Path) -> None:
    moa = rewritten(mixture(cast("a", "judge")), "proposers.shared.predict", ODD)
    name, instructions = "moa.proposers.shared.predict", prompts_of(moa)[0].text
    assert (register_prompts(moa)[name], register_prompts(moa)[name], versions(name)) == (1, 1, [instructions])
    assert instructions.startswith(ODD.partition("\r")[0])  # DSPy itself strips the indentation of what follows
    predictor: Any = dict(moa.named_predictors())["proposers.shared.predict"]
    assert instructions == predictor.signature.instructions


def test_tags_say_whose_it_is(store: Path) -> None:
    agents = [Agent(FakeLM("x/a", []), name="ada"), Agent(FakeLM("x/b", []), name="bo")]
    register_prompts(MoA(QA, agents, FakeLM("judge", []), use_specialized_prompts=True))
    register_prompts(MoA(QA, agents, FakeLM("judge", [])))
    load: Any = mlflow.genai.load_prompt
    tags = {
        name: {tag: load(f"moa.{name}", version=1).tags[tag] for tag in ("role", "model")}
        for name in ("proposers.ada.program.predict", "proposers.shared.predict", "aggregator.program.synthesize")
    }
    assert list(tags.values()) == [
        {"role": "ada", "model": "x/a"},
        {"role": "ada, bo", "model": "x/a, x/b"},
        {"role": "aggregator", "model": "judge"},
    ]


def test_names_that_are_refused_are_mapped_apart(store: Path) -> None:
    class Listed(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [dspy.Predict("question -> draft"), dspy.Predict("draft -> answer")]

        def forward(self, question: str) -> Any:
            return self.steps[1](draft=self.steps[0](question=question).draft)

    agent = Agent(FakeLM("a", []), program=Listed(), name="ada")
    names = register_prompts(MoA(QA, [agent, *cast("b").values()], FakeLM("judge", [])), "q/ü")
    assert [name for name in names if "steps" in name] == [
        "q__.proposers.ada.program.steps_0_",
        "q__.proposers.ada.program.steps_1_",
    ]


def test_demos_and_other_descriptions_are_part_of_the_text() -> None:
    moa = mixture(cast("a", "judge"))
    predictor: Any = dict(moa.named_predictors())["proposers.shared.predict"]
    predictor.signature = predictor.signature.with_instructions("Do.").with_updated_fields("answer", prefix="Finally:")
    predictor.demos = [
        dspy.Example(question="1+1?", answer=2),
        dspy.Example(augmented=True, question="{{q}}", answer=["a", "b"]),
    ]
    assert prompts_of(moa)[0].text == (
        "Do.\n\n--- fields ---\nanswer: Finally:"
        "\n\n--- demo 1 ---\nquestion: 1+1?\nanswer: 2"
        '\n\n--- demo 2 (bootstrapped) ---\nquestion: {{q}}\nanswer: [\n  "a",\n  "b"\n]'
    )


def test_a_text_that_is_too_long_is_cut_and_says_so(store: Path) -> None:
    moa = rewritten(mixture(cast("a", "judge")), "proposers.shared.predict", "x" * (LONGEST + 1))
    name = "moa.proposers.shared.predict"
    assert (register_prompts(moa)[name], register_prompts(moa)[name]) == (1, 1)
    [text] = versions(name)
    assert len(text) == LONGEST and text.endswith("xx\n[... cut; whole among the artifacts of the run, under prompts]")


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "swordfish-123")
    moa = MoA(QA, [dspy.LM("openai/x", api_key="hunter2-hunter2")], FakeLM("judge", []))
    told = rewritten(moa, "proposers.shared.predict", "Log in as hunter2-hunter2 or swordfish-123.")
    assert prompts_of(told)[0].text == "Log in as *** or ***."


def test_no_mixture_is_refused() -> None:
    module: Any = dspy.Predict(QA)
    with pytest.raises(TypeError, match=r"of a moa_dspy\.MoA, not of a Predict"):
        register_prompts(module)


def test_no_registry_costs_a_warning(untracked: None, caplog: pytest.LogCaptureFixture) -> None:
    mlflow.set_tracking_uri("http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING, logger="moa_dspy.tracking"):
        assert register_prompts(mixture(cast("a", "judge"))) == {}
    ours = [record.getMessage() for record in caplog.records if record.name == "moa_dspy.tracking"]
    assert len(ours) == 1 and "could not register the prompts" in ours[0]
