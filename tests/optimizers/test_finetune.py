import re
from typing import Any

import dspy
import pytest
from dspy.clients.provider import Provider
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.roles import TRAIN, Outer, Task, right, role

from moa_dspy import MoA
from moa_dspy.optimizers import CompileInterrupted, Finetune


class School(Provider):
    """A provider that keeps what it was given; what is trained is called so."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.finetunable = True
        self.error = error
        self.taught: list[tuple[str, list[Any], Any]] = []

    def finetune(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's own is static
        self, job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None
    ) -> str:
        if self.error is not None:
            raise self.error
        self.taught.append((model, train_data, train_kwargs))
        return f"{model}-tuned"


def pupil(name: str, school: Provider) -> FakeLM:
    return FakeLM(name, role(name)._fake.answers, provider=school)


def classroom(school: School) -> dict[str, FakeLM]:
    return {name: pupil(name, school) for name in ("ada", "bo", "judge")}


def student(lms: dict[str, FakeLM], **options: Any) -> MoA:
    return MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], **options)


def said(data: list[Any]) -> list[tuple[str, str]]:
    """Who wrote the replies, and what they answered."""
    replies = [example["messages"][-1]["content"] for example in data]
    return [
        (re.findall(r"(\w+) wrote this", text)[0], re.findall(r"## answer ## ]]\n(.*)", text)[0]) for text in replies
    ]


@pytest.mark.parametrize("specialized", [True, False])
def test_each_model_learns_its_own_right_answers(specialized: bool) -> None:
    school = School()
    lms = classroom(school)
    moa = student(lms, use_specialized_prompts=specialized)
    optimizer = Finetune(right, train_kwargs={"epochs": 2})
    tuned = optimizer.compile(moa, trainset=TRAIN)
    # They know the even questions only.
    assert {model: (said(data), kwargs) for model, data, kwargs in school.taught} == {
        name: ([(name, f"a{number}") for number in (0, 2, 4)], {"epochs": 2}) for name in ("ada", "bo", "judge")
    }
    roles = {"ada": "ada", "bo": "bo", "aggregator": "judge"}
    found = [(one.agent, one.model, one.examples, one.tuned_model) for one in optimizer.trainings]
    assert found == [(agent, lm, 3, f"{lm}-tuned") for agent, lm in roles.items()]
    assert [agent.model for agent in tuned.agents] == ["ada-tuned", "bo-tuned", "judge-tuned"]
    assert [agent.model for agent in moa.agents] == ["ada", "bo", "judge"]
    assert calls(lms) == {"ada": 6, "bo": 6, "judge": 6}
    assert tuned.use_specialized_prompts == specialized and tuned(question="q2").answer == "a2"


def test_an_lm_that_is_dead_is_named_as_the_cause() -> None:
    school = School()
    gone = FakeLM("ada", lambda prompt: dspy.lm15.AuthError("the key was revoked"), provider=school)
    lms = classroom(school) | {"ada": gone}
    with pytest.raises(ValueError, match=r"ada on: .*ada 0, bo 3.* ada failed: \w+: .*revoked\. No job"):
        Finetune(right, agents=["ada", "bo"]).compile(student(lms), trainset=TRAIN)
    assert school.taught == []


def test_a_right_answer_of_the_panel_does_not_make_a_wrong_proposal_a_lesson() -> None:
    school = School()
    lms = classroom(school) | {"judge": FakeLM("judge", lambda p: {"reasoning": "judge wrote this", "answer": "a1"})}
    optimizer = Finetune(right, agents=["ada"])
    with pytest.raises(ValueError, match=r"nothing to train ada on: of 1 examples, .*ada 0. No job"):
        optimizer.compile(student(lms), trainset=TRAIN[1:2])
    assert school.taught == []


def test_samples_are_lessons_each_for_itself() -> None:
    school = School()
    lms = classroom(school)
    moa = MoA(Task, [lms["ada"]], lms["judge"], num_proposals_per_model=2)
    Finetune(right, agents=["ada"]).compile(moa, trainset=TRAIN)
    assert [len(data) for _, data, _ in school.taught] == [6]


def test_layers_of_one_agent_are_one_model() -> None:
    school = School()
    moa = student(classroom(school), layers=2)
    tuned = Finetune(right, agents=["bo"]).compile(moa, trainset=TRAIN[:1])
    assert [len(data) for _, data, _ in school.taught] == [2]
    assert [agent.model for agent in tuned.agents] == ["ada", "bo-tuned", "ada", "bo-tuned", "judge"]


def test_a_job_that_fails_does_not_lose_the_others() -> None:
    lms = {"ada": pupil("ada", School()), "bo": pupil("bo", School(RuntimeError("quota"))), "judge": role("judge")}
    optimizer = Finetune(right, agents=["ada", "bo"])
    with pytest.raises(CompileInterrupted, match="bo: quota") as caught:
        optimizer.compile(student(lms), trainset=TRAIN)
    program: Any = caught.value.program
    assert [agent.model for agent in program.agents] == ["ada-tuned", "bo", "judge"]
    assert [training.tuned_model for training in optimizer.trainings] == ["ada-tuned", None]


def test_what_cannot_be_right_is_refused_before_anything_is_asked() -> None:
    lms = classroom(School())
    moa = student(lms)
    plain = MoA(Task, [role("ada"), lms["bo"]], lms["judge"])
    own = MoA(Task, [dspy.ChainOfThought(Task), lms["bo"]], lms["judge"])
    refused: list[tuple[Any, str, Finetune, dict[str, Any]]] = [
        (TypeError, "Outer has none", Finetune(), {"student": Outer(moa)}),
        (ValueError, "trainset is empty", Finetune(), {"trainset": []}),
        (ValueError, "no agent 'al' to train. There are ada, bo, aggregator", Finetune(agents=["al"]), {}),
        (ValueError, "'ada' of agent 'ada' cannot be trained", Finetune(), {"student": plain}),
        (ValueError, "no LM of its own to train", Finetune(), {"student": own}),
    ]
    for error, message, optimizer, changed in refused:
        with pytest.raises(error, match=message):
            optimizer.compile(**{"student": moa, "trainset": TRAIN, **changed})
    assert calls(lms) == {"ada": 0, "bo": 0, "judge": 0}
