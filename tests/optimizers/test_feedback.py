from typing import Any

import dspy
import pytest
from support.compiling import TRAIN, Task, right, role
from support.fake_lm import FakeLM

from moa_dspy import Agent, MoA
from moa_dspy.optimizers import Scored, Specialize, Stop

GOLD = TRAIN[1]
WRONG = dspy.Prediction(answer="a9")


def test_a_plain_metric_is_given_words_when_feedback_is_asked_for() -> None:
    scored: Any = Scored(right, Task)
    assert (scored(GOLD, WRONG), scored(GOLD, WRONG, [])) == (0.0, 0.0)
    found = scored(GOLD, WRONG, [], "proposers.ada.program.predict", [])
    assert dict(found) == {"score": 0.0, "feedback": "Score 0. Right would be answer: a1. Given was answer: a9."}


def test_a_metrics_own_words_are_kept() -> None:
    def metric(gold: Any, pred: Any, trace: Any, pred_name: Any, pred_trace: Any) -> Any:
        return dspy.Prediction(score=0.5, feedback=f"{pred_name}, {len(pred_trace or [])} steps")

    scored: Any = Scored(metric, Task, inside="moa.")
    assert scored(GOLD, WRONG) == 0.5
    assert dict(scored(GOLD, WRONG, [], "moa.aggregator.x", [1])) == {"score": 0.5, "feedback": "aggregator.x, 1 steps"}


def test_several_objectives_reach_gepa() -> None:
    value = dspy.Prediction(score=0.5, objective_scores={"short": 1.0})
    assert Scored(lambda gold, pred: value, Task)(GOLD, WRONG) is value


@pytest.mark.parametrize("value", ["good", None, float("nan")])
def test_what_is_no_score_ends_an_optimizer_that_would_count_it_as_wrong(value: Any) -> None:
    with pytest.raises(Stop) as caught:
        Scored(lambda gold, pred: value, Task)(GOLD, WRONG)
    assert "which is no score" in str(caught.value.__cause__) and not issubclass(Stop, Exception)


def test_predictors_have_the_names_that_they_have_in_the_mixture() -> None:
    asked = set()

    def metric(gold: Any, pred: Any, trace: Any, name: Any, steps: Any) -> float:
        asked.add(name)
        return 0.0

    lms = [role("ada"), role("bo")]
    reflecting = FakeLM("coach", lambda prompt: {"new_instruction": "Try."})
    gepa = dspy.GEPA(metric, reflection_lm=reflecting, max_metric_calls=10)
    moa = MoA(Task, lms, role("judge"), layers=2)
    Specialize(metric, optimizer=gepa).compile(moa, trainset=TRAIN[:2])
    places = ("proposers.ada", "proposers.bo", "layer_2.ada", "layer_2.bo")
    assert asked == {None, *(f"{place}.program.predict" for place in places), "aggregator.program.synthesize"}


def test_marginal_credit_scores_what_the_panel_makes_of_an_answer() -> None:
    """Ada's own answers do not matter, as long as the two others outvote her."""
    seen: list[tuple[str, str]] = []

    def metric(gold: Any, pred: Any, trace: Any = None) -> bool:
        seen.append((gold.answer, pred.answer))
        return bool(right(gold, pred))

    def says(name: str, answer: str) -> FakeLM:
        return FakeLM(name, lambda prompt: {"reasoning": "", "answer": answer})

    agents = [Agent(says("ada", "a1"), name="ada"), *(Agent(says(n, "a5"), name=n) for n in ("bo", "cy"))]
    moa = MoA(Task, agents, strategy="voting")
    optimizer = Specialize(metric, optimizer=dspy.LabeledFewShot(k=1), credit="marginal", num_threads=1)
    optimizer.compile(moa, trainset=[TRAIN[1], TRAIN[5]])
    assert {answer for _, answer in seen} == {"a5"}
    names = ["first proposals", "ada", "bo", "cy", "proposals"]
    assert [(stage.name, stage.before) for stage in optimizer.report.stages] == [
        (name, None if "proposals" in name else 0.5) for name in names
    ]
