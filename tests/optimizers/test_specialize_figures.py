"""The gain that tests/bench/specialize.py measures, once and small: SIMULATED models, who need different prompts."""

import random
from statistics import mean
from typing import Any

import dspy

from moa_dspy import MoA
from moa_dspy.optimizers import Specialize
from moa_dspy.simulated import simulated_lm
from moa_dspy.simulated.questions import bundled_questions

QUESTIONS = bundled_questions()
random.Random(0).shuffle(QUESTIONS)
TRAIN, VAL, HELD = QUESTIONS[:24], QUESTIONS[24:54], QUESTIONS[54:]


def mixture() -> MoA:
    return MoA("question -> answer", [f"simulated/{name}" for name in ("alice", "bob", "carol")], "simulated/judge")


def scores(moa: MoA) -> tuple[float, float]:
    """The share of right answers of the mixture, and of its proposers, on questions that no optimizer saw."""
    answers = [(example.answer, moa(question=example.question)) for example in HELD]
    proposals = [proposal.outputs["answer"] == right for right, pred in answers for proposal in pred.proposals]
    return mean(pred.answer == right for right, pred in answers), mean(proposals)


def told_what_is_right(gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
    right = float(pred.answer == gold.answer)
    said = f"Score {right:g}. Right would be answer: {gold.answer}. Given was answer: {pred.answer}."
    return right if pred_name is None else dspy.Prediction(score=right, feedback=said)


def test_a_prompt_per_model_ends_higher_than_a_shared_one_for_the_same_calls() -> None:
    optimizer = Specialize("exact", recipe="quick", seed=1)
    staged = optimizer.compile(mixture(), trainset=TRAIN, valset=VAL)
    gepa: Any = dspy.GEPA(
        metric=told_what_is_right,
        max_metric_calls=optimizer.report.calls // 4,
        reflection_lm=simulated_lm("judge"),
        num_threads=2,
        seed=1,
    )
    shared = gepa.compile(mixture(), trainset=TRAIN, valset=VAL)
    start, jointly, by_stages = scores(mixture()), scores(shared), scores(staged)
    assert start[0] <= jointly[0] < by_stages[0] and start[1] <= jointly[1] < by_stages[1] - 0.05
    assert optimizer.report.calls < 1000 and optimizer.report.joint_calls > 3 * optimizer.report.calls
