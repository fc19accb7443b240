"""Many questions into a file: one JSON object a line, answered once each, resumed after a kill at any moment."""

import json
import threading
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, echo, mixture, question, says
from support.recording import fill

from moa_dspy import Limits, MoA

ROWS = [{"id": f"q{n}", "question": f"question {n}"} for n in range(5)]


def one(answers: Any = echo, **options: Any) -> tuple[MoA, FakeLM]:
    """A mixture of one, which asks one call a question, and its LM."""
    lm = FakeLM("only", answers, **options)
    return MoA(QA, [lm], strategy="voting"), lm


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def answers(path: Path) -> dict[Any, Any]:
    return {row["id"]: row["outputs"] and row["outputs"]["answer"] for row in rows(path)}


def asked(lm: FakeLM) -> list[str]:
    return sorted(question(prompt) for prompt in lm.prompts)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_a_row_holds_the_question_the_answer_and_how_it_came_about(out: Path) -> None:
    lms = {"a": FakeLM("a", echo), "b": FakeLM("b", [ValueError("broken")]), "judge": FakeLM("judge", echo)}
    asked = [{"question": "why", "answer": "w", "n": 3}]
    summary = fill(mixture(lms, strategy="selection"), asked, out)
    assert (summary.answered, summary.degraded, summary.usage.calls, summary.usage.failed_calls) == (1, 1, 2, 1)
    assert (summary.usage.prompt_tokens, summary.usage.cost_usd, summary.usage.unpriced_calls) == (10, None, 2)
    [row] = rows(out)
    assert [row.pop("proposals")[0]["id"], row.pop("failures")[0]["agent"]] == ["a", "b"]
    assert [call["agent"] for call in row.pop("calls")] == ["a", "b"] and row.pop("seconds") > 0
    assert row.pop("mixture").startswith("selection of a+b by judge [task ")
    assert row == {
        **dict.fromkeys(["error", "confidence", "batch"]),
        **dict.fromkeys(["abstained", "stopped_early"], False),
        "recording": 1,
        "id": "7df8be7d81a6",
        "inputs": {"question": "why"},
        "gold": {"answer": "w"},
        "extra": {"n": 3},
        "outputs": {"answer": "why"},
        "agreement": 0.5,
        "degraded": True,
        "verdicts": {},
        "earlier_calls": [],
    }


def test_the_callers_settings_hold(out: Path) -> None:
    with dspy.context(lm=FakeLM("ambient", says("half a \ud83d"))):
        fill(MoA(QA, [dspy.ChainOfThought(QA)], strategy="voting"), [{"id": 1, "question": "q"}], out)
    assert answers(out) == {1: "half a \ufffd"}


def test_answers_stand_in_the_order_of_the_questions_however_they_came(out: Path) -> None:
    first = threading.Event()

    def late(prompt: str) -> Any:
        if question(prompt) == "question 1":
            first.wait(5)
        elif question(prompt) == "question 3":
            first.set()
        return echo(prompt)

    fill(one(late)[0], ROWS, out, concurrency=2)
    assert list(answers(out).items()) == [(f"q{n}", f"question {n}") for n in range(5)]


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([ROWS[4], *ROWS[:4]], ["question 3", "question 4"]),  # what is answered is not asked again
        ([*ROWS[:2], {"id": "q2", "question": "another"}], ["another"]),  # edited under its id
    ],
)
def test_the_same_call_again_asks_what_is_new(out: Path, later: Any, expected: list[str]) -> None:
    fill(one()[0], ROWS[:3], out)
    moa, lm = one()
    summary = fill(moa, later, out)
    assert (asked(lm), summary.answered, summary.skipped) == (expected, len(expected), len(later) - len(expected))
    assert list(answers(out))[: len(later)] == [row["id"] for row in later]


def test_without_ids_a_question_is_known_wherever_it_stands(out: Path) -> None:
    fill(one()[0], [{"question": "b"}, {"question": "c"}, {"question": "c"}], out)
    moa, lm = one()
    fill(moa, [{"question": text} for text in "acbc"], out)
    assert (asked(lm), [row["inputs"]["question"] for row in rows(out)]) == (["a"], [*"acbc"])


def test_a_failed_question_is_kept_with_its_cause_and_asked_again(out: Path) -> None:
    bad = FakeLM("b", [ValueError("no luck")])
    moa = MoA(QA, [FakeLM("a", echo), bad], strategy="voting", limits=Limits(min_proposals=2))
    summary = fill(moa, ROWS[:1], out)
    [row] = rows(out)
    assert (summary.failed, summary.answered, row["outputs"]) == (1, 0, None)
    assert "no luck" in json.dumps(row["error"]) and row["proposals"][0]["outputs"] == {"answer": "question 0"}
    mended = MoA(QA, [FakeLM("a", echo), FakeLM("b", echo)], strategy="voting", limits=Limits(min_proposals=2))
    assert fill(mended, ROWS[:1], out).answered == 1 and answers(out) == {"q0": "question 0"}


def test_a_line_cut_short_anywhere_is_asked_again(out: Path) -> None:
    fill(one()[0], ROWS[:3], out)
    whole = out.read_bytes()
    last = whole.rstrip().rindex(b"\n") + 1
    for end in [last + 1, last + 12, (last + len(whole)) // 2, len(whole) - 2]:
        out.write_bytes(whole[:end])
        moa, lm = one()
        fill(moa, ROWS[:3], out)
        assert (asked(lm), answers(out)) == (["question 2"], {f"q{n}": f"question {n}" for n in range(3)})


def test_a_bad_place_or_a_missing_key_is_found_before_anything_is_asked(tmp_path: Path, out: Path) -> None:
    questions = tmp_path / "q.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    moa, lm = one()
    for place in (questions, tmp_path / "no" / "a.jsonl", tmp_path):
        with pytest.raises(ValueError):
            fill(moa, questions, place)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        fill(MoA(QA, [lm, "openai/gpt-5"], strategy="voting"), ROWS, out)
    assert lm.calls == 0
