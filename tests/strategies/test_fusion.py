from typing import Any

import dspy
import pytest
from pydantic import BaseModel
from support.cases import answers, blocks, case_of, decide, told
from support.fake_lm import FakeLM

from moa_dspy import Fusion

QA = "question -> answer"


class City(BaseModel):
    name: str
    people: int


class Trip(dspy.Signature):
    """Plan a trip."""

    wish: str = dspy.InputField()
    days: int = dspy.OutputField()
    stops: list[str] = dspy.OutputField(max_length=3)
    home: City = dspy.OutputField()
    plan: str = dspy.OutputField()


def trip(days: int = 2, stops: str = "ab", people: int = 5, plan: str = "go") -> dict[str, Any]:
    return {"days": days, "stops": list(stops), "home": City(name="Ulm", people=people), "plan": plan}


def found(*labels: str, statement: str = "s", kind: str = "unique", resolution: str | None = None) -> dict[str, Any]:
    return {"statement": statement, "kind": kind, "supported_by": list(labels), "resolution": resolution}


def fuses(*elements: dict[str, Any], **outputs: Any) -> dict[str, Any]:
    return {"reasoning": "so", "elements": list(elements), **outputs}


def test_what_is_not_in_conflict_is_merged_without_a_call() -> None:
    outputs = [trip(2, "ab"), trip(3, "ac"), trip(2, "a")]
    verdict = decide(Fusion(), case_of(Trip, *outputs), FakeLM("judge", []))
    assert verdict.outputs == trip(2, "abc")
    assert [(e.statement, e.kind, "".join(e.supported_by)) for e in verdict.elements] == [
        ("days: 2", "majority", "ac"),
        ("stops: a", "consensus", "abc"),
        ("stops: b", "unique", "a"),
        ("stops: c", "unique", "b"),
        ('home: {\n  "name": "Ulm",\n  "people": 5\n}', "consensus", "abc"),
        ("plan: go", "consensus", "abc"),
    ]
    assert (verdict.order_shown, verdict.repaired) == ((), False)


def test_the_aggregator_is_told_what_is_settled() -> None:
    judge = FakeLM("judge", [fuses(home=City(name="Bonn", people=6), plan="p")])
    verdict = decide(Fusion(), case_of(Trip, trip(people=5, plan="x"), trip(people=6, plan="y")), judge)
    assert told(judge)["settled"] == 'days: 2\nstops: [\n  "a",\n  "b"\n]\nhome: {\n  "name": "Ulm"\n}'
    assert len(blocks(told(judge)["proposals"])) == 2
    assert verdict.outputs["home"] == City(name="Ulm", people=6)


def test_an_explanation_alone_is_nothing_to_ask_about() -> None:
    outputs = [{"reasoning": r, "answer": a} for r, a in (("p", "x"), ("q", "y"), ("r", "Y"))]
    verdict = decide(Fusion(), case_of("question -> reasoning, answer", *outputs), FakeLM("judge", []))
    assert verdict.outputs == {"reasoning": "q", "answer": "y"}


@pytest.mark.parametrize("number", [0, 1.5, True, "2"])
def test_a_support_that_makes_no_sense_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match=rf"^min_support={number!r} keeps what nobody says"):
        Fusion(min_support=number)


def test_none_where_the_task_has_no_none_is_for_the_aggregator() -> None:
    judge = FakeLM("judge", [fuses(answer="z")])
    assert decide(Fusion(), case_of(QA, *answers(None, None)), judge).outputs == {"answer": "z"}
    optional = case_of("question -> answer: str | None", *answers(None, None))
    assert decide(Fusion(), optional, FakeLM("judge", [])).outputs == {"answer": None}


def test_refusals_settle_nothing() -> None:
    refusal = "I'm sorry, but I can't help with that."
    judge = FakeLM("judge", [fuses(answer="z")])
    assert decide(Fusion(), case_of(QA, *answers(refusal, refusal)), judge).outputs == {"answer": "z"}
    assert decide(Fusion(), case_of(QA, *answers(refusal, "x")), FakeLM("judge", [])).outputs == {"answer": "x"}
