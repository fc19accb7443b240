import logging
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from support.roles import TRAIN, Task, right, role

from moa_dspy import MoA
from moa_dspy.optimizers import FitVoteWeights, SelectCommittee, Specialize, diagnose

Compile = Callable[[MoA, Any, Any], Any]


def specialize(moa: MoA, metric: Any, examples: Any) -> MoA:
    inner = dspy.BootstrapFewShot(max_bootstrapped_demos=1, max_labeled_demos=0)
    return Specialize(metric, optimizer=inner).compile(moa, trainset=examples)


TRAINS: dict[str, Compile] = {
    "Specialize": specialize,
    "FitVoteWeights": lambda moa, metric, examples: FitVoteWeights(metric).compile(moa, trainset=examples),
    "SelectCommittee": lambda moa, metric, examples: SelectCommittee(metric).compile(moa, trainset=examples),
    "diagnose": lambda moa, metric, examples: diagnose(moa, examples, metric),
}


def voters() -> tuple[MoA, dict[str, Any]]:
    lms = {name: role(name) for name in ("ada", "bo")}
    return MoA(Task, list(lms.values()), strategy="voting"), lms


def gepas(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Any:
    return dspy.Prediction(score=right(gold, pred), feedback="So it is.")


@pytest.mark.parametrize("name", TRAINS)
def test_inputs_need_not_be_named_and_any_iterable_serves(name: str) -> None:
    moa, lms = voters()
    TRAINS[name](moa, "exact", (dspy.Example(question=f"q{n}", answer=f"a{n}", kind="?") for n in range(4)))
    assert all(lm.calls >= 4 for lm in lms.values())


@pytest.mark.parametrize("name", TRAINS)
def test_a_metric_that_gepa_takes_serves_all(name: str) -> None:
    moa, _ = voters()
    assert TRAINS[name](moa, gepas, TRAIN) is not None


@pytest.mark.parametrize("optimizer", [FitVoteWeights(right), SelectCommittee(right)], ids=["weights", "committee"])
def test_a_valset_that_was_learned_from_is_told(optimizer: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="moa_dspy"):
        optimizer.compile(voters()[0], trainset=TRAIN[:4], valset=TRAIN[4:])
        assert not caplog.messages
        optimizer.compile(voters()[0], trainset=TRAIN[:4], valset=TRAIN[2:])
    assert [message.partition(":")[0] for message in caplog.messages] == [
        "2 of 4 examples of the valset stand in the trainset too"
    ]
