from collections import Counter
from typing import Any

import dspy
import pytest
from support.compiling import TRAIN, Outer, Setting, Task, never, right, role
from support.fake_engine import current_rollout
from support.fake_lm import FakeLM
from support.mixtures import calls, question
from support.trainable import TrainableLM, trainees

from moa_dspy import Agent, MoA
from moa_dspy.optimizers import tune_weights

ROLES = ("ada", "bo", "judge")
nested = pytest.mark.parametrize("nested", [False, True], ids=["moa", "outer"])
multitask = pytest.mark.parametrize("multitask", [True, False], ids=["multitask", "per predictor"])


def finetune(**options: Any) -> Any:
    return dspy.BootstrapFinetune(metric=right, num_threads=3, **options)


def training(lms: dict[str, TrainableLM]) -> dict[str, Any]:
    """What each model was trained on."""
    return {name: lm.training[0] for name, lm in lms.items() if lm.training}


def models(program: Any) -> list[str]:
    return [agent.model for agent in getattr(program, "moa", program).agents]


class TestBootstrapFinetune:
    @nested
    @multitask
    def test_each_model_is_trained_and_takes_its_own_place(self, nested: bool, multitask: bool) -> None:
        lms, program = _program(Setting(nested=nested))
        with dspy.context(lm=FakeLM("stray", [])):
            tuned = tune_weights(program, finetune(multitask=multitask), trainset=TRAIN)
            assert calls(lms) == dict.fromkeys(ROLES, 6)
            tuned(question="q3")
        everybody = sorted(ROLES * 3)  # three of six questions are answered right
        assert training(lms) == {name: everybody if multitask else [name] * 3 for name in ROLES}
        assert (models(program), models(tuned)) == (["ada", "bo", "judge"], ["ada+", "bo+", "judge+"])
        assert [agent.lm.calls for agent in getattr(tuned, "moa", tuned).agents] == [1, 1, 1]
        assert calls(lms) == dict.fromkeys(ROLES, 6)

    def test_a_teacher_writes_what_the_students_models_learn(self) -> None:
        lms, program = _program(Setting())
        _, teacher = _program(Setting(), prefix="old_")
        tune_weights(program, finetune(multitask=False), teacher=[teacher], trainset=TRAIN)
        assert training(lms) == {name: [f"old_{name}"] * 3 for name in ROLES}
        assert calls(lms) == dict.fromkeys(ROLES, 0)

    def test_settings_by_lm_find_their_lm(self) -> None:
        lms, program = _program(Setting())
        settings = {lm: {"epochs": number} for number, lm in enumerate(lms.values())}
        tune_weights(program, finetune(train_kwargs=settings), trainset=TRAIN)
        assert [lm.training[1] for lm in lms.values()] == [{"epochs": 0}, {"epochs": 1}, {"epochs": 2}]

    @pytest.mark.parametrize("late", ["ada", "bo", "judge"])
    def test_what_a_failure_moves_to_anothers_place_is_left_out(self, late: str) -> None:
        lms = trainees(*ROLES)
        answer: Any = lms[late]._fake.answers
        lms[late] = TrainableLM(late, lambda prompt: ValueError("down") if question(prompt) == "q2" else answer(prompt))
        tune_weights(Setting().program(lms), finetune(multitask=False), trainset=TRAIN)
        after = ROLES[ROLES.index(late) :]
        assert training(lms) == {name: [name] * (2 if name in after else 3) for name in ROLES}

    def test_a_repaired_reply_is_what_is_learned(self) -> None:
        lms = trainees(*ROLES)
        answer: Any = role("judge")._fake.answers
        unshown = {"statement": "s", "kind": "unique", "supported_by": ["P9"], "resolution": None}
        lms["judge"] = TrainableLM(
            "judge",
            lambda prompt: {
                **answer(prompt),
                **({} if current_rollout.get() else {"elements": [unshown], "reasoning": "nobody wrote this"}),
            },
        )
        # With the tip all are right, and say so in their own words.
        program = Setting().program(lms, strategy="fusion")
        tune_weights(program, dspy.BootstrapFinetune(multitask=False, num_threads=3), trainset=TRAIN[1:2])
        assert training(lms) == {name: [name] for name in ROLES}

    def test_an_agent_inside_an_agent_runs_on_the_lm_around_it(self) -> None:
        lms = trainees("ada", "judge")
        inner = MoA(Task, [Agent(program=dspy.ChainOfThought(Task), name="own")], strategy="voting")
        moa = MoA(Task, [Agent(lms["ada"], inner, name="inner")], lms["judge"])
        tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
        before = calls(lms)
        tuned(question="q3")
        assert calls(lms) == before and tuned.proposers.inner.program.proposers.own.model == "ada+"

    def test_a_vote_without_an_aggregator_stays_one(self) -> None:
        lms = trainees("ada", "bo")
        moa = MoA(Task, [*lms.values()], strategy="voting", use_specialized_prompts=True)
        tuned: Any = tune_weights(moa, finetune(), trainset=TRAIN)
        assert (tuned.aggregator.lm, models(tuned)) == (None, ["ada+", "bo+", None])
        assert {predictor.lm for predictor in tuned.predictors()} == {None}
        with pytest.raises(ValueError, match="'aggregator' is never asked"):
            tune_weights(moa, finetune(multitask=False), trainset=TRAIN)

    def test_one_model_in_several_roles_is_trained_once_on_all(self) -> None:
        lms = trainees("ada", "judge")
        moa = MoA(Task, [lms["ada"], lms["ada"]], lms["judge"], num_proposals_per_model=2)
        tuned = tune_weights(moa, finetune(), trainset=TRAIN)
        assert models(tuned) == ["ada+", "ada+", "judge+"]
        assert Counter(lms["ada"].rollouts) == {None: 6, -1: 6, -2: 6, -3: 6}
        assert training(lms) == dict.fromkeys(lms, ["ada"] * 12 + ["judge"] * 3)


class TestBetterTogether:
    @nested
    def test_prompts_and_weights_in_turn(self, nested: bool) -> None:
        _, program = _program(Setting(nested=nested))
        prompts = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=1, max_labeled_demos=0)
        optimizer = dspy.BetterTogether(metric=right, p=prompts, w=finetune(multitask=False))
        options: dict[str, Any] = {"valset": TRAIN[1:2], "strategy": "p -> w -> p", "num_threads": 1, "seed": 0}
        with dspy.context(lm=FakeLM("stray", [])):
            tuned: Any = tune_weights(program, optimizer, trainset=TRAIN, **options)
        assert not tuned.flag_compilation_error_occurred
        assert {c["strategy"]: (c["score"], models(c["program"])) for c in tuned.candidate_programs} == {
            "": (0.0, [*ROLES]),
            "p": (100.0, [*ROLES]),
            "p -> w": (100.0, ["ada+", "bo+", "judge+"]),
            "p -> w -> p": (100.0, ["ada+", "bo+", "judge+"]),
        }
        candidates = [tuned, *(candidate["program"] for candidate in tuned.candidate_programs)]
        assert {type(predictor) for program in candidates for predictor in program.predictors()} == {dspy.Predict}
        assert {predictor.lm for program in candidates for predictor in program.predictors()} == {None}
        assert not any("forward" in vars(program) for program in candidates)

    def test_prompt_optimizers_resample_meanwhile(self) -> None:
        lms, program = _program(Setting())
        rounds = dspy.BootstrapFewShot(metric=never, max_rounds=3, max_labeled_demos=0)
        optimizer = dspy.BetterTogether(metric=right, p=rounds)
        with dspy.context(lm=FakeLM("stray", [])):
            tune_weights(program, optimizer, trainset=TRAIN[:1], valset_ratio=0, strategy="p")
        assert {name: lm.rollouts for name, lm in lms.items()} == {name: [None, 1, 2] for name in ROLES}

    def test_candidates_that_are_reset_meanwhile_stay_on_their_lms(self) -> None:
        lms, program = _program(Setting())
        search = dspy.BootstrapFewShotWithRandomSearch(
            metric=right, num_candidate_programs=1, num_threads=1, max_bootstrapped_demos=1, max_labeled_demos=0
        )
        with dspy.context(lm=FakeLM("stray", [])):
            optimizer = dspy.BetterTogether(metric=right, p=search)
            tuned: Any = tune_weights(program, optimizer, trainset=TRAIN, valset_ratio=0, strategy="p")
        assert not tuned.flag_compilation_error_occurred and models(tuned) == [*ROLES]
        assert len({lm.calls for lm in lms.values()}) == 1 and next(iter(lms.values())).calls > 6


class TestRefusals:
    @multitask
    def test_one_prompt_of_several_models(self, multitask: bool) -> None:
        _, program = _program(Setting(specialized=False))
        with pytest.raises(ValueError, match=r"(?s)proposers\.shared\.predict is the prompt of 2 LMs.*use_specialized"):
            tune_weights(program, finetune(multitask=multitask), trainset=TRAIN)

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ({"num_proposals_per_model": 2}, "num_proposals_per_model > 1"),
            ({"strategy": "voting"}, "'aggregator' has several predictors"),
        ],
    )
    @nested
    def test_one_model_per_predictor_where_traces_do_not_line_up(self, options: Any, reason: str, nested: bool) -> None:
        lms = trainees(*ROLES)
        program = Setting(nested=nested).program(lms, **options)
        with pytest.raises(ValueError, match=f"{reason}.*Use multitask=True"):
            tune_weights(program, dspy.BetterTogether(metric=right, w=finetune(multitask=False)), trainset=TRAIN)
        assert calls(lms) == dict.fromkeys(ROLES, 0)

    def test_one_model_per_predictor_that_several_agents_ask(self) -> None:
        lms = trainees("ada", "judge")
        moa = MoA(Task, [lms["ada"], lms["ada"]], lms["judge"])
        with pytest.raises(ValueError, match=r"several agents share a prompt.*Use multitask=True"):
            tune_weights(moa, finetune(multitask=False), trainset=TRAIN)

    def test_a_mixture_inside_an_agent_is_looked_into(self) -> None:
        lms = trainees("ada", "chief", "judge")
        inner = MoA(Task, [lms["ada"]], lms["chief"], num_proposals_per_model=2)
        with pytest.raises(ValueError, match=r"num_proposals_per_model > 1"):
            tune_weights(MoA(Task, [inner], lms["judge"]), finetune(multitask=False), trainset=TRAIN)

    def test_a_predictor_without_an_lm(self) -> None:
        program: Any = Outer(MoA(Task, [role("ada")], role("judge")))
        program.finish = dspy.Predict(Task)
        with pytest.raises(ValueError, match=r"The predictor finish has no LM, so there is nothing to train"):
            tune_weights(program, finetune(), trainset=TRAIN)

    def test_dspy_alone_refuses_a_mixture(self) -> None:
        _, program = _program(Setting())
        with pytest.raises(ValueError, match="does not have an LM assigned"):
            finetune().compile(program, trainset=TRAIN)
        with pytest.raises(ValueError, match="must have a language model set on every predictor"):
            dspy.BetterTogether(metric=right, w=finetune()).compile(program, trainset=TRAIN)


def test_lms_of_the_settings_and_of_programs_are_trained_too() -> None:
    lms = trainees("ada", "bo", "judge")
    own = dspy.ChainOfThought(Task)
    own.set_lm(lms["bo"])
    with dspy.context(lm=lms["judge"]):
        moa = MoA(Task, [Agent(lms["ada"], name="ada"), Agent(program=own, name="bo")])
        tuned: Any = tune_weights(moa, finetune(multitask=False), trainset=TRAIN)
        assert tuned(question="q3").answer == "no idea, says judge"
    assert training(lms) == {name: [name] * 3 for name in lms}
    assert (tuned.predictors()[1].lm.model, moa.predictors()[1].lm) == ("bo+", lms["bo"])


def _program(setting: Setting, prefix: str = "") -> tuple[dict[str, TrainableLM], Any]:
    lms = {name: role(prefix + name, TrainableLM) for name in ROLES}
    return lms, setting.program(lms)
