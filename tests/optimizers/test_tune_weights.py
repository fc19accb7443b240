from collections import Counter
from typing import Any

import dspy
import pytest
from support.mixtures import calls
from support.roles import TRAIN, Outer, School, Task, right, role, student

from moa_dspy import Agent, MoA
from moa_dspy.optimizers import tune_weights

ROLES = ("ada", "bo", "judge")


def finetune(**options: Any) -> Any:
    return dspy.BootstrapFinetune(metric=right, num_threads=3, **options)


def learned(school: School) -> dict[str, list[str]]:
    """Model -> who wrote each reply that it was trained on."""
    return {
        name: sorted(said.split(" wrote this")[0].split()[-1] for said in all) for name, all in school.replies.items()
    }


def models(program: Any) -> list[str]:
    return [agent.model for agent in program.agents]


def trainees(*names: str) -> tuple[School, dict[str, Any]]:
    school = School()
    return school, {name: role(name, provider=school) for name in names}


def test_a_teacher_writes_what_the_students_models_learn() -> None:
    school, lms = trainees(*ROLES)
    teacher = student({name: role(f"old_{name}") for name in ROLES})
    tune_weights(student(lms), finetune(), teacher=[teacher], trainset=TRAIN)
    assert learned(school) == {name: sorted(f"old_{role}" for role in ROLES * 3) for name in ROLES}
    assert calls(lms) == dict.fromkeys(ROLES, 0)


def test_settings_by_lm_find_their_lm() -> None:
    school, lms = trainees(*ROLES)
    settings = {lm: {"epochs": number} for number, lm in enumerate(lms.values())}
    tune_weights(student(lms), finetune(train_kwargs=settings), trainset=TRAIN)
    assert [school.settings[name] for name in ROLES] == [{"epochs": 0}, {"epochs": 1}, {"epochs": 2}]


def test_agents_inside_an_agent_are_trained_too() -> None:
    _, lms = trainees("ada", "bo", "judge")
    inner = MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], use_specialized_prompts=True)
    moa = MoA(Task, [Agent(program=inner, name="inner")], lms["judge"])
    tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
    assert (models(tuned)[1], models(tuned.proposers.inner.program)) == ("judge+", ["ada+", "bo+", "judge+"])


def test_a_vote_without_an_aggregator_stays_one() -> None:
    _, lms = trainees("ada", "bo")
    moa = MoA(Task, [*lms.values()], strategy="voting", use_specialized_prompts=True)
    tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
    assert (tuned.aggregator.lm, models(tuned)) == (None, ["ada+", "bo+", None])


def test_one_model_in_several_roles_is_trained_once_on_all() -> None:
    school, lms = trainees("ada", "judge")
    moa = MoA(Task, [lms["ada"], lms["ada"]], lms["judge"], num_proposals_per_model=2)
    tuned = tune_weights(moa, finetune(), trainset=TRAIN)
    assert models(tuned) == ["ada+", "ada+", "judge+"]
    assert Counter(lms["ada"].rollouts) == {None: 6, -1: 6, -2: 6, -3: 6}
    assert learned(school) == dict.fromkeys(lms, ["ada"] * 12 + ["judge"] * 3)


def test_the_lm_of_a_program_of_ones_own_is_trained_too() -> None:
    school, lms = trainees("ada", "bo", "judge")
    own = dspy.ChainOfThought(Task)
    own.set_lm(lms["bo"])
    moa = MoA(Task, [Agent(lms["ada"], name="ada"), Agent(program=own, name="bo")], lms["judge"])
    tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
    assert learned(school) == {name: sorted(ROLES * 3) for name in lms}
    assert (tuned.predictors()[1].lm.model, moa.predictors()[1].lm) == ("bo+", lms["bo"])


def test_one_model_per_predictor_is_refused_inside_another_optimizer_too() -> None:
    _, lms = trainees(*ROLES)
    with pytest.raises(ValueError, match=r"multitask=False takes the n-th step .*optimizers\.Finetune"):
        together = dspy.BetterTogether(metric=right, w=finetune(multitask=False))
        tune_weights(student(lms), together, trainset=TRAIN)
    assert calls(lms) == dict.fromkeys(ROLES, 0)


def test_a_predictor_without_an_lm_and_the_ambient_one_are_refused() -> None:
    outer: Any = Outer(MoA(Task, [role("ada")], role("judge")))
    outer.finish = dspy.Predict(Task)
    for program, bare in ((outer, "finish"), (MoA(Task, [role("ada")]), "aggregator.program.synthesize")):
        words = rf"{bare} has no LM of its own.*the ambient LM is not trained"
        with dspy.context(lm=role("judge")), pytest.raises(ValueError, match=words):
            tune_weights(program, finetune(), trainset=TRAIN)


def test_dspy_alone_refuses_a_mixture() -> None:
    _, lms = trainees(*ROLES)
    with pytest.raises(ValueError, match="does not have an LM assigned"):
        finetune().compile(student(lms), trainset=TRAIN)
