from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from support.compiling import TRAIN, Compile, Setting, compiled, never, right

SIZES: Mapping[str, Any] = {"max_bootstrapped_demos": 2, "max_labeled_demos": 2}


def gepa(program: Any, coach: Any) -> Any:
    def metric(example: Any, prediction: Any, trace: Any = None, name: Any = None, steps: Any = None) -> Any:
        return dspy.Prediction(score=float(right(example, prediction)), feedback="Wrong.")

    return dspy.GEPA(metric, reflection_lm=coach, num_threads=1, max_metric_calls=30).compile(program, trainset=TRAIN)


def miprov2(program: Any, coach: Any) -> Any:
    pytest.importorskip("optuna")
    options: dict[str, Any] = {
        "prompt_model": coach,
        "task_model": coach,
        "auto": None,
        "num_candidates": 3,
        "num_threads": 1,
    }
    optimizer = dspy.MIPROv2(right, **options, **SIZES)
    return optimizer.compile(program, trainset=TRAIN[:3], valset=TRAIN[:2], num_trials=2, minibatch=False)


def copro(program: Any, coach: Any) -> Any:
    optimizer = dspy.COPRO(prompt_model=coach, metric=right, breadth=2, depth=1)
    return optimizer.compile(program, trainset=TRAIN[:2], eval_kwargs={"num_threads": 1})


def simba(program: Any, coach: Any) -> Any:
    sizes: dict[str, Any] = {"bsize": 3, "num_candidates": 3, "max_steps": 1, "max_demos": 2}
    return dspy.SIMBA(metric=right, prompt_model=coach, num_threads=1, **sizes).compile(program, trainset=TRAIN)


def infer_rules(program: Any, coach: Any) -> Any:
    options: dict[str, Any] = {"num_candidates": 1, "num_threads": 1, "teacher_settings": {"lm": coach}}
    return dspy.InferRules(metric=right, **options, **SIZES).compile(program, trainset=TRAIN)


def bootstrap(program: Any, coach: Any) -> Any:
    return dspy.BootstrapFewShot(metric=right, **SIZES).compile(program, trainset=TRAIN)


def best_of_n(program: Any, coach: Any) -> Any:
    return dspy.BestOfN(program, N=2, reward_fn=never, threshold=1.0)


QUICK = {("selection", gepa), ("voting", bootstrap), ("fusion", miprov2)}
OPTIMIZERS: tuple[Any, ...] = (bootstrap, miprov2, copro, gepa, simba, infer_rules, best_of_n)
CASES = [
    pytest.param(name, make, id=f"{name}-{make.__name__}", marks=[] if (name, make) in QUICK else pytest.mark.slow)
    for name in ("selection", "voting", "fusion")
    for make in OPTIMIZERS
]


@pytest.mark.parametrize("specialized", [False, True], ids=["shared", "specialized"])
@pytest.mark.parametrize(("strategy", "compile"), CASES)
def test_every_strategy_compiles_with_own_lms_and_the_same_way_twice(
    strategy: Any, compile: Compile, specialized: bool
) -> None:
    run = compiled(Setting(specialized), compile, strategy=strategy)
    assert run.during["ada"] == run.during["bo"] >= run.during["judge"]
    assert run.after["ada"] == run.after["bo"] == (2 if compile is best_of_n else 1) >= run.after["judge"]
    demos = {name: authors for name, authors in run.authors.items() if authors}
    assert all(authors == {"judge"} for name, authors in demos.items() if "aggregator" in name)
    assert all("judge" not in authors for name, authors in demos.items() if "aggregator" not in name)
