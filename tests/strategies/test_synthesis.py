import dspy
import pytest
from support.cases import ADAPTERS, answers, blocks, case_of, decide, mixture_of, request, told
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways

from moa_dspy import Synthesis

ANSWER = {"reasoning": "so", "answer": "new"}


def test_the_answer_is_the_aggregators() -> None:
    judge = FakeLM("judge", [ANSWER])
    verdict = decide(Synthesis(), case_of("question -> answer", *answers("x", "y")), judge)
    assert (verdict.outputs, verdict.selected, verdict.repaired) == ({"answer": "new"}, None, False)


def test_it_reads_the_inputs_and_all_proposals() -> None:
    judge = FakeLM("judge", [ANSWER])
    verdict = decide(Synthesis(), case_of("question, hint -> answer", *answers("x", "y", "x"), hint="h"), judge)
    given = told(judge)
    assert list(given) == ["question", "hint", "proposals"]
    assert sorted((b.fields["answer"], b.given_by) for b in blocks(given["proposals"]).values()) == [("x", 2), ("y", 1)]
    assert set(verdict.order_shown) == {"a", "b"}


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
def test_it_writes_the_tasks_outputs_typed(adapter: dspy.Adapter) -> None:
    judge = FakeLM("judge", [{"reasoning": "so", "n": 7, "tags": ["a", "b"]}])
    with dspy.context(adapter=adapter):
        verdict = decide(Synthesis(), case_of("q -> n: int, tags: list[str]", {"n": 1, "tags": []}), judge)
    assert verdict.outputs == {"n": 7, "tags": ["a", "b"]}
    assert request(judge).fields == ("reasoning", "n", "tags")


@pytest.mark.parametrize("number", [1, 2, 5])
@both_ways
def test_it_costs_one_call_more_than_the_proposals(ask: Ask, number: int) -> None:
    judge = FakeLM("judge", [ANSWER])
    pred = ask(mixture_of("question -> answer", answers(*["x"] * number), judge), question="why?")
    assert (pred.answer, judge.calls, pred.metadata.usage.calls) == ("new", 1, number + 1)


def test_a_task_that_asks_for_its_reasoning_gets_it() -> None:
    judge = FakeLM("judge", [{"reasoning": "mine", "answer": "new"}])
    pred = mixture_of("question -> reasoning, answer", answers("x"), judge)(question="why?")
    assert pred.toDict() == {"reasoning": "mine", "answer": "new"}
    assert blocks(told(judge)["proposals"])["P1"].fields == {"reasoning": "so", "answer": "x"}
