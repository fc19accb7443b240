"""Each model alone, the strategies and the best possible on somebody's data; each model is asked once."""

from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls
from support.shown import JUDGED, panel_of

from moa_dspy import MoA, TooFewProposals, evaluate
from moa_dspy.simulated.questions import bundled_questions

PANEL = ["simulated/alice", "simulated/bob", "simulated/carol"]
DOWN = dspy.lm15.ServerError("down")


def examples(*golds: Any) -> list[dspy.Example]:
    rows = [dspy.Example(question=f"question {number}", answer=gold) for number, gold in enumerate(golds, start=1)]
    return [row.with_inputs("question") for row in rows]


def says(name: str, *answers: Any) -> FakeLM:
    """A model that gives these in turn; an exception among them is raised."""
    return FakeLM(name, [a if isinstance(a, BaseException) else {**JUDGED, "answer": a} for a in answers])


def scores(comparison: Any) -> dict[str, float]:
    return {row.name: row.score for row in comparison.rows}


def test_each_model_is_asked_once_and_every_answer_is_scored_once() -> None:
    a, b, judge = says("a", "1", "2"), says("b", "1", "0"), says("judge", "1", "0", "2", "2")
    scored: list[str] = []

    def exact(example: Any, pred: Any, trace: Any = None) -> bool:
        scored.append(example.answer)
        return bool(example.answer == pred.answer)

    moa = MoA(QA, [a, b], judge)
    found: Any = evaluate(moa, examples("1", "2"), metric=exact, strategies=["synthesis"], concurrency=1)
    assert scored.count("1") == scored.count("2") + 1  # the first one's gold answer tries the metric
    assert scores(found) == {"a": 1, "b": 0.5, "judge": 0.5, "plain vote": 1, "synthesis": 1, "oracle": 1}
    assert calls({"a": a, "b": b, "judge": judge}) == {"a": 2, "b": 2, "judge": 4} and found.usage.calls == 8
    assert [row.calls for row in found.rows] == [1, 1, 1, 2, 3, None]
    low, high = found.row("b").interval
    assert 0 <= low < 0.5 < high <= 1 and found.row("b").cost_usd is None


@pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion"])
def test_a_strategy_on_the_shared_proposals_is_the_mixture_itself(strategy: Any) -> None:
    questions = bundled_questions()[:12]
    moa = MoA(QA, PANEL, "simulated/judge", strategy, layers=2)
    really = [moa(question=example.question) for example in questions]
    row: Any = evaluate(moa, questions, strategies=[strategy]).row(strategy)
    assert row.score == sum(p.answer == e.answer for p, e in zip(really, questions, strict=True)) / 12
    assert row.calls == pytest.approx(sum(pred.metadata.usage.calls for pred in really) / 12)


def test_failures_count_as_wrong_and_are_reported() -> None:
    moa = MoA(QA, [says("a", "1", DOWN, DOWN), says("b", "1", "1", DOWN)], strategy="voting")
    found: Any = evaluate(moa, examples("1", "1", "1"), concurrency=1)
    third = pytest.approx(1 / 3)
    assert scores(found) == {"a": third, "b": 2 * third.expected, "plain vote": 2 / 3, "voting": 2 / 3, "oracle": 2 / 3}
    assert [(row.name, row.failures) for row in found.rows][:2] == [("a", 2), ("b", 1)]
    [first, *_] = found.troubles
    assert (first.who, first.error, first.count) == ("a", "LMServerError", 2)


@pytest.mark.parametrize(
    ("metric", "gold", "answer", "kind", "expected"),
    [
        ("exact", "New  Delhi", "new delhi", "str", 1),
        ("exact", "5", "-5", "str", 0),
        ("exact", 18, 18, "int", 1),
        ("exact", 0.3, 0.1 + 0.2, "float", 1),
        ("exact", ["a", "b"], ["b", "a"], "list[str]", 0),
        ("exact", "good", "bad", "Literal['good', 'bad']", 0),
        ("contains", "Bern", "The capital is BERN.", "str", 1),
        ("contains", "Bern", "Bernard knows.", "str", 0),
        ("contains", "5", "It is 5.5", "str", 0),
        (lambda example, pred, trace=None: len(pred.answer) / 10, "?", "12345", "str", 0.5),
        (lambda e, p, t=None: dspy.Prediction(score=0.5, feedback="so so"), "?", "x", "str", 0.5),
    ],
)
def test_metrics(metric: Any, gold: Any, answer: Any, kind: str, expected: float) -> None:
    moa = panel_of(answer, task=f"question -> answer: {kind}", strategy="voting")
    row: Any = evaluate(moa, examples(gold), metric).row("m0")
    assert row.score == expected


@pytest.mark.parametrize(
    ("value", "words"), [(None, "None"), ("good", "'good'"), (float("nan"), "nan"), (ZeroDivisionError("by 0"), "by 0")]
)
def test_a_metric_that_gives_no_score_ends_it_and_is_named(value: Any, words: str) -> None:
    def odd(example: Any, prediction: Any, trace: Any = None) -> Any:
        if isinstance(value, Exception):
            raise value
        return value

    with pytest.raises(Exception, match=f"(?s)odd.*{words}"):
        evaluate(panel_of("1", strategy="voting"), examples("1"), odd)


@pytest.mark.parametrize(
    ("data", "settings", "words"),
    [
        ([], {}, "empty"),
        (examples("1"), {"concurrency": 0}, "concurrency"),
        (examples("1"), {"strategies": ["nope"]}, "'nope'"),
        (examples("1"), {"metric": "nope"}, "'nope'"),
    ],
)
def test_what_cannot_be_compared_is_refused(data: Any, settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        evaluate(MoA(QA, [FakeLM("a", [])], strategy="voting"), data, **settings)


def test_nobody_else_is_asked_if_nobody_answers_the_first_question() -> None:
    a, b = says("a", DOWN), says("b", DOWN)
    with pytest.raises(TooFewProposals, match="first question"):
        evaluate(MoA(QA, [a, b], strategy="voting"), examples("1", "1"))
    assert (a.calls, b.calls) == (1, 1)
