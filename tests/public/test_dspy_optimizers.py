"""Every DSPy optimizer compiles a mixture: each role keeps its own LM and is sent its own prompt, demos stand with the
predictor that wrote them, and the student stays as it is."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.teleprompt import BootstrapFewShotWithOptuna
from dspy.teleprompt.reanchor import ReAnchor
from support.fake_lm import FakeLM
from support.mixtures import calls, question
from support.roles import TRAIN, School, Task, coach, never, right, role, student

from moa_dspy import Agent, MoA
from moa_dspy.optimizers import tune_weights

ROLES = {"ada": "ada", "bo": "bo", "judge": "aggregator"}  # model -> agent
SIZES: dict[str, Any] = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}


class Even(dspy.Signature):
    """Is the number even?"""

    question: str = dspy.InputField()
    even: bool = dspy.OutputField(desc="whether the number is even")


def gepa(writer: FakeLM, program: Any) -> Any:
    def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None) -> Any:
        assert prediction.metadata.usage.calls == 3
        return dspy.Prediction(score=float(right(example, prediction)), feedback="Wrong.")

    return dspy.GEPA(metric, reflection_lm=writer, num_threads=1, max_metric_calls=30).compile(program, trainset=TRAIN)


def knn(writer: FakeLM, program: Any) -> Any:
    embedder = dspy.Embedder(lambda texts: np.array([[1.0, float(text[-1])] for text in texts]))
    options: dict[str, Any] = {"metric": right, "max_bootstrapped_demos": 1, "max_labeled_demos": 1}
    return dspy.KNNFewShot(k=2, trainset=TRAIN, vectorizer=embedder, **options).compile(program)


def mipro(writer: FakeLM, program: Any) -> Any:
    pytest.importorskip("optuna")
    models: dict[str, Any] = {"prompt_model": writer, "task_model": FakeLM("task", [])}
    optimizer = dspy.MIPROv2(right, **models, auto=None, num_candidates=3, num_threads=1, **SIZES)
    return optimizer.compile(program, trainset=TRAIN[:3], valset=TRAIN[:2], num_trials=2, minibatch=False)


def optuna(writer: FakeLM, program: Any) -> Any:
    pytest.importorskip("optuna")
    optimizer = BootstrapFewShotWithOptuna(metric=right, num_candidate_programs=2, num_threads=1, **SIZES)
    return optimizer.compile(program, trainset=TRAIN, max_demos=2)


def simba(writer: FakeLM, program: Any) -> Any:
    sizes: dict[str, Any] = {"bsize": 3, "num_candidates": 3, "max_steps": 1, "max_demos": 2}
    return dspy.SIMBA(metric=right, prompt_model=writer, num_threads=1, **sizes).compile(program, trainset=TRAIN)


def random_search(writer: FakeLM, program: Any) -> Any:
    optimizer = dspy.BootstrapFewShotWithRandomSearch(right, num_candidate_programs=1, num_threads=4, **SIZES)
    return optimizer.compile(program, trainset=TRAIN)


def infer_rules(writer: FakeLM, program: Any) -> Any:
    options: dict[str, Any] = {"num_candidates": 1, "num_threads": 1, "teacher_settings": {"lm": writer}}
    return dspy.InferRules(metric=right, **options, **SIZES).compile(program, trainset=TRAIN)


def copro(writer: FakeLM, program: Any) -> Any:
    optimizer = dspy.COPRO(prompt_model=writer, metric=right, breadth=2, depth=1)
    return optimizer.compile(program, trainset=TRAIN[:2], eval_kwargs={"num_threads": 1})


Compile = Callable[[FakeLM, Any], Any]
# The optimizer, calls of each role for one answer afterwards, whether it bootstraps demos into every predictor.
OPTIMIZERS: dict[str, tuple[Compile, int, bool]] = {
    "LabeledFewShot": (lambda _, program: dspy.LabeledFewShot(k=2).compile(program, trainset=TRAIN), 1, False),
    "BootstrapFewShot": (lambda _, p: dspy.BootstrapFewShot(metric=right, **SIZES).compile(p, trainset=TRAIN), 1, True),
    "RandomSearch": (random_search, 1, True),
    "Optuna": (optuna, 1, True),
    "KNNFewShot": (knn, 3, False),
    "MIPROv2": (mipro, 1, False),
    "COPRO": (copro, 1, False),
    "GEPA": (gepa, 1, False),
    "SIMBA": (simba, 1, False),
    "InferRules": (infer_rules, 1, True),
    "Ensemble": (lambda _, p: dspy.Ensemble(reduce_fn=dspy.majority).compile([p, p.deepcopy()]), 2, False),
    "BestOfN": (lambda _, p: dspy.BestOfN(p, N=3, reward_fn=never, threshold=1.0), 3, False),
}


def portrait(program: Any) -> Any:
    """What compiling must not touch."""
    prompts = [
        (name, part.signature.instructions, list(part.demos), part.lm) for name, part in program.named_predictors()
    ]
    return prompts, [agent.lm for agent in getattr(program, "moa", program).agents]


def authors(program: Any) -> dict[str, set[str]]:
    """Predictor -> who wrote the demos that were bootstrapped for it."""
    found = {}
    for name, part in program.named_predictors():
        written = {demo["reasoning"].split()[0] for demo in part.demos if "augmented" in demo}
        found[name] = written
    return found


def may_write(predictor: str, specialized: bool) -> set[str]:
    if "aggregator" in predictor:
        return {"judge"}
    return {name for name in ("ada", "bo") if not specialized or name in predictor.split(".")}


def check_prompts(lms: Mapping[str, FakeLM], specialized: bool) -> None:
    """Every model was sent its own role's prompts only, with its own demos."""
    for name, lm in lms.items():
        others = ({*lms} if specialized else {"judge", name}) - {name}
        for prompt in lm.prompts:
            assert ("[[ ## proposals ## ]]" in prompt) == (name == "judge")
            if name != "judge":
                assert (f"You are {name}." in prompt) == specialized
                assert not any(f"{other} wrote this" in prompt for other in others)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize(("specialized", "nested"), [(True, False), (False, True)], ids=["specialized", "nested"])
def test_each_role_keeps_its_lm_its_prompt_and_its_demos(name: str, specialized: bool, nested: bool) -> None:
    compile, per_answer, bootstraps = OPTIMIZERS[name]
    lms = {model: role(model) for model in ROLES}
    program = student(lms, specialized, nested)
    before, signature = portrait(program), str(Task)
    with dspy.context(lm=FakeLM("stray", [])):  # it has no answer: a call fails the test
        tuned = compile(FakeLM("coach", coach), program)
        during = calls(lms)
        assert tuned(question="q2").answer == "a2"
    assert {model: lm.calls - during[model] for model, lm in lms.items()} == dict.fromkeys(ROLES, per_answer)
    assert (portrait(program), str(Task)) == (before, signature)
    check_prompts(lms, specialized)
    written = authors(tuned)
    assert all(found <= may_write(predictor, specialized) for predictor, found in written.items())
    assert not bootstraps or all(written.values())


@pytest.mark.parametrize("wrapped", [False, True], ids=["moa", "outer"])
def test_refine_gives_each_predictor_the_advice_meant_for_it(wrapped: bool) -> None:
    lms = {model: role(model) for model in ROLES}
    with dspy.context(lm=FakeLM("adviser", coach)):
        dspy.Refine(student(lms, True, wrapped), N=2, reward_fn=never, threshold=1.0)(question="q1")
    hints = {name: [re.findall(r"Hint for ([\w.]+)\.", prompt) for prompt in lm.prompts] for name, lm in lms.items()}
    for name, (first, [hint]) in hints.items():
        assert first == [] and ROLES[name] in hint.split(".")
    assert all(lm.rollouts == [0, 1] for lm in lms.values())


def test_gepa_tells_the_predictors_of_one_task_apart() -> None:
    """Reflection on a predictor sees what that one said, in mixtures inside too."""
    lms = {name: role(name) for name in ("ada", "bo", "cy", "chief", "judge")}
    inner = MoA(Task, [lms["cy"]], lms["chief"])
    programs = [Agent(lms[name], dspy.ChainOfThought(Task), name=name) for name in ("ada", "bo")]
    found: set[tuple[str, str]] = set()

    def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None) -> Any:
        found.update((name, step[2].reasoning.split()[0]) for step in steps or [])
        return dspy.Prediction(score=0.0, feedback="Wrong.")

    reflection = FakeLM("coach", lambda prompt: {"new_instruction": f"Better than after {reflection.calls} calls."})
    budget: dict[str, Any] = {"max_metric_calls": 40, "reflection_minibatch_size": 2}
    moa = MoA(Task, [*programs, Agent(program=inner, name="inner")], lms["judge"])
    dspy.GEPA(metric, reflection_lm=reflection, num_threads=1, **budget).compile(moa, trainset=TRAIN)
    assert len(found) == len(moa.predictors()) == 5 and {author for _, author in found} == {*lms}
    owners = {author: name for name, author in found}
    assert ".ada." in owners["ada"] and ".bo." in owners["bo"] and owners["judge"].startswith("aggregator")
    assert ".inner." in owners["cy"] and ".inner." in owners["chief"] and "aggregator" in owners["chief"]


def test_a_teacher_is_another_mixture() -> None:
    lms = {model: role(model) for model in ROLES}
    teachers = {model: role(f"old_{model}") for model in ROLES}
    teacher = student(teachers, True, False)
    tuned = dspy.BootstrapFewShot(metric=right, **SIZES).compile(
        student(lms, True, False), teacher=teacher, trainset=TRAIN
    )
    assert calls(lms) == dict.fromkeys(ROLES, 0) and {lm.calls for lm in teachers.values()} == {3}
    assert {author for found in authors(tuned).values() for author in found} == {f"old_{model}" for model in ROLES}


def test_reanchor_fits_the_predictor_that_decides(cached: None) -> None:
    def timid(name: str) -> FakeLM:
        def answer(prompt: str) -> Mapping[str, Any]:
            probability = 0.1 if int(question(prompt).removeprefix("q")) % 2 else 0.4
            return {"reasoning": "so", "even": {"noul": probability} if "noul" in prompt else False}

        return FakeLM(name, answer, cache=True)

    lms = {model: timid(model) for model in ROLES}
    moa = MoA(Even, [lms["ada"], lms["bo"]], lms["judge"])
    train = [dspy.Example(question=f"q{n}", even=n % 2 == 0).with_inputs("question") for n in range(6)]
    with dspy.context(lm=FakeLM("stray", [], cache=True)):
        even: Any = lambda example, prediction, trace=None: prediction.even == example.even  # noqa: E731
        tuned: Any = ReAnchor(even, num_threads=1).compile(moa, trainset=train)
        assert [tuned(question=f"q{n}").even for n in range(6)] == [True, False] * 3


# Weights.


@pytest.mark.parametrize("nested", [False, True], ids=["moa", "outer"])
def test_tune_weights_trains_each_model_and_puts_it_in_its_own_place(nested: bool) -> None:
    school = School()
    lms = {model: role(model, provider=school) for model in ROLES}
    program = student(lms, True, nested)
    optimizer = dspy.BootstrapFinetune(metric=right, num_threads=3)
    with dspy.context(lm=FakeLM("stray", [])):
        tuned = tune_weights(program, optimizer, trainset=TRAIN)
    assert school.authors == {model: {*ROLES} for model in ROLES}
    models = [[agent.model for agent in getattr(p, "moa", p).agents] for p in (program, tuned)]
    assert models == [[*ROLES], [f"{model}+" for model in ROLES]]
    assert {part.lm for part in tuned.predictors()} == {None} and calls(lms) == dict.fromkeys(ROLES, 6)


def test_better_together_tunes_prompts_and_weights_in_turn() -> None:
    school = School()
    lms = {model: role(model, provider=school) for model in ROLES}
    prompts = dspy.BootstrapFewShot(metric=right, max_bootstrapped_demos=1, max_labeled_demos=0)
    weights = dspy.BootstrapFinetune(metric=right, num_threads=3)
    optimizer = dspy.BetterTogether(metric=right, p=prompts, w=weights)
    options: dict[str, Any] = {"valset": TRAIN[1:2], "strategy": "p -> w", "num_threads": 1, "seed": 0}
    with dspy.context(lm=FakeLM("stray", [])):
        tuned: Any = tune_weights(student(lms, True, False), optimizer, trainset=TRAIN, **options)
    assert not tuned.flag_compilation_error_occurred and school.authors == {model: {*ROLES} for model in ROLES}
    assert {c["strategy"]: c["score"] for c in tuned.candidate_programs} == {"": 0.0, "p": 100.0, "p -> w": 100.0}


@pytest.mark.parametrize(
    ("options", "multitask", "words"),
    [
        ({"use_specialized_prompts": False}, True, "use_specialized_prompts"),
        ({}, False, "multitask=False takes the n-th step.*multitask=True"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_asked(options: Any, multitask: bool, words: str) -> None:
    lms = {model: role(model, provider=School()) for model in ROLES}
    moa = MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], **{"use_specialized_prompts": True, **options})
    with pytest.raises(ValueError, match=f"(?s){words}"):
        tune_weights(moa, dspy.BootstrapFinetune(metric=right, multitask=multitask), trainset=TRAIN)
    assert calls(lms) == dict.fromkeys(ROLES, 0)
