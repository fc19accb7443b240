"""States into mixtures: whole or not at all, and with the same prompts."""

import math
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from pydantic import BaseModel
from support.saved import prompts_of, real, rewritten, state_in

from moa_dspy import MoA

PROMPT = "proposers.shared.predict"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


@pytest.mark.parametrize(
    "wrong",
    [
        {"demos": None},
        {"demos": [1]},
        {"demos": {"question": "q"}},
        {"signature": None},
        {"signature": {"instructions": 5, "fields": []}},
        {"signature": {"instructions": "i", "fields": [{"prefix": "Question:"}]}},
        {"lm": "openai/a"},
    ],
    ids=str,
)
def test_a_broken_predictor_is_named_and_changes_nothing(file: Path, wrong: dict[str, Any]) -> None:
    saved, moa = real("a"), real("a")
    saved.predictors()[0].demos = [dspy.Example(question="q", answer="a")]
    saved.save(file)
    rewritten(file, {PROMPT: {**state_in(file)[PROMPT], **wrong}})
    before = moa.dump_state()
    with pytest.raises(ValueError, match=rf"moa\.json: .*{PROMPT}\.{next(iter(wrong))}"):
        moa.load(file)
    assert moa.dump_state() == before


@pytest.mark.parametrize("missing", ["demos", "signature"])
def test_what_a_predictor_lacks_is_named(file: Path, missing: str) -> None:
    real("a").save(file)
    state = state_in(file)[PROMPT]
    del state[missing]
    rewritten(file, {PROMPT: state})
    for load in (MoA.from_file, real("a").load):
        with pytest.raises(ValueError, match=rf"moa\.json: .*{PROMPT}\.{missing}: Field required"):
            load(file)


def test_demos_are_the_users_own_after_loading(file: Path) -> None:
    moa = real("a")
    moa.predictors()[0].demos = [dspy.Example(question="q", answer="a")]
    state = moa.dump_state()
    moa.load_state(state)
    moa.predictors()[0].demos.append(dspy.Example(question="more", answer="b"))
    assert len(state[PROMPT]["demos"]) == 1


@pytest.mark.parametrize(
    ("annotation", "number"),
    [
        *((annotation, number) for annotation in ("float", "str", "list[float]") for number in (math.inf, math.nan)),
        *(
            (annotation, number)
            for annotation in ("int", "str", "list[int]")
            for number in (2**70, -(2**64), 2**64 - 1)
        ),
    ],
)
def test_numbers_beyond_json_are_shown_as_before(file: Path, number: Any, annotation: str) -> None:
    moa = MoA(f"question -> answer: {annotation}", ["openai/a"], strategy="voting")
    moa.predictors()[0].demos = [dspy.Example(question="q", answer=[number] if "list" in annotation else number)]
    before = prompts_of(moa, question="q")
    moa.save(file)
    moa.load(file)
    assert prompts_of(moa, question="q") == before


class Old(BaseModel):
    name: str


class New(BaseModel):
    name: str
    price: float


New.__name__ = "Old"


@pytest.mark.parametrize(
    ("saved", "here", "words"),
    [
        (Old, New, r"the file has Old\(name: str\), this program Old\(name: str, price: float\)"),
        (Literal["a"], Literal["a", "b"], r"output answer: Literal\['a'\], this program output answer: Literal\['a', "),
    ],
    ids=["model", "literal"],
)
def test_other_types_of_the_same_name_are_refused_in_words(file: Path, saved: Any, here: Any, words: str) -> None:
    def moa(annotation: Any) -> MoA:
        make: Any = dspy.Signature
        fields = {"question": (str, dspy.InputField()), "answer": (annotation, dspy.OutputField())}
        return MoA(make(fields), ["openai/a"], "openai/judge")

    moa(saved).save(file)
    with pytest.raises(ValueError, match=rf"moa\.json: .*nothing was loaded: .*{words}"):
        moa(here).load(file)
    moa(saved).load(file)
