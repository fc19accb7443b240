import re
from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from support.compiling import (
    TIP,
    TRAIN,
    Outer,
    Run,
    Setting,
    Task,
    compiled,
    every_setting,
    every_setting_with_an_lm,
    right,
    role,
)
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.rendering import asked

from moa_dspy import Agent, MoA

SIZES: Mapping[str, Any] = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}
ROLES = {"ada", "bo", "judge"}


def seen_by_coach(run: Run, *fields: str) -> list[Mapping[str, str]]:
    """The inputs of the coach's prompts that have these fields."""
    inputs = [asked(prompt).inputs for prompt in run.coach.prompts]  # type: ignore[union-attr]
    return [given for given in inputs if all(field in given for field in fields)]


def addressee(instruction: str) -> str:
    """Whom an instruction is for; the judge's names nobody."""
    found = re.search(r"You are (\w+)\.", instruction)
    return found[1] if found else "judge"


def owner(setting: Setting, predictor: str) -> set[str]:
    """Who may use a predictor of this name."""
    if "aggregator" in predictor:
        return {"judge"}
    return {name for name in ("ada", "bo") if not setting.specialized or f".{name}." in predictor}


class TestMIPROv2:
    @every_setting
    def test_each_instruction_is_written_from_the_predictors_own_demos(self, setting: Setting) -> None:
        pytest.importorskip("optuna")

        def compile(program: Any, coach: FakeLM) -> Any:
            models: dict[str, Any] = {"prompt_model": coach, "task_model": FakeLM("task", [])}
            optimizer = dspy.MIPROv2(right, **models, auto=None, num_candidates=3, num_threads=1, **SIZES)
            return optimizer.compile(program, trainset=TRAIN[:3], valset=TRAIN[:2], num_trials=2, minibatch=False)

        run = compiled(setting, compile)
        # Demos are bootstrapped on three questions; the program and two candidates are evaluated on two.
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 9), dict.fromkeys(run.lms, 1))
        assert any(TIP in text for text in run.instructions.values())
        assert all("class MoA(" in given["program_code"] for given in seen_by_coach(run, "program_code"))
        shown = [
            (addressee(given["basic_instruction"]), set(re.findall(r"^Reasoning: (\w+)", given["task_demos"], re.M)))
            for given in seen_by_coach(run, "basic_instruction", "task_demos")
        ]
        own = {(name, frozenset({name})) for name in ROLES}
        if setting.specialized:
            assert {(name, frozenset(authors)) for name, authors in shown if authors} == own
            assert all(owner(setting, name) == {addressee(text)} for name, text in run.instructions.items())


class TestCOPRO:
    @every_setting
    def test_each_predictor_keeps_to_its_own_line_of_instructions(self, setting: Setting) -> None:
        def compile(program: Any, coach: FakeLM) -> Any:
            optimizer = dspy.COPRO(prompt_model=coach, metric=right, breadth=2, depth=2)
            return optimizer.compile(program, trainset=TRAIN[1:2], eval_kwargs={"num_threads": 1})

        run = compiled(setting, compile)
        # Two candidates for each predictor, then four, on one question.
        times = len(run.tuned.predictors()) * (2 + 4)
        assert (run.during, run.after) == (dict.fromkeys(run.lms, times), dict.fromkeys(run.lms, 1))
        assert run.tuned(question="q3").answer == "a3" and TIP in run.instructions["aggregator.program.synthesize"]
        for name, instruction in run.instructions.items():
            if setting.specialized:
                assert owner(setting, name) == {addressee(instruction)}


class TestGEPA:
    @every_setting
    def test_reflection_on_a_predictor_sees_what_that_one_said(self, setting: Setting) -> None:
        def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None) -> Any:
            said = [step[2].reasoning for step in steps or []]
            return dspy.Prediction(score=float(right(example, prediction)), feedback=f"To {name}, for {said}.")

        def compile(program: Any, coach: FakeLM) -> Any:
            budget: dict[str, Any] = {"max_metric_calls": 40, "reflection_minibatch_size": 2}
            optimizer = dspy.GEPA(metric, reflection_lm=coach, num_threads=1, **budget)
            return optimizer.compile(program, trainset=TRAIN, valset=TRAIN)

        run = compiled(setting, compile)
        assert len(set(run.during.values())) == 1 and run.after == dict.fromkeys(run.lms, 1)
        assert run.tuned(question="q3").answer == "a3"
        reflections = seen_by_coach(run, "current_instruction", "examples_with_feedback")
        found = [
            (addressee(given["current_instruction"]), name, author)
            for given in reflections
            for name, author in re.findall(r"To ([\w.]+), for \['(\w+) wrote this'\]", given["examples_with_feedback"])
        ]
        assert {name.removeprefix("moa.") for _, name, _ in found} == run.instructions.keys()
        assert all(author in owner(setting, name) for _, name, author in found)
        if setting.specialized:
            assert all(author == mine for mine, _, author in found)

    def test_feedback_can_tell_who_failed(self) -> None:
        def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None) -> Any:
            failures = [f"{failure.agent}: {failure.error}" for failure in prediction.metadata.failures]
            return dspy.Prediction(score=0.0, feedback=f"Failed: {failures}")

        lms = {"ada": FakeLM("ada", lambda _: "no fields at all"), "bo": role("bo"), "judge": role("judge")}
        reflection = FakeLM("coach", lambda _: {"new_instruction": TIP})
        optimizer = dspy.GEPA(metric, reflection_lm=reflection, num_threads=1, max_metric_calls=12)
        optimizer.compile(Setting().program(lms), trainset=TRAIN[:3])
        assert all("Failed: ['ada: AdapterParseError']" in prompt for prompt in reflection.prompts)
        assert reflection.calls > 0

    @pytest.mark.parametrize("wrapped", [lambda moa: moa, Outer], ids=["moa", "outer"])
    def test_programs_and_mixtures_that_look_alike_are_told_apart(self, wrapped: Any) -> None:
        lms = {name: role(name) for name in ("ada", "bo", "cy", "chief", "judge")}
        inner = MoA(Task, [lms["cy"]], lms["chief"])
        programs = [Agent(lms[name], dspy.ChainOfThought(Task), name=name) for name in ("ada", "bo")]
        moa = wrapped(MoA(Task, [*programs, Agent(program=inner, name="inner")], lms["judge"]))
        found: set[tuple[str, str]] = set()

        def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None) -> Any:
            found.update((name.removeprefix("moa."), step[2].reasoning) for step in steps or [])
            return dspy.Prediction(score=0.0, feedback="Wrong.")

        reflection = FakeLM("coach", lambda prompt: {"new_instruction": f"Better than after {reflection.calls} calls."})
        budget: dict[str, Any] = {"max_metric_calls": 40, "reflection_minibatch_size": 2}
        dspy.GEPA(metric, reflection_lm=reflection, num_threads=1, **budget).compile(moa, trainset=TRAIN)
        assert found == {
            ("proposers.ada.program.predict", "ada wrote this"),
            ("proposers.bo.program.predict", "bo wrote this"),
            ("proposers.inner.program.proposers.shared.predict", "cy wrote this"),
            ("proposers.inner.program.aggregator.program.synthesize", "chief wrote this"),
            ("aggregator.program.synthesize", "judge wrote this"),
        }


class TestSIMBA:
    @every_setting_with_an_lm
    def test_advice_reaches_the_predictor_that_it_is_about(self, setting: Setting) -> None:
        def compile(program: Any, coach: FakeLM) -> Any:
            sizes: dict[str, Any] = {"bsize": 3, "num_candidates": 3, "max_steps": 1, "max_demos": 0}
            optimizer = dspy.SIMBA(metric=right, prompt_model=coach, num_threads=1, **sizes)
            return optimizer.compile(program, trainset=TRAIN[:3])

        run = compiled(setting, compile)
        # Three samples of three questions, then the candidates on them, and the winners on all.
        assert len(set(run.during.values())) == 1 and run.after == dict.fromkeys(run.lms, 1)
        assert all({*lm.rollouts[:9]} == {0, 1, 2} for lm in run.lms.values())
        hints = {
            (name, hint)
            for candidate in run.tuned.candidate_programs
            for name, predictor in candidate["program"].named_predictors()
            for hint in re.findall(r"Hint for ([\w.]+)\.", predictor.signature.instructions)
        }
        assert hints == {(name, name) for name, _ in run.tuned.named_predictors()}
        for given in seen_by_coach(run, "better_program_trajectory"):
            assert f"class {type(run.tuned).__name__}(" in given["program_code"]
            steps = re.findall(r'"module_name": "([\w.]+)"', given["better_program_trajectory"])
            said = re.findall(r'"reasoning": "(\w+) wrote this"', given["better_program_trajectory"])
            assert all(author in owner(setting, name) for name, author in zip(steps, said, strict=True))

    @every_setting_with_an_lm
    def test_demos_stand_with_the_predictor_that_wrote_them(self, setting: Setting) -> None:
        def compile(program: Any, coach: FakeLM) -> Any:
            sizes: dict[str, Any] = {"bsize": 2, "num_candidates": 2, "max_steps": 2, "max_demos": 2}
            optimizer = dspy.SIMBA(metric=right, prompt_model=coach, num_threads=1, **sizes)
            return optimizer.compile(program, trainset=TRAIN[:4], seed=1)

        run = compiled(setting, compile)
        assert run.has_own_demos() and run.after == dict.fromkeys(run.lms, 1)


class TestInferRules:
    @every_setting
    def test_each_candidate_has_its_own_rules_and_the_student_none(self, setting: Setting) -> None:
        def compile(program: Any, coach: FakeLM) -> Any:
            options: dict[str, Any] = {"num_candidates": 2, "num_threads": 1, "teacher_settings": {"lm": coach}}
            return dspy.InferRules(metric=right, **options, **SIZES).compile(program, trainset=TRAIN)

        run = compiled(setting, compile)
        # Bootstrapped on three questions; two candidates are evaluated on the other three.
        assert (run.during, run.after) == (dict.fromkeys(run.lms, 9), dict.fromkeys(run.lms, 1))
        assert all(text.count(TIP) == 1 for text in run.instructions.values()) and run.has_own_demos()

    def test_the_best_candidate_keeps_its_rules_when_a_worse_one_follows(self) -> None:
        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        rules = iter([TIP, TIP, TIP, "Guess.", "Guess.", "Guess."])
        teacher = FakeLM("teacher", lambda _: {"reasoning": "", "natural_language_rules": next(rules)})
        options: dict[str, Any] = {"num_threads": 1, "teacher_settings": {"lm": teacher}, "max_labeled_demos": 0}
        optimizer = dspy.InferRules(num_candidates=2, metric=right, max_bootstrapped_demos=1, **options)
        moa = Setting().program(lms)
        tuned: Any = optimizer.compile(moa, trainset=TRAIN[1:2], valset=TRAIN)
        assert all(predictor.signature.instructions.endswith(TIP) for predictor in tuned.predictors())
        assert not any(TIP in predictor.signature.instructions for predictor in moa.predictors())

    def test_a_signature_class_of_the_users_stays_as_it_is(self) -> None:
        class Mine(dspy.Signature):
            """Mine."""

            question: str = dspy.InputField()
            answer: str = dspy.OutputField()

        lms = {name: role(name) for name in ("ada", "bo", "judge")}
        proposers = [Agent(lms["ada"], dspy.Predict(Mine), name="ada"), Agent(lms["bo"], dspy.Predict(Mine), name="bo")]
        moa = MoA(Mine, proposers, lms["judge"])
        teacher = FakeLM("teacher", lambda _: {"reasoning": "", "natural_language_rules": TIP})
        options: dict[str, Any] = {"num_candidates": 1, "num_threads": 1, "teacher_settings": {"lm": teacher}}
        tuned: Any = dspy.InferRules(metric=right, **options, **SIZES).compile(moa, trainset=TRAIN)
        assert Mine.instructions == "Mine."
        assert all(predictor.signature.instructions.endswith(TIP) for predictor in tuned.predictors())
        assert len(set(calls(lms).values())) == 1
