import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.compiling import TRAIN, Task, coach, right, role
from support.fake_lm import FakeLM
from support.mixtures import calls

from moa_dspy import MoA, Selection
from moa_dspy.optimizers import (
    OPTIMIZERS,
    RECIPES,
    CompileInterrupted,
    Job,
    Recipe,
    Specialize,
    calls_per_answer,
    recipe,
    specialize_budget,
)

TINY = Recipe("tiny", "", evaluations=2, reflections=2, minibatch=2, candidates=2, trials=2, demos=1)


def cast() -> dict[str, FakeLM]:
    return {**{name: role(name) for name in ("ada", "bo", "judge")}, "coach": FakeLM("coach", coach)}


def student(lms: dict[str, FakeLM], **options: Any) -> MoA:
    return MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], **options)


def spent(name: Any, score: Any) -> tuple[int, int]:
    """Runs and reflections of one GEPA with a recipe's budget on four examples."""
    numbers = itertools.count()
    lm, reflecting = role("ada"), FakeLM("coach", lambda prompt: {"new_instruction": f"Try {next(numbers)}."})
    gepa = recipe(name).gepa(lambda gold, pred, *_: score(), reflecting, valset=4, threads=1)
    with dspy.context(lm=lm):
        gepa.compile(dspy.ChainOfThought(Task), trainset=TRAIN[:4], valset=TRAIN[:4])
    return lm.calls, reflecting.calls


@pytest.mark.parametrize("name", [*RECIPES[:2], pytest.param("thorough", marks=pytest.mark.slow)])
def test_gepa_takes_what_its_recipe_says(name: str) -> None:
    chosen = recipe(name)
    # Nothing is ever better: all that is left after the first evaluation goes into reflections.
    assert spent(name, lambda: 0.0)[1] == chosen.most_reflections(valset=4)
    # All is ever better: each reflection is followed by an evaluation.
    rising = itertools.count()
    runs, reflections = spent(name, lambda: next(rising) / 1e6)
    assert chosen.metric_calls(valset=4) <= runs <= chosen.most_runs(valset=4)
    assert reflections < chosen.most_reflections(valset=4)


def test_recipes_grow() -> None:
    sizes = [recipe(name).metric_calls(valset=30) for name in RECIPES]
    assert sizes == [126, 270, 770]
    assert all(recipe(name).about.endswith(("?", ".")) for name in RECIPES)
    assert recipe(TINY) is TINY


def test_an_unknown_recipe_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'big'\. Choose one of: quick, balanced, thorough"):
        recipe("big")


@pytest.mark.parametrize(
    "options",
    [{}, {"use_specialized_prompts": True}, {"num_proposals_per_model": 2}, {"strategy": Selection(rotations=2)}],
    ids=["shared", "specialized", "samples", "rotations"],
)
def test_specialize_stays_within_what_it_says(options: dict[str, Any]) -> None:
    lms = cast()
    job = Job(student(lms, **options), right, TINY, TRAIN, TRAIN[:4], lms["coach"], threads=2)
    budget = job.budget("specialize")
    report = job.run("specialize")[1]
    assert 0 < report.calls <= budget.agents and report.optimizer_calls <= budget.optimizer
    assert (report.calls, report.optimizer_calls) == (sum(calls(lms).values()) - lms["coach"].calls, lms["coach"].calls)


def test_the_formula_of_specialize_is_reached_but_for_the_last_round() -> None:
    numbers, rising = itertools.count(), itertools.count()
    lms = cast() | {"coach": FakeLM("coach", lambda prompt: {"new_instruction": f"Try {next(numbers)}."})}
    train, val = TRAIN[:4], TRAIN[4:]
    job = Job(student(lms), lambda *_: next(rising) / 1e6, TINY, train, val, lms["coach"], threads=1)
    report, budget = job.run("specialize")[1], job.budget("specialize")
    # Each of the three stages may end within a round, of two minibatches and an evaluation.
    assert budget.agents - 3 * (2 * 2 + 2) < report.calls <= budget.agents
    assert budget.formula == "2 proposers x (21 runs + 6 recorded) + aggregator 1 x 21"


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if name != "specialize"])
def test_the_others_stay_within_what_they_say(optimizer: str) -> None:
    if optimizer == "mipro":
        pytest.importorskip("optuna")
    lms = cast()
    moa = student(lms)
    job = Job(moa, right, TINY, TRAIN, TRAIN[:4], lms["coach"], threads=2)
    tuned, report = job.run(optimizer)
    budget = job.budget(optimizer)
    agents = sum(lms[name].calls for name in ("ada", "bo", "judge"))
    assert (report.calls, report.optimizer_calls) == (agents, lms["coach"].calls)
    assert agents <= budget.agents and report.optimizer_calls <= budget.optimizer
    assert report.stages[0].runs * calls_per_answer(moa) == agents
    assert tuned(question="q3").answer == "a3" and [part.demos for part in moa.predictors()] == [[], []]


def test_gepa_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    whole, lms = cast(), cast()
    good: Any = lms["judge"]._fake.answers
    left, gone = iter(range(9)), dspy.lm15.AuthError("sk-abcdefghijklmnop was revoked")
    lms["judge"] = FakeLM("judge", lambda prompt: good(prompt) if next(left, None) is not None else gone)
    job = Job(student(whole), right, TINY, TRAIN, TRAIN[:4], whole["coach"], threads=1)
    job.run("gepa")
    moa = student(lms)
    with pytest.raises(CompileInterrupted, match=r"^The compile failed: (?!.*sk-abc).*revoked"):
        replace(job, student=moa, reflection_lm=lms["coach"], checkpoint=tmp_path / "c").run("gepa")
    moa.aggregator.lm = role("judge")
    again = replace(job, student=moa, reflection_lm=lms["coach"], checkpoint=tmp_path / "c")
    assert again.kept == {"finished": [], "begun": ["gepa"]}
    asked = lms["ada"].calls
    tuned, report = again.run("gepa")
    assert report.stages[0].note == "resumed, earlier calls not counted" and tuned(question="q3").answer == "a3"
    assert lms["ada"].calls - asked < whole["ada"].calls
    with pytest.raises(ValueError, match="stages of another compile"):
        replace(again, seed=1).run("gepa")


def test_marginal_credit_is_budgeted_for_its_own_recording() -> None:
    lms = cast()
    optimizer = Specialize(right, recipe=TINY, reflection_lm=lms["coach"], credit="marginal", num_threads=2)
    optimizer.compile(student(lms), trainset=TRAIN, valset=TRAIN[:4])
    assert optimizer.report.stages[0].name == "first proposals"
    assert optimizer.report.calls <= specialize_budget(student(lms), TINY, 6, 4, "marginal").agents
