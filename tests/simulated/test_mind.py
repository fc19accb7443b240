from collections import Counter
from typing import Any

import dspy
import pytest

from moa_dspy import MoA
from moa_dspy.simulated import SimulatedLM, SimulatedModel, simulated_lm
from moa_dspy.simulated.questions import KINDS, bundled_questions

PROPOSERS = ("alice", "bob", "carol", "dave")
TURKEY = "What is the capital of Turkey?"


def model(skill: float = 1.0, **numbers: Any) -> SimulatedLM:
    return SimulatedLM("m", SimulatedModel("m", dict.fromkeys(KINDS, skill), **numbers))


def score(lm: dspy.LM, kind: str, instructions: str = "Answer.", demos: int = 0, wrong: bool = False) -> int:
    """How many of the 20 questions of a kind are answered rightly."""
    examples = [example for example in bundled_questions() if example.kind == kind]
    predict: Any = dspy.Predict("question -> answer")
    predict.signature = predict.signature.with_instructions(instructions)
    predict.demos = [example.copy(answer="?") if wrong else example for example in examples[:demos]]
    with dspy.context(lm=lm):
        return sum(predict(question=example.question).answer == example.answer for example in examples)


def test_the_named_models_know_what_their_skills_say_and_together_nearly_all() -> None:
    right = {name: [simulated_lm(name)(e.question) == [e.answer] for e in bundled_questions()] for name in PROPOSERS}
    assert {name: sum(known) for name, known in right.items()} == {"alice": 85, "bob": 81, "carol": 84, "dave": 86}
    assert sum(map(any, zip(*right.values(), strict=True))) == 118


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"skills": {"dates": 1.2}}, r"skills.dates\n  Input should be less than or equal to 1 .*input_value=1.2"),
        ({"skills": {"poetry": 0.5}}, "No question is of the kind poetry; the kinds are arithmetic, ordering"),
        ({"price": (1.0, -2.0)}, r"price.1\n  Input should be greater than or equal to 0"),
    ],
)
def test_numbers_that_cannot_be_are_refused(numbers: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SimulatedModel(**{"name": "x", **numbers})


def test_a_model_without_skill_makes_the_popular_mistakes() -> None:
    ignorant = [SimulatedModel(f"m{n}", {"geography": 0.0}) for n in range(200)]
    said = Counter(SimulatedLM(profile.name, profile)(TURKEY)[0] for profile in ignorant)
    assert said == {"Istanbul": 147, "Bursa": 31, "Izmir": 22}


def test_what_it_does_not_know_does_not_count_in_a_vote() -> None:
    voting = MoA("question -> answer", ["simulated/alice", "simulated/bob", Sure()], strategy="voting")
    pred = voting(question="Why is the sky blue?")
    assert pred.answer == "Rayleigh" and pred.metadata.agreement == pytest.approx(1 / 3)


class Sure(dspy.Module):
    def forward(self, question: str) -> dspy.Prediction:
        return dspy.Prediction(answer="Rayleigh")


def test_hints_in_the_instructions_change_the_skill() -> None:
    lm = model(0.4, hints={"dates": {"count month by month": 0.5, "hurry up": -0.4}})
    said = ("Answer.", "Count, month-by-month!", "Hurry up.")
    assert [score(lm, "dates", text) for text in said] == [10, 19, 0]
    assert score(lm, "units", said[1]) == score(lm, "units")


def test_demos_with_right_answers_teach_their_kind() -> None:
    lm = model(0.4, demo_gain=0.2, demo_limit=2)
    assert [score(lm, "dates", demos=count) for count in range(4)] == [10, 16, 18, 18]
    assert score(lm, "dates", demos=3, wrong=True) == score(lm, "dates")
