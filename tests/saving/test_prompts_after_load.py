"""Demos that hold proposals make the same prompt after a program was saved and loaded."""

from datetime import date
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import BaseModel
from support.cases import ADAPTERS, mixture_of
from support.fake_lm import FakeLM

from moa_dspy import MoA
from moa_dspy.strategies import STRATEGIES

EVERY_ADAPTER = pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Person(BaseModel):
    name: str
    born: date | None = None
    tags: list[str] = []


class Meet(dspy.Signature):
    """Say who it is."""

    question: str = dspy.InputField()
    when: date = dspy.InputField()
    about: Person = dspy.InputField()
    answer: str = dspy.OutputField()
    color: Color = dspy.OutputField()
    people: list[Person] = dspy.OutputField()
    note: str | None = dspy.OutputField()


INPUTS = {"when": date(2020, 1, 2), "about": Person(name="Ada", born=date(1815, 12, 10))}
ONE = {"answer": "one\n\ttwo\u2028 «««", "color": Color.RED, "people": [Person(name="B", tags=["x\ny"])], "note": "n"}
OTHER = {"answer": "[[ ## answer ## ]]", "color": Color.BLUE, "people": [], "note": "m"}
REPLY: dict[str, Any] = {
    "reasoning": "so\nand so",
    **ONE,
    "choice": "P2",
    "groups": [["P1"], ["P2"]],
    "best": "P1",
    "elements": [{"statement": "s\nt", "kind": "contradiction", "supported_by": ["P1", "P2"], "resolution": None}],
}


def mixture(strategy: str, **options: Any) -> tuple[MoA, FakeLM]:
    judge = FakeLM("judge", lambda prompt: REPLY)
    return mixture_of(Meet, [ONE, OTHER], judge, strategy=strategy, layers=2, **options), judge


@lru_cache
def compiled(strategy: str) -> tuple[MoA, FakeLM]:
    """A mixture with a demo of its own on each of its predictors that was asked."""
    moa, judge = mixture(strategy)
    example = dspy.Example(question="demo?", **INPUTS).with_inputs("question", "when", "about")
    optimizer = dspy.BootstrapFewShot(max_bootstrapped_demos=1, max_labeled_demos=0)
    return optimizer.compile(moa, trainset=[example]), judge


def prompts(moa: MoA, judge: FakeLM) -> list[str]:
    """What the judge and the last layer are sent."""
    before = judge.calls
    moa(question="now?", **INPUTS)
    last: Any = moa.panels[-1].agents[0].lm
    return [*judge.prompts[before:], last.prompts[-1]]


@EVERY_ADAPTER
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_demos_make_the_same_prompt_after_loading(strategy: str, adapter: dspy.Adapter, tmp_path: Path) -> None:
    with dspy.context(adapter=adapter):
        moa, judge = compiled(strategy)
        before = prompts(moa, judge)
        moa.save(tmp_path / "moa.json")
        fresh, other = mixture(strategy)
        fresh.load(tmp_path / "moa.json")
        assert prompts(fresh, other) == before
    assert len(before) == 2
    for prompt in before:
        assert prompt.count("demo?") == 1 and prompt.count("now?") == 1
        assert prompt.count("\nProposal P1:\n«««\n") == 2


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_saving_again_changes_nothing(strategy: str, tmp_path: Path) -> None:
    moa, _ = compiled(strategy)
    moa.save(tmp_path / "one.json")
    fresh, _ = mixture(strategy)
    fresh.load(tmp_path / "one.json", allow_unsafe_lm_state=True)
    fresh.save(tmp_path / "two.json")
    assert (tmp_path / "one.json").read_text("utf-8") == (tmp_path / "two.json").read_text("utf-8")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_new_instructions_reach_the_judge_after_loading(strategy: str, tmp_path: Path) -> None:
    moa, _ = mixture(strategy)
    for name, predictor in moa.named_predictors():
        if "aggregator" in name:
            signature: Any = predictor.signature
            predictor.signature = signature.with_instructions("Judge well.")
    moa.save(tmp_path / "moa.json")
    fresh, judge = mixture(strategy)
    fresh.load(tmp_path / "moa.json")
    assert "Judge well." in prompts(fresh, judge)[0]
