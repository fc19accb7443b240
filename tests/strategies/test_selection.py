from typing import Any

import dspy
import pytest
from support.cases import answers, blocks, case_of, choosing, decide, mixture_of, request, told
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways

from moa_dspy import Selection

QA = "question -> answer"


@pytest.mark.parametrize("chosen", ["x", "y", "z"])
def test_the_answer_is_the_proposal_whose_label_was_named(chosen: str) -> None:
    case = case_of(QA, *answers("x", "y", "z"))
    verdict = decide(Selection(), case, FakeLM("judge", choosing(chosen)))
    assert (verdict.outputs["answer"], verdict.selected) == (chosen, {"x": "a", "y": "b", "z": "c"}[chosen])
    assert verdict.flip_rate == 0


@pytest.mark.parametrize("label", ["P1", "P2", "P10", "P11", "P12"])
def test_no_label_is_taken_for_another(label: str) -> None:
    case = case_of(QA, *answers(*map(str, range(12))))
    judge = FakeLM("judge", [{"reasoning": "so", "choice": label}])
    verdict = decide(Selection(), case, judge)
    assert verdict.outputs["answer"] == blocks(told(judge)["proposals"])[label].fields["answer"]
    assert verdict.order_shown[int(label[1:]) - 1] == verdict.selected


def test_the_order_shown_is_not_the_declared_one_for_every_question() -> None:
    def order(question: str) -> tuple[str, ...]:
        case = case_of(QA, *answers("x", "y", "z"), question=question)
        return tuple(decide(Selection(), case, FakeLM("judge", choosing("x"))).order_shown)

    assert len({order(str(number)) for number in range(30)}) == 6
    assert order("same") == order("same")


@both_ways
def test_the_outputs_are_the_very_objects(ask: Ask) -> None:
    outputs: list[dict[str, Any]] = [{"items": [{"k": [1, 2]}], "note": None}, {"items": [], "note": "n"}]
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "choice": "P1"})
    pred = ask(mixture_of("q -> items: list[dict], note: str | None", outputs, judge, strategy="selection"), q="why?")
    [chosen] = [proposal for proposal in pred.proposals if proposal.id == pred.metadata.selected]
    assert pred.toDict() == chosen.outputs
    assert pred["items"] is chosen.outputs["items"]


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


@pytest.mark.parametrize("rotations", [1, 3])
@both_ways
def test_it_costs_as_many_calls_as_rotations(ask: Ask, rotations: int) -> None:
    judge = FakeLM("judge", choosing("y"))
    pred = ask(mixture_of(QA, answers("x", "y"), judge, strategy=Selection(rotations)), question="why?")
    assert (pred.answer, judge.calls, pred.metadata.usage.calls) == ("y", rotations, 2 + rotations)


def test_each_rotation_turns_the_order_by_one() -> None:
    judge = FakeLM("judge", choosing("y"))
    decide(Selection(3), case_of(QA, *answers("x", "y", "z")), judge)
    orders = {tuple(b.fields["answer"] for b in blocks(told(judge, n)["proposals"]).values()) for n in range(3)}
    first = next(iter(orders))
    assert orders == {first, (*first[1:], first[0]), (first[2], *first[:2])}


@pytest.mark.parametrize(
    ("verdicts", "winner", "flip_rate"),
    [
        (["y", "x", "y"], "y", 1 / 3),
        (["x", "y", "y", "x"], "x", 1 / 2),
        (["z", "z", "y"], "z", 1 / 3),
        (["z", "y", "x"], "x", 2 / 3),
    ],
)
def test_verdicts_are_tallied_by_proposal(verdicts: list[str], winner: str, flip_rate: float) -> None:
    case = case_of(QA, *answers("x", "y", "z"))
    verdict = decide(Selection(len(verdicts)), case, FakeLM("judge", choosing(*verdicts)))
    assert verdict.outputs == {"answer": winner}
    assert verdict.flip_rate == pytest.approx(flip_rate)


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


@both_ways
def test_a_rotation_that_fails_leaves_the_verdict_to_the_others(ask: Ask) -> None:
    judge = FakeLM("judge", down_for({1}, "y"))
    pred = ask(mixture_of(QA, answers("x", "y"), judge, strategy=Selection(3)), question="why?")
    assert (pred.answer, pred.metadata.answered_by, pred.metadata.flip_rate, judge.calls) == ("y", "selection", 0, 3)
    [told_of] = pred.metadata.failures
    assert (told_of.agent, told_of.error, pred.metadata.degraded) == ("aggregator", "LMAuthError", True)


def test_when_all_rotations_fail_the_vote_decides() -> None:
    judge = FakeLM("judge", down_for({0, 1}, "y"))
    pred = mixture_of(QA, answers("x", "x", "y"), judge, strategy=Selection(2))(question="why?")
    assert (pred.answer, pred.metadata.answered_by, len(pred.metadata.failures)) == ("x", "voting", 1)


@pytest.mark.parametrize("rotations", [0, -1, 1.5, "2", None])
def test_no_rotations_are_refused(rotations: Any) -> None:
    with pytest.raises(ValueError, match="asks for no verdict at all"):
        Selection(rotations)
