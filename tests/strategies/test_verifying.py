from typing import Any

import dspy
import pytest
from support.cases import blocks, mixture_of, told
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways

from moa_dspy import Agent, MoA, Selection

QA = "question -> answer"
ANSWERS: list[dict[str, Any]] = [{"answer": "one"}, {"answer": "three"}, {"answer": "three"}, {"answer": "seven"}]


def length(example: Any, prediction: Any) -> int:
    assert example.inputs().toDict() == {"question": "why?"}
    return len(prediction.answer)


@both_ways
def test_the_best_score_is_the_answer_without_a_call(ask: Ask) -> None:
    pred = ask(mixture_of(QA, ANSWERS[:3], None, strategy=Selection(verifiers=[length])), question="why?")
    assert (pred.answer, pred.metadata.selected, pred.metadata.usage.calls) == ("three", "m1", 3)
    assert pred.metadata.scores == {"m0": 3.0, "m1": 5.0, "m2": 5.0}


def test_the_aggregator_chooses_among_the_best() -> None:
    judge = FakeLM("judge", [{"reasoning": "so", "choice": "P1"}])
    pred = mixture_of(QA, ANSWERS, judge, strategy=Selection(verifiers=[length]))(question="why?")
    assert pred.answer in ("three", "seven")
    assert {block.fields["answer"] for block in blocks(told(judge)["proposals"]).values()} == {"three", "seven"}
    alone = mixture_of(QA, ANSWERS, None, strategy=Selection(verifiers=[length]))(question="why?")
    assert alone.answer == "three"  # which more proposals say


def test_scores_are_weighed() -> None:
    weighed = Selection(
        verifiers=[length, lambda example, prediction: -len(prediction.answer)], verifier_weights=[1, 2]
    )
    pred = mixture_of(QA, ANSWERS[:2], None, strategy=weighed)(question="why?")
    assert (pred.answer, pred.metadata.scores) == ("one", {"m0": -1.0, "m1": pytest.approx(-5 / 3)})


def test_a_verifier_that_fails_says_nothing_and_is_told() -> None:
    def strict(example: Any, prediction: Any) -> bool:
        if prediction.answer == "three":
            raise RuntimeError("cannot tell")
        return True

    pred = mixture_of(QA, ANSWERS[:2], None, strategy=Selection(verifiers=[strict]))(question="why?")
    assert (pred.answer, pred.metadata.scores) == ("one", {"m0": 1.0})
    assert [(one.error, one.message) for one in pred.metadata.failures] == [("RuntimeError", "cannot tell")]


def test_a_model_does_not_judge_its_own_proposal_and_is_billed_for_others() -> None:
    judge = FakeLM("fake/a", [{"score": "0.9"}])
    verifier = Agent(judge, name="scorer", program=dspy.Predict("question, answer -> score: float"))
    a, b = (FakeLM(f"fake/{name}", [{"reasoning": "r", "answer": name}]) for name in "ab")
    moa = MoA(QA, [a, b], strategy=Selection(verifiers=[verifier]))
    pred = moa(question="why?")
    assert (pred.answer, list(pred.metadata.scores.values()), pred.metadata.usage.calls) == ("b", [0.9], 3)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"verifiers": [3]}, "3 cannot be called"),
        ({"verifiers": [length], "verifier_weights": [0]}, "do not weigh 1"),
        ({"verifiers": [length], "verifier_weights": [1, 1]}, "do not weigh 1"),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        Selection(**given)


def test_fields_named_as_parameters_are_data_for_a_verifier_too() -> None:
    strategy = Selection(verifiers=[lambda example, prediction: prediction["base"] == "C"])
    pred = mixture_of("question -> base", [{"base": "A"}, {"base": "C"}], None, strategy=strategy)(question="why?")
    assert pred["base"] == "C"
