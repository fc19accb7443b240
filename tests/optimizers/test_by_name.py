import itertools
import signal
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.roles import TRAIN, Task, coach, right, role

from moa_dspy import MoA, Selection
from moa_dspy.optimizers import OPTIMIZERS, CompileInterrupted, Recipe, Specialize, build, split

TINY = Recipe("tiny", evaluations=2, reflections=2, minibatch=2, candidates=2, trials=2, demos=1)
JOINT = [name for name in OPTIMIZERS if name != "specialize"]


def cast(**others: Any) -> dict[str, FakeLM]:
    return {**{name: role(name) for name in ("ada", "bo", "judge")}, "coach": FakeLM("coach", coach), **others}


def student(lms: dict[str, FakeLM], **options: Any) -> MoA:
    return MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], **options)


def tiny(lms: dict[str, FakeLM], name: Any = "specialize", metric: Any = right, **settings: Any) -> Any:
    return build(name, metric, **{"recipe": TINY, "reflection_lm": lms["coach"], "num_threads": 2, **settings})


def spent(name: Any, score: Any) -> tuple[int, int]:
    """Runs and reflections of one GEPA with a recipe's budget on four examples."""
    numbers = itertools.count()
    lm, reflecting = role("ada"), FakeLM("coach", lambda prompt: {"new_instruction": f"Try {next(numbers)}."})
    gepa = Recipe.named(name).gepa(lambda gold, pred, *_: score(), reflecting, valset=4, num_threads=1)
    with dspy.context(lm=lm):
        gepa.compile(dspy.ChainOfThought(Task), trainset=TRAIN[:4], valset=TRAIN[:4])
    return lm.calls, reflecting.calls


@pytest.mark.parametrize("name", ["quick", "balanced", pytest.param("thorough", marks=pytest.mark.slow)])
def test_gepa_takes_what_its_recipe_says(name: str) -> None:
    chosen = Recipe.named(name)
    # Nothing is ever better: all that is left after the first evaluation goes into reflections.
    assert spent(name, lambda: 0.0)[1] == chosen.most_reflections(valset=4)
    # All is ever better: each reflection is followed by an evaluation.
    rising = itertools.count()
    runs, reflections = spent(name, lambda: next(rising) / 1e6)
    assert chosen.metric_calls(valset=4) <= runs <= chosen.most_runs(valset=4)
    assert reflections < chosen.most_reflections(valset=4)


def test_recipes_grow_and_an_unknown_one_is_refused() -> None:
    sizes = [Recipe.named(name).metric_calls(valset=30) for name in ("quick", "balanced", "thorough")]
    assert sizes == [126, 270, 770] and Recipe.named(TINY) is TINY
    with pytest.raises(ValueError, match=r"no recipe 'big'\. Choose one of: quick, balanced, thorough"):
        Recipe.named("big")


@pytest.mark.parametrize(
    "options",
    [{}, {"use_specialized_prompts": True}, {"num_proposals_per_model": 2}, {"strategy": Selection(rotations=2)}],
    ids=["shared", "specialized", "samples", "rotations"],
)
def test_specialize_stays_within_what_it_says(options: dict[str, Any]) -> None:
    lms = cast()
    optimizer, moa = tiny(lms), student(lms, **options)
    optimizer.compile(moa, trainset=TRAIN, valset=TRAIN[:4])
    budget, report = optimizer.budget(moa, 6, 4), optimizer.report
    assert 0 < report.calls <= budget.agents and report.optimizer_calls <= budget.optimizer
    assert (report.calls, report.optimizer_calls) == (sum(calls(lms).values()) - lms["coach"].calls, lms["coach"].calls)


def test_the_formula_of_specialize_is_reached_but_for_the_last_round() -> None:
    numbers, rising = itertools.count(), itertools.count()
    lms = cast(coach=FakeLM("coach", lambda prompt: {"new_instruction": f"Try {next(numbers)}."}))
    optimizer = tiny(lms, metric=lambda *_: next(rising) / 1e6, num_threads=1)
    optimizer.compile(student(lms), trainset=TRAIN[:4], valset=TRAIN[4:])
    budget = optimizer.budget(student(lms), 4, 2)
    # Each of the three stages may end within a round, of two minibatches and an evaluation.
    assert budget.agents - 3 * (2 * 2 + 2) < optimizer.report.calls <= budget.agents
    assert budget.formula == "2 proposers x (21 runs + 6 recorded) + aggregator 1 x 21"


@pytest.mark.parametrize("name", JOINT)
def test_the_others_stay_within_what_they_say(name: str) -> None:
    if name == "mipro":
        pytest.importorskip("optuna")
    lms = cast()
    moa, optimizer = student(lms), tiny(lms, name)
    tuned = optimizer.compile(moa, trainset=TRAIN, valset=TRAIN[:4])
    budget, report = optimizer.budget(moa, 6, 4), optimizer.report
    agents = sum(lms[who].calls for who in ("ada", "bo", "judge"))
    assert (report.calls, report.optimizer_calls) == (agents, lms["coach"].calls)
    assert agents <= budget.agents and report.optimizer_calls <= budget.optimizer
    assert report.stages[0].runs * 3 == agents
    assert tuned(question="q3").answer == "a3" and [part.demos for part in moa.predictors()] == [[], []]


@pytest.mark.parametrize("name", ["gepa", "bootstrap"])
def test_an_interrupt_cuts_nothing_short_and_begins_no_further_call(name: str) -> None:
    lms, done = cast(), list[int]()

    def interrupted(gold: Any, pred: Any, trace: Any = None, *_: Any) -> bool:
        if len(done) == 2:
            signal.raise_signal(signal.SIGINT)  # as it may come while a lock of tqdm's is held
        done.append(sum(calls(lms).values()))
        return right(gold, pred)

    sets: Any = {"trainset": TRAIN, "valset": TRAIN[:4]}
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tiny(lms, name, interrupted, num_threads=1).compile(student(lms), **sets)
    assert len(done) == 3 and sum(calls(lms).values()) == done[-1] and signal.getsignal(signal.SIGINT) is before
    assert tiny(lms, name).compile(student(lms), **sets)(question="q3").answer == "a3"


def test_gepa_goes_on_where_it_was_cut_short(tmp_path: Path) -> None:
    whole, lms = cast(), cast()
    good: Any = lms["judge"]._fake.answers
    left, gone = iter(range(9)), dspy.lm15.AuthError("sk-abcdefghijklmnop was revoked")
    lms["judge"] = FakeLM("judge", lambda prompt: good(prompt) if next(left, None) is not None else gone)
    sets: Any = {"trainset": TRAIN, "valset": TRAIN[:4]}
    tiny(whole, "gepa", num_threads=1).compile(student(whole), **sets)
    moa, kept = student(lms), {"num_threads": 1, "checkpoint": tmp_path / "c"}
    with pytest.raises(CompileInterrupted, match=r"^The stage mixture failed: (?!.*sk-abc).*revoked"):
        tiny(lms, "gepa", **kept).compile(moa, **sets)
    moa.aggregator.lm = role("judge")
    asked, again = lms["ada"].calls, tiny(lms, "gepa", **kept)
    tuned = again.compile(moa, **sets)
    assert again.report.stages[0].note == "resumed, earlier calls not counted" and tuned(question="q3").answer == "a3"
    assert lms["ada"].calls - asked < whole["ada"].calls
    with pytest.raises(ValueError, match="stages of another compile"):
        tiny(lms, "gepa", seed=1, **kept).compile(moa, **sets)


def test_names_and_packages_are_checked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    lms = cast()
    with pytest.raises(ValueError, match=r"no optimizer 'best'\. Choose one of: specialize, gepa, bootstrap, mipro"):
        tiny(lms, "best")
    mipro = dspy.MIPROv2(right, prompt_model=lms["coach"], task_model=lms["coach"])
    monkeypatch.setattr("moa_dspy.optimizers.examples.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="mipro needs optuna, which is not installed: pip install optuna"):
        tiny(lms, "mipro")
    with pytest.raises(ValueError, match="MIPROv2 needs optuna"):
        Specialize(right, optimizer=mipro)
    assert sum(calls(lms).values()) == 0


def test_a_split_is_of_all_examples_and_the_same_for_the_same_seed() -> None:
    rows = [dspy.Example(question=f"q{n}") for n in range(20)]
    parts = split(rows, heldout=0.25, seed=1)
    assert [len(part) for part in parts] == [7, 8, 5] and parts == split(rows, heldout=0.25, seed=1)
    assert sorted(row.question for part in parts for row in part) == sorted(row.question for row in rows)
    with pytest.raises(ValueError, match="2 examples are too few: with 1 held back"):
        split(rows[:2])
