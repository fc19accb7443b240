"""A mixture in a file: prompts, demos, weights and models come back, here and in a process that has only the file."""

import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import BaseModel
from support.fake_lm import FakeLM
from support.mixtures import QA, both_ways, calls, cast, echo, mixture
from support.roles import Outer
from support.shown import JUDGED, always

from moa_dspy import Agent, Limits, MoA, MoAConfig, Selection, Strategy, Verdict, Voting

CAPITAL = "What is the capital of Turkey?"
NAMES = ["simulated/alice", "simulated/bob"]


class Item(BaseModel):
    name: str
    since: date | None = None


class Task(dspy.Signature):
    """Read the note."""

    note: str = dspy.InputField(desc="as it came in")
    items: list[Item] = dspy.OutputField(desc="in order")


class Longest(Strategy):
    name = "longest"

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


def taught(moa: Any, **demo: Any) -> Any:
    """With another prompt and a demo for each predictor."""
    for number, part in enumerate(moa.predictors()):
        part.signature = part.signature.with_instructions(f"Prompt {number}.\nDo it.")
        part.demos = [dspy.Example(**{"question": f"demo {number}", "answer": "a", "proposals": "««« x »»»", **demo})]
    return moa


def learned(moa: Any) -> list[tuple[str, list[dict[str, Any]]]]:
    """The instructions and demos of each predictor."""
    return [(part.signature.instructions, [dict(demo) for demo in part.demos]) for part in moa.predictors()]


def prompts(moa: MoA, lms: dict[str, FakeLM], **inputs: Any) -> dict[str, list[str]]:
    """What each model is sent."""
    before = calls(lms)
    moa(**inputs)
    return {name: lm.prompts[before[name] :] for name, lm in lms.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


# All comes back.


@pytest.mark.parametrize(
    ("strategy", "specialized"),
    [("synthesis", True), ("selection", False), ("voting", True), ("fusion", False), (Selection(3), True)],
)
def test_a_file_is_a_mixture(file: Path, strategy: Any, specialized: bool) -> None:
    options: dict[str, Any] = {"use_specialized_prompts": specialized, "layers": 2, "num_proposals_per_model": 2}
    agents = [Agent(NAMES[0], name="ann", temperature=0.5), NAMES[1]]
    limits = Limits(min_proposals=2, proposer_timeout=9, on_degraded="raise")
    moa: Any = taught(MoA(QA, agents, Agent("simulated/judge", max_tokens=900), strategy, limits=limits, **options))
    moa.save(file)
    back: Any = MoA.from_file(file)
    assert [(a.name, a.model, a.lm.kwargs) for a in back.agents] == [(a.name, a.model, a.lm.kwargs) for a in moa.agents]
    assert learned(back) == learned(moa) and learned(back)[0][0] == "Prompt 0.\nDo it."
    assert (type(back.strategy), back.limits, back.use_specialized_prompts) == (type(moa.strategy), limits, specialized)
    assert getattr(back.strategy, "rotations", 1) == getattr(moa.strategy, "rotations", 1)
    assert (back(question=CAPITAL), len(back(question=CAPITAL).proposals)) == (moa(question=CAPITAL), 4)


def test_a_new_process_needs_the_file_alone(file: Path) -> None:
    moa: Any = MoA("question -> answer: int", NAMES, strategy=Voting(weights={"bob": 2.5}))
    taught(moa, answer=4).save(file)
    code = (
        f"from moa_dspy import MoA\nmoa = MoA.from_file({str(file)!r})\n"
        "print(repr(moa(question='What is 17 * 23?').answer), moa.strategy.weights)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=file.parent)
    expected = moa(question="What is 17 * 23?").answer
    assert done.stdout == f"{expected!r} {{'bob': 2.5}}\n", done.stderr


@pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion"])
def test_the_same_prompts_are_sent_after_loading(file: Path, strategy: Any) -> None:
    def made() -> tuple[MoA, dict[str, FakeLM]]:
        lms = {name: FakeLM(name, always(answer=name)) for name in ("a", "b", "judge")}
        return mixture(lms, strategy=strategy, layers=2), lms

    moa, lms = made()
    taught(moa, **JUDGED).save(file)
    fresh, others = made()
    fresh.load(file)
    assert prompts(fresh, others, question="now?") == prompts(moa, lms, question="now?")
    assert "Do it." in others["judge"].prompts[0] and "demo 0" in others["a"].prompts[0]


@both_ways
def test_live_lms_stay_when_a_file_is_loaded(file: Path, ask: Any) -> None:
    taught(mixture(cast("a", "judge"))).save(file)
    lms = cast("a", "judge")
    moa = mixture(lms)
    moa.load(file)
    assert ask(moa, question="?").answer == "judge" and calls(lms) == {"a": 1, "judge": 1}


def test_a_whole_program_is_saved_and_loaded(tmp_path: Path) -> None:
    taught(mixture(cast("a", "judge"))).save(str(tmp_path / "program"), save_program=True)
    assert dspy.load(str(tmp_path / "program"), allow_pickle=True)(question="?").answer == "judge"


def test_what_dspy_has_frozen_is_missing_from_the_outer_file_until_it_is_thawed(file: Path) -> None:
    moa = dspy.BootstrapFewShot(max_bootstrapped_demos=1).compile(
        MoA(QA, [FakeLM("a", echo)], strategy="voting"),
        trainset=[dspy.Example(question="q", answer="q").with_inputs("question")],
    )
    outer = Outer(moa)
    assert (outer.predictors(), outer.dump_state()) == ([], {})
    outer.moa._compiled = False
    assert len(outer.predictors()) > 0 and outer.dump_state() != {}


# What cannot be, said in words, and nothing changed.


def real(*names: str, **options: Any) -> MoA:
    return MoA(QA, [f"openai/{name}" for name in names], "openai/judge", **options)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: real("a"), "b"),
        (lambda: real("a", "b", "c"), "c"),
        (lambda: real("a", "b", layers=2), "layers"),
        (lambda: real("a", "b", strategy="fusion"), "synthesis.*fusion"),
        (lambda: real("a", "b", use_specialized_prompts=True), "use_specialized_prompts"),
        (lambda: MoA("question -> answer: int", ["openai/a", "openai/b"], "openai/judge"), "str.*int"),
    ],
)
def test_a_file_of_another_shape_is_refused_and_changes_nothing(file: Path, other: Any, words: str) -> None:
    taught(real("a", "b")).save(file)
    moa = other()
    before = moa.dump_state()
    with pytest.raises(ValueError, match=rf"(?s)moa\.json.*{words}"):
        moa.load(file)
    assert moa.dump_state() == before


@pytest.mark.parametrize(
    ("moa", "words"),
    [
        (lambda: MoA(QA, [Agent("simulated/alice", dspy.Predict(QA), name="doer")], strategy="voting"), "doer"),
        (lambda: real("a", strategy=Longest()), "longest"),
    ],
    ids=["program", "strategy"],
)
def test_code_of_ones_own_is_in_no_file_but_its_state_is(file: Path, moa: Any, words: str) -> None:
    taught(moa()).save(file)
    for load in (MoA.from_file, MoAConfig.load, lambda path: MoA.from_config(None, path)):
        with pytest.raises(ValueError, match=rf"(?s)moa\.json: No file can bring code back: .*{words}.*load"):
            load(file)
    fresh = moa()
    fresh.load(file)
    assert fresh.predictors()[0].signature.instructions == "Prompt 0.\nDo it."
