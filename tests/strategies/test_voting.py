from collections.abc import Sequence
from typing import Any

import dspy
import pytest
from support.cases import answers, blocks, case_of, choosing, decide, request
from support.fake_lm import FakeLM

from moa_dspy import Voting
from moa_dspy.signatures import task_signature
from moa_dspy.strategies import Unusable, fall_back

QA = "question -> answer"
REFUSAL = "I'm sorry, but I can't help with that."


def typed(annotation: Any) -> type[dspy.Signature]:
    return task_signature("question -> x").delete("x").append("answer", dspy.OutputField(), annotation)


def vote(outputs: Sequence[Any], kind: Any = str, judge: FakeLM | None = None, silent: int = 0, **options: Any) -> Any:
    """What a vote among these answers decides; without a judge there is no aggregator."""
    case = case_of(typed(kind), *answers(*outputs), silent=silent)
    case = type(case)(case.task, case.inputs, case.proposals, case.asked, has_aggregator=judge is not None)
    return decide(Voting(**options), case, judge)


def grouping(*groups: set[str], best: str) -> Any:
    """A judge that puts the proposals with these answers together."""

    def answer(prompt: str) -> dict[str, Any]:
        labels = {block.fields["answer"]: label for label, block in blocks(prompt_of(prompt)).items()}
        return {"reasoning": "so", "groups": [[labels[a] for a in group] for group in groups], "best": labels[best]}

    return answer


def prompt_of(prompt: str) -> str:
    return prompt[prompt.rindex("Proposal P1") : prompt.rindex("\n\nRespond with")]


def test_predictors_that_nobody_would_ask_are_not_built() -> None:
    strategy = Voting()
    names = []
    for strategy.has_aggregator, kind in ((False, str), (True, str), (True, int)):
        strategy.bind(typed(kind), ["a"])
        names.append([name for name, _ in strategy.named_predictors()])
    assert names == [[], ["group", "break_tie"], ["break_tie"]]


def test_the_best_of_those_that_are_not_tied_for_first_place_breaks_no_tie() -> None:
    judge = FakeLM("judge", grouping({"x", "X!"}, {"y", "Y!"}, {"z"}, best="z"))
    assert vote(["x", "y", "z", "X!", "Y!"], judge=judge).selected == "a"


def test_an_abstention_named_as_the_best_breaks_no_tie() -> None:
    judge = FakeLM("judge", grouping({"x"}, {"y"}, best=REFUSAL))
    assert vote([REFUSAL, "x", "y"], judge=judge).selected == "b"


def test_text_compared_letter_by_letter_is_not_grouped() -> None:
    judge = FakeLM("judge", choosing("X"))
    verdict = vote(["x", "X"], judge=judge, exact_text=True)
    assert (verdict.outputs, request(judge).fields) == ({"answer": "X"}, ("reasoning", "choice"))


def test_a_proposal_in_two_groups_is_complained_of_once() -> None:
    def overlapping(prompt: str) -> dict[str, Any]:
        return {"reasoning": "so", "groups": [["P1", "P2"], ["P2"]], "best": "P1"}

    judge = FakeLM("judge", overlapping)
    with pytest.raises(Unusable, match=r"^P2 stand in two groups"):
        vote(["x", "y"], judge=judge)
    assert judge.calls == 2


# Ties: weight, then the aggregator, then declared order.


def test_samples_vote_with_their_agents_weight() -> None:
    case = case_of("q -> n: int", {"n": 7}, {"n": 8}, {"n": 8})
    asked = {"a": "x", "b": "y", "c": "y"}
    strategy = Voting(weights={"x": 3})
    assert decide(strategy, type(case)(case.task, case.inputs, case.proposals, asked)).selected == "a"


# Nobody votes.


def test_none_from_all_is_an_answer_where_the_task_allows_it() -> None:
    verdict = vote([None, None], int | None, FakeLM("judge", []))
    assert (verdict.outputs, verdict.tally.winner) == ({"answer": None}, None)
    case = case_of("q -> label: bool | None, why", *({"label": None, "why": why} for why in "xy"))
    assert decide(Voting(), case).outputs == {"label": None, "why": "x"}


# Settings that make no sense.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"a": -1}}, "The weight of 'a' is -1"),
        ({"weights": {"a": float("nan")}}, "The weight of 'a' is nan"),
        ({"weights": {"a": float("inf")}}, "The weight of 'a' is inf"),
        ({"tolerance": -0.1}, "The tolerance is -0.1"),
        ({"tolerance": float("nan")}, "The tolerance is nan"),
        ({"fields": []}, r"fields=\[\] names no output fields"),
        ({"fields": "answer"}, "fields='answer' names no output fields"),
    ],
)
def test_settings_that_make_no_count_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Voting(**options)


def test_the_fallback_counts_as_the_strategy_does() -> None:
    case = case_of("q -> n: int, m: int", {"n": 1, "m": 1}, {"n": 2, "m": 2}, {"n": 2, "m": 1})
    assert fall_back(case).selected == "a"
    assert fall_back(case, Voting(["n"])).selected == "b"
    assert fall_back(case, Voting(["m"], weights={"b": 5})).selected == "b"
