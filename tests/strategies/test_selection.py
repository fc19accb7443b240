from typing import Any

import dspy
import pytest
from support.cases import answers, case_of, choosing, decide, mixture_of, request
from support.fake_lm import FakeLM

from moa_dspy import Selection

QA = "question -> answer"


@pytest.mark.parametrize(
    ("outputs", "calls"),
    [
        pytest.param(answers("x"), 0, id="one proposal"),
        pytest.param(answers("x", "x", "x"), 0, id="all identical"),
        pytest.param(answers({"k": {2, 1}}, {"k": {1, 2}}), 0, id="identical sets"),
        pytest.param(answers("x", "x", "X"), 1, id="all but one identical"),
        pytest.param(answers(1, True), 1, id="equal, but not the same"),
    ],
)
def test_what_is_not_in_question_is_not_asked(outputs: list[dict[str, Any]], calls: int) -> None:
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "choice": "P1"})
    verdict = decide(Selection(rotations=1), case_of(QA, *outputs), judge)
    assert judge.calls == calls
    assert (verdict.flip_rate is None) == (calls == 0)
    assert calls or verdict.selected == "a"


def test_a_tie_goes_to_what_more_proposals_gave() -> None:
    case = case_of(QA, *answers("x", "y", "y"))
    assert decide(Selection(2), case, FakeLM("judge", choosing("x", "y"))).outputs == {"answer": "y"}


@pytest.mark.usefixtures("cached")
def test_rotations_that_repeat_a_prompt_are_asked_anew() -> None:
    judge = FakeLM("judge", choosing("y"), cache=True)
    decide(Selection(5), case_of(QA, *answers("x", "y")), judge)
    assert judge.calls == 5
    assert sorted(judge.prompts.count(prompt) for prompt in set(judge.prompts)) == [2, 3]
    decide(Selection(5), case_of(QA, *answers("x", "y")), judge)
    assert judge.calls == 5


def test_a_judge_at_temperature_0_is_warmed_up_to_be_asked_anew() -> None:
    judge = FakeLM("judge", choosing("y"), temperature=0)
    decide(Selection(4), case_of(QA, *answers("x", "y")), judge)
    assert sorted(request.config.temperature or 0.0 for request in judge.requests) == [0, 0, 1, 1]


def test_the_judge_is_asked_for_a_label_and_not_for_the_tasks_outputs() -> None:
    judge = FakeLM("judge", choosing("y"))
    decide(Selection(), case_of(QA, *answers("x", "y")), judge)
    assert request(judge).fields == ("reasoning", "choice")
    assert "must exactly match (no extra characters) one of: P1; P2" in judge.prompts[0]


def test_identical_proposals_share_a_label_and_the_first_is_selected() -> None:
    judge = FakeLM("judge", choosing("x"))
    verdict = decide(Selection(), case_of(QA, *answers("y", "x", "x")), judge)
    assert (verdict.outputs, verdict.selected, len(verdict.order_shown)) == ({"answer": "x"}, "b", 2)


def down_for(places: set[int], chosen: str) -> Any:
    """A judge that is down for the prompts that come in these places."""
    asked = iter(range(99))
    choose = choosing(chosen)
    return lambda prompt: dspy.lm15.AuthError("refused") if next(asked) in places else choose(prompt)


def test_when_all_rotations_fail_the_vote_decides() -> None:
    judge = FakeLM("judge", down_for({0, 1}, "y"))
    pred = mixture_of(QA, answers("x", "x", "y"), judge, strategy=Selection(2))(question="why?")
    assert (pred.answer, pred.metadata.answered_by, len(pred.metadata.failures)) == ("x", "voting", 1)
