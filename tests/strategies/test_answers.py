import logging
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any, Literal, NewType

import dspy
import pytest
from dspy.experimental import Noul
from pydantic import BaseModel, Field
from support.cases import case_of, decide

from moa_dspy import Fusion, Voting
from moa_dspy.strategies.answers import INEXACT, answer_of, left_out, may_hold


class Color(Enum):
    RED = "red"


class Claim(BaseModel):
    text: str
    confidence: float = 0.5
    reasoning: str = ""


class Report(BaseModel):
    claims: list[Claim]
    parent: "Report | None" = None
    why: str = ""


@dataclass
class Point:
    x: float
    note: str = field(default="", compare=False)


UserId = NewType("UserId", int)
SHORT: Any = Annotated[str, Field(max_length=3)]
CODE: Any = Annotated[str, Field(pattern="x")]


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"answer": str, "answerable": bool}, ""),
        ({"reasoning": str, "answer": str}, "reasoning"),
        ({"title": str, "summary": list[str]}, ""),
        ({"label": str, "confidence": float}, "confidence"),
        ({"label": str, "labelConfidenceScore": float}, "labelConfidenceScore"),
        ({"label": Literal["a"], "certainty": Literal["high", "low"]}, "certainty"),
        ({"stars": int, "explanation": str | None, "justification": list[str]}, "explanation justification"),
        ({"thoughts": dspy.Reasoning, "answer": str}, "thoughts"),
        ({"rationale": str, "probability": float}, "rationale"),
        ({"confidence": float}, ""),
        ({"reasoning": str}, ""),
        ({"confidence_interval": tuple[float, float], "n": int}, ""),
        ({"explanation_required": bool, "text": str}, ""),
        ({"reasoning": Literal["deductive", "inductive"], "text": str}, ""),
        ({"verdict": bool, "reason": str}, "reason"),
        ({"order": str, "reason": str}, ""),
        ({"ok": bool, "why": str}, "why"),
        ({"answer": str, "score": float}, "score"),
        ({"topic": Literal["a", "b"], "score": float}, "score"),
        ({"team": str, "score": int}, ""),
        ({"feedback": str, "score": float}, ""),
        ({"value": bool, "confidence": float, "probability": float | None}, "confidence probability"),
        ({}, ""),
    ],
)
def test_what_explains_or_grades_is_no_part_of_the_answer(parts: dict[str, Any], expected: str) -> None:
    assert left_out(parts) == set(expected.split())


def task(**outputs: Any) -> type[dspy.Signature]:
    names = ", ".join(f"{name}: {kind}" for name, kind in outputs.items())
    signature: Any = dspy.Signature
    return signature(f"question -> {names}", custom_types={"Report": Report, "Noul": Noul})


def test_what_is_left_out_is_told_at_every_depth() -> None:
    answer = answer_of(task(report="Report", rationale="str", sure="Noul"))
    assert answer.fields == ("report", "sure")
    assert answer.left_out == (
        "rationale",
        "report.claims.confidence",
        "report.claims.reasoning",
        "sure.confidence",
        "sure.probability",
    )


@pytest.mark.parametrize("path", ["repotr", "report.claims"])
def test_a_field_that_there_is_not_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=rf"the field '{path}', which there is not, .* Known: report"):
        answer_of(task(report="Report"), [path])


def test_a_bound_vote_tells_what_it_leaves_out_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    strategy = Voting()
    with caplog.at_level(logging.INFO, "moa_dspy"):
        strategy.bind(task(answer="str", confidence="float"), ["a"])
    assert strategy.ballot == answer_of(task(answer="str", confidence="float"))
    assert [record.message for record in caplog.records] == [
        "The vote leaves out confidence. Name in fields= what should count."
    ]


def test_a_fusion_tells_what_follows_the_rest() -> None:
    case = case_of("q -> answer, reasoning", {"answer": "x", "reasoning": "r"})
    strategy = Fusion()
    decide(strategy, case)
    assert strategy.ballot == answer_of(case.task)


@pytest.mark.parametrize(
    "annotation",
    [str, Any, object, list, list[str], dict[str, int], str | None, SHORT, Claim, "X", Report],
)
def test_free_text_may_stand_in(annotation: Any) -> None:
    assert may_hold(annotation, str)


@pytest.mark.parametrize(
    "annotation", [int, None, Literal["a", "b"], Color, list[Literal["a"]], tuple[int, ...], UserId, bytes, CODE]
)
def test_free_text_may_not_stand_in(annotation: Any) -> None:
    assert not may_hold(annotation, str)


def test_approximate_types() -> None:
    assert [may_hold(kind, INEXACT) for kind in (float, list[Decimal], Point, Any)] == [True] * 4
    assert [may_hold(kind, INEXACT) for kind in (int, str, list[int], Color, Claim)] == [False] * 5
