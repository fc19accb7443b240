from typing import Any

import dspy
import pytest
from dspy.teleprompt import BootstrapFewShotWithOptuna
from support.compiling import TRAIN, Setting, compiled, every_setting, never, right, role, settings
from support.fake_lm import FakeLM

SIZES: dict[str, Any] = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}
strayed = settings([Setting(specialized, nested) for specialized in (False, True) for nested in (False, True)])


class TestBootstrapFewShot:
    @every_setting
    def test_demos_stand_with_the_predictor_that_wrote_them(self, setting: Setting) -> None:
        optimizer = dspy.BootstrapFewShot(metric=right, **SIZES)
        run = compiled(setting, lambda program, _: optimizer.compile(program, trainset=TRAIN))
        # q0 and q2 are answered right, q1 between them is not.
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 3), dict.fromkeys(run.lms, 1))
        assert run.has_own_demos()

    def test_a_later_layer_has_demos_of_its_own(self) -> None:
        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        tuned = dspy.BootstrapFewShot(metric=right, **SIZES).compile(Setting().program(lms, layers=2), trainset=TRAIN)
        written = {
            name: {(demo.reasoning.split()[0], "proposals" in demo) for demo in predictor.demos if "augmented" in demo}
            for name, predictor in tuned.named_predictors()
        }
        assert written == {
            "proposers.ada.program.predict": {("ada", False)},
            "proposers.bo.program.predict": {("bo", False)},
            "layer_2.ada.program.predict": {("ada", True)},
            "layer_2.bo.program.predict": {("bo", True)},
            "aggregator.program.synthesize": {("judge", True)},
        }

    @strayed
    def test_further_rounds_resample_every_lm(self, setting: Setting) -> None:
        optimizer = dspy.BootstrapFewShot(metric=right, max_rounds=3, max_bootstrapped_demos=4, max_labeled_demos=0)
        run = compiled(setting, lambda program, _: optimizer.compile(program, trainset=TRAIN))
        # The odd questions are known at the second round.
        assert all(lm.rollouts == [None, None, 1, None, None, 1, None] for lm in run.lms.values())
        assert run.has_own_demos()

    @strayed
    def test_every_round_that_fails_is_another_sample(self, setting: Setting) -> None:
        optimizer = dspy.BootstrapFewShot(metric=never, max_rounds=3, max_labeled_demos=0)
        run = compiled(setting, lambda program, _: optimizer.compile(program, trainset=TRAIN[:2]))
        assert all(lm.rollouts == [None, 1, 2, None, 1, 2, None] for lm in run.lms.values())

    def test_without_a_settings_lm_dspy_has_only_the_first_round(self) -> None:
        optimizer = dspy.BootstrapFewShot(metric=never, max_rounds=3, max_labeled_demos=0)
        run = compiled(Setting(strayed=False), lambda program, _: optimizer.compile(program, trainset=TRAIN[:2]))
        assert run.during == dict.fromkeys(run.lms, 2)

    @every_setting
    def test_a_teacher_writes_the_demos_with_its_own_lms(self, setting: Setting) -> None:
        teachers: list[FakeLM] = []

        def compile(program: Any, _: Any) -> Any:
            lms = {name: role(f"old_{name}") for name in ("ada", "bo", "judge")}
            teachers.extend(lms.values())
            optimizer = dspy.BootstrapFewShot(metric=right, **SIZES)
            return optimizer.compile(program, teacher=setting.program(lms), trainset=TRAIN)

        run = compiled(setting, compile)
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 0), dict.fromkeys(run.lms, 1))
        assert [teacher.calls for teacher in teachers] == [3] * 6
        assert run.has_own_demos(prefix="old_")

    @every_setting
    def test_teacher_settings_put_no_other_lm_on_a_role(self, setting: Setting) -> None:
        optimizer = dspy.BootstrapFewShot(metric=right, teacher_settings={"lm": FakeLM("other", [])}, **SIZES)
        run = compiled(setting, lambda program, _: optimizer.compile(program, trainset=TRAIN))
        assert run.during == dict.fromkeys(run.lms, 3) and run.has_own_demos()


class TestRandomSearch:
    @every_setting
    def test_the_best_candidate_has_own_lms_and_own_demos(self, setting: Setting) -> None:
        def compile(program: Any, _: Any) -> Any:
            optimizer = dspy.BootstrapFewShotWithRandomSearch(
                metric=right, num_candidate_programs=1, num_threads=1, **SIZES
            )
            return optimizer.compile(program, trainset=TRAIN)

        run = compiled(setting, compile)
        assert [candidate["score"] for candidate in run.tuned.candidate_programs] == [100.0, 100.0, 50.0, 50.0]
        # Four candidates on six questions each; two of them are bootstrapped, on three questions and on two.
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 29), dict.fromkeys(run.lms, 1))
        assert run.has_own_demos()

    def test_threads_do_not_mix_the_roles_up(self) -> None:
        def compile(program: Any, _: Any) -> Any:
            optimizer = dspy.BootstrapFewShotWithRandomSearch(
                metric=right, num_candidate_programs=1, num_threads=4, **SIZES
            )
            return optimizer.compile(program, trainset=TRAIN)

        run = compiled(Setting(), compile, ordered=False)
        assert run.during == dict.fromkeys(run.lms, 29) and run.has_own_demos()


class TestOptuna:
    @every_setting
    def test_every_predictor_gets_one_of_its_own_demos(self, setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
        optuna = pytest.importorskip("optuna")
        # DSPy gives the study no seed.
        create: Any = optuna.create_study
        sampler = optuna.samplers.TPESampler
        monkeypatch.setattr(optuna, "create_study", lambda **options: create(sampler=sampler(seed=0), **options))

        def compile(program: Any, _: Any) -> Any:
            optimizer = BootstrapFewShotWithOptuna(metric=right, num_candidate_programs=2, num_threads=1, **SIZES)
            return optimizer.compile(program, trainset=TRAIN, max_demos=2)

        run = compiled(setting, compile)
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 15), dict.fromkeys(run.lms, 1))
        assert [len(predictor.demos) for predictor in run.tuned.predictors()] == [1] * len(run.tuned.predictors())
        assert run.has_own_demos()
