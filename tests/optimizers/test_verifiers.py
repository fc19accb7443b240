"""Verifiers weighed by what they got right on recorded proposals."""

from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA
from support.voters import examples, voters

from moa_dspy import Agent, MoA, Selection, record
from moa_dspy.optimizers import FitVoteWeights

GOLD = ["0"] * 40
PANEL = {"ada": GOLD, "bo": ["1"] * 30 + ["0"] * 10}


def likes_right(example: Any, prediction: Any) -> bool:
    return bool(prediction.answer == "0")


def likes_wrong(example: Any, prediction: Any) -> float:
    """On a larger scale, so that it decides where scores are merely added."""
    return 100.0 * (prediction.answer == "1")


def says_nothing(example: Any, prediction: Any) -> float:
    raise RuntimeError("cannot tell")


def fit(*verifiers: Any, panel: Any = PANEL, gold: Any = GOLD, **settings: Any) -> tuple[Any, Any, Any]:
    """The student, what is compiled on its recording, and the report."""
    moa, _ = voters(panel, strategy=Selection(verifiers=verifiers))
    optimizer = FitVoteWeights("exact")
    recorded = record(moa, examples(gold), strategies=[])
    return moa, optimizer.compile(moa, trainset=examples(gold), recorded=recorded, **settings), optimizer.report


def test_who_orders_right_before_wrong_counts_and_others_do_not() -> None:
    moa, compiled, report = fit(likes_right, likes_wrong, says_nothing)
    assert (moa(question="q0").answer, compiled(question="q0").answer) == ("1", "0")
    assert [(row.agent, row.right, row.votes, row.weight > 0) for row in report.agents] == [
        ("likes_right", 30, 30, True),
        ("likes_wrong", 0, 30, False),
        ("says_nothing", 0, 0, False),
    ]
    assert (report.before, report.after, report.kept, report.usage.calls) == (0.25, 1.0, True, 80)
    assert compiled.strategy.verifier_weights == [row.weight for row in report.agents]
    assert moa.strategy.verifier_weights == [1, 1, 1]


def test_weights_that_choose_worse_on_a_valset_are_not_kept() -> None:
    _, compiled, report = fit(likes_right, likes_wrong, valset=[dspy.Example(question="q0", answer="1")])
    assert (report.before, report.after, report.kept) == (1.0, 0.0, False)
    assert compiled.strategy.verifier_weights == [1, 1]


def test_a_judges_calls_are_in_the_account_and_its_weight_is_saved(tmp_path: Any) -> None:
    judge = Agent(FakeLM("judge", lambda prompt: {"score": "0.5"}), dspy.Predict("question, answer -> score: float"))
    _, compiled, report = fit(likes_right, judge, panel={"ada": GOLD, "bo": ["1"] * 40})
    assert report.usage.calls == 80 + 80 and [row.agent for row in report.agents] == ["likes_right", "judge"]
    compiled.save(tmp_path / "moa.json")
    fresh: Any = voters(PANEL, strategy=Selection(verifiers=[likes_right, judge]))[0]
    fresh.load(tmp_path / "moa.json")
    assert fresh.strategy.verifier_weights == compiled.strategy.verifier_weights != [1, 1]


def test_a_selection_without_verifiers_has_nothing_to_weigh() -> None:
    moa = MoA(QA, [FakeLM("a", [])], FakeLM("judge", []), Selection())
    with pytest.raises(ValueError, match=r"counts no votes and has no verifiers.*Selection\(verifiers="):
        FitVoteWeights("exact").compile(moa, trainset=examples(GOLD))
