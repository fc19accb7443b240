from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from dspy.teleprompt.reanchor import ReAnchor
from support.fake_lm import FakeLM
from support.mixtures import calls, question

from moa_dspy import MoA


class Even(dspy.Signature):
    """Is the number even?"""

    question: str = dspy.InputField()
    even: bool = dspy.OutputField(desc="whether the number is even")
    word: str = dspy.OutputField()


SHARED = "proposers.shared.predict"
TRAIN = [dspy.Example(question=f"q{n}", even=n % 2 == 0).with_inputs("question") for n in range(6)]


def timid(name: str) -> FakeLM:
    """Gives an even number 40 % to be even, and an odd one 10 %: right, once the threshold is low enough."""

    def answer(prompt: str) -> Mapping[str, Any]:
        probability = 0.1 if int(question(prompt).removeprefix("q")) % 2 else 0.4
        even = {"noul": probability} if "noul" in prompt else False
        return {"reasoning": "so", "even": even, "word": name, "choice": "P1", "elements": []}

    return FakeLM(name, answer, cache=True)


def right(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return bool(prediction.even == example.even)


@pytest.mark.parametrize(
    ("strategy", "fitted"),
    [("synthesis", "aggregator.program.synthesize"), pytest.param("selection", SHARED, marks=pytest.mark.slow),
     pytest.param("voting", SHARED, marks=pytest.mark.slow), ("fusion", SHARED)],
)  # fmt: skip
def test_reanchor_fits_the_predictor_that_decides(strategy: Any, fitted: str, cached: None) -> None:
    lms = {name: timid(name) for name in ("ada", "bo", "judge")}
    moa = MoA(Even, [lms["ada"], lms["bo"]], lms["judge"], strategy)
    optimizer = ReAnchor(right, num_threads=1)
    # It looks whether settings.lm caches, and does not ask it.
    with dspy.context(lm=FakeLM("stray", [], cache=True)):
        tuned: Any = optimizer.compile(moa, trainset=TRAIN)
        asked = calls(lms)
        answers = [tuned(question=f"q{n}").even for n in range(6)]
    assert answers == [True, False] * 3
    assert {name: predictor.fields for name, predictor in tuned.named_predictors() if predictor.fields} == {
        fitted: {"even": {"threshold": 0.2}}
    }
    assert calls(lms) == asked and not any(predictor.fields for predictor in moa.predictors())


def test_fusion_asks_with_fitted_settings_for_what_is_settled_too() -> None:
    says = {"reasoning": "so", "even": True, "elements": []}
    ada, bo = (FakeLM(name, [{**says, "word": name}]) for name in ("ada", "bo"))
    judge = FakeLM("judge", [{**says, "even": {"noul": 0.1}, "word": "judge"}])
    moa = MoA(Even, [ada, bo], judge, "fusion")
    moa.predictors()[-1].fields = {"even": {"threshold": 0.2}}
    assert (moa(question="q2").even, judge.calls) == (True, 1)
