from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.roles import TRAIN, School, Task, right, role, student

from moa_dspy import MoA
from moa_dspy.optimizers import CompileInterrupted, Finetune


class Broke(School):
    """A school that takes nobody."""

    def finetune(self, *_: Any, **__: Any) -> str:
        raise RuntimeError("quota")


def classroom(school: School, **others: FakeLM) -> dict[str, FakeLM]:
    return {**{name: role(name, provider=school) for name in ("ada", "bo", "judge")}, **others}


def counts(school: School) -> dict[str, int]:
    return {name: len(replies) for name, replies in school.replies.items()}


def test_an_lm_that_is_dead_is_named_as_the_cause() -> None:
    school = School()
    gone = FakeLM("ada", lambda prompt: dspy.lm15.AuthError("the key was revoked"), provider=school)
    with pytest.raises(ValueError, match=r"ada on: .*ada 0, bo 3.* ada failed: \w+: .*revoked\. No job"):
        Finetune(right, agents=["ada", "bo"]).compile(student(classroom(school, ada=gone)), trainset=TRAIN)
    assert counts(school) == {}


def test_a_right_answer_of_the_panel_does_not_make_a_wrong_proposal_a_lesson() -> None:
    school = School()
    judge = FakeLM("judge", lambda prompt: {"reasoning": "judge wrote this", "answer": "a1"})
    with pytest.raises(ValueError, match=r"nothing to train ada on: of 1 examples, .*ada 0. No job"):
        Finetune(right, agents=["ada"]).compile(student(classroom(school, judge=judge)), trainset=TRAIN[1:2])
    assert counts(school) == {}


def test_samples_are_lessons_each_for_itself() -> None:
    school = School()
    lms = classroom(school)
    moa = MoA(Task, [lms["ada"]], lms["judge"], num_proposals_per_model=2)
    Finetune(right, agents=["ada"]).compile(moa, trainset=TRAIN)
    assert counts(school) == {"ada": 6}


def test_layers_of_one_agent_are_one_model() -> None:
    school = School()
    tuned = Finetune(right, agents=["bo"]).compile(student(classroom(school), layers=2), trainset=TRAIN[:1])
    assert counts(school) == {"bo": 2}
    assert [agent.model for agent in tuned.agents] == ["ada", "bo+", "ada", "bo+", "judge"]


def test_a_job_that_fails_does_not_lose_the_others() -> None:
    optimizer, lms = Finetune(right, agents=["ada", "bo"]), classroom(School(), bo=role("bo", provider=Broke()))
    with pytest.raises(CompileInterrupted, match="bo: quota") as caught:
        optimizer.compile(student(lms), trainset=TRAIN)
    program: Any = caught.value.program
    assert [agent.model for agent in program.agents] == ["ada+", "bo", "judge"]
    assert [(one.agent, one.examples, one.tuned_model) for one in optimizer.trainings] == [
        ("ada", 3, "ada+"),
        ("bo", 3, None),
    ]


def test_an_agent_whose_program_brings_its_lms_is_refused() -> None:
    lms = classroom(School())
    moa = MoA(Task, [dspy.ChainOfThought(Task), lms["bo"]], lms["judge"])
    with pytest.raises(ValueError, match=r"no LM of its own to train.*agents=\["):
        Finetune().compile(moa, trainset=TRAIN)
    assert lms["bo"].calls == 0
