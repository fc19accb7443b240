from collections import Counter
from typing import Any

import dspy
import pytest
from support.compiling import Setting
from support.mixtures import calls
from support.roles import TRAIN, Outer, Task, right, role
from support.trainable import TrainableLM, trainees

from moa_dspy import Agent, MoA
from moa_dspy.optimizers import tune_weights

ROLES = ("ada", "bo", "judge")
nested = pytest.mark.parametrize("nested", [False, True], ids=["moa", "outer"])


def finetune(**options: Any) -> Any:
    return dspy.BootstrapFinetune(metric=right, num_threads=3, **options)


def training(lms: dict[str, TrainableLM]) -> dict[str, Any]:
    """What each model was trained on."""
    return {name: lm.training[0] for name, lm in lms.items() if lm.training}


def models(program: Any) -> list[str]:
    return [agent.model for agent in getattr(program, "moa", program).agents]


def build(setting: Setting, prefix: str = "") -> tuple[dict[str, TrainableLM], Any]:
    lms = {name: trainees(prefix + name)[prefix + name] for name in ROLES}
    return lms, setting.program(lms)


def test_a_teacher_writes_what_the_students_models_learn() -> None:
    lms, program = build(Setting())
    _, teacher = build(Setting(), prefix="old_")
    tune_weights(program, finetune(), teacher=[teacher], trainset=TRAIN)
    assert training(lms) == {name: sorted(f"old_{role}" for role in ROLES * 3) for name in ROLES}
    assert calls(lms) == dict.fromkeys(ROLES, 0)


def test_settings_by_lm_find_their_lm() -> None:
    lms, program = build(Setting())
    settings = {lm: {"epochs": number} for number, lm in enumerate(lms.values())}
    tune_weights(program, finetune(train_kwargs=settings), trainset=TRAIN)
    assert [lm.training[1] for lm in lms.values()] == [{"epochs": 0}, {"epochs": 1}, {"epochs": 2}]


def test_an_agent_inside_an_agent_runs_on_the_lm_around_it() -> None:
    lms = trainees("ada", "judge")
    inner = MoA(Task, [Agent(program=dspy.ChainOfThought(Task), name="own")], strategy="voting")
    moa = MoA(Task, [Agent(lms["ada"], inner, name="inner")], lms["judge"])
    tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
    before = calls(lms)
    tuned(question="q3")
    assert calls(lms) == before and tuned.proposers.inner.program.proposers.own.model == "ada+"


def test_a_vote_without_an_aggregator_stays_one() -> None:
    lms = trainees("ada", "bo")
    moa = MoA(Task, [*lms.values()], strategy="voting", use_specialized_prompts=True)
    tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
    assert (tuned.aggregator.lm, models(tuned)) == (None, ["ada+", "bo+", None])


def test_one_model_in_several_roles_is_trained_once_on_all() -> None:
    lms = trainees("ada", "judge")
    moa = MoA(Task, [lms["ada"], lms["ada"]], lms["judge"], num_proposals_per_model=2)
    tuned = tune_weights(moa, finetune(), trainset=TRAIN)
    assert models(tuned) == ["ada+", "ada+", "judge+"]
    assert Counter(lms["ada"].rollouts) == {None: 6, -1: 6, -2: 6, -3: 6}
    assert training(lms) == dict.fromkeys(lms, ["ada"] * 12 + ["judge"] * 3)


def test_lms_of_the_settings_and_of_programs_are_trained_too() -> None:
    lms = trainees("ada", "bo", "judge")
    own = dspy.ChainOfThought(Task)
    own.set_lm(lms["bo"])
    with dspy.context(lm=lms["judge"]):
        moa = MoA(Task, [Agent(lms["ada"], name="ada"), Agent(program=own, name="bo")])
        tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
        assert tuned(question="q3").answer == "no idea, says judge"
    assert training(lms) == {name: sorted(ROLES * 3) for name in lms}
    assert (tuned.predictors()[1].lm.model, moa.predictors()[1].lm) == ("bo+", lms["bo"])


def test_one_model_per_predictor_is_refused_for_finetune() -> None:
    lms, program = build(Setting())
    for optimizer in (finetune(multitask=False), dspy.BetterTogether(metric=right, w=finetune(multitask=False))):
        with pytest.raises(ValueError, match=r"multitask=False takes the n-th step .*optimizers\.Finetune"):
            tune_weights(program, optimizer, trainset=TRAIN)
    assert calls(lms) == dict.fromkeys(ROLES, 0)


def test_a_predictor_without_an_lm_is_refused() -> None:
    program: Any = Outer(MoA(Task, [role("ada")], role("judge")))
    program.finish = dspy.Predict(Task)
    with pytest.raises(ValueError, match=r"The predictor finish has no LM, so there is nothing to train"):
        tune_weights(program, finetune(), trainset=TRAIN)


def test_dspy_alone_refuses_a_mixture() -> None:
    _, program = build(Setting())
    with pytest.raises(ValueError, match="does not have an LM assigned"):
        finetune().compile(program, trainset=TRAIN)
