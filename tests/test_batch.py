import datetime
import json
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import dspy
import pytest
from support.fake_lm import FakeLM, Gate
from support.mixtures import QA, calls, cast, echo, mixture, question, says

from moa_dspy import Agent, Limits, MoA, Selection, Voting
from moa_dspy.batch import AnswerRow, BatchInterrupted, BatchSummary, answer_all, read_answers
from moa_dspy.batch import answers as batch_answers
from moa_dspy.batch.answers import AnswerFile
from moa_dspy.batch.identity import identity
from moa_dspy.batch.questions import as_questions, read_questions
from moa_dspy.signatures import task_signature

ROWS = [{"id": f"q{n}", "question": f"question {n}"} for n in range(5)]
TASK = task_signature(QA)


def one(answers: Callable[[str], Any] = echo, **options: Any) -> tuple[MoA, FakeLM]:
    """A mixture of one, which asks one call a question, and its LM."""
    lm = FakeLM("only", answers, **options)
    return MoA(QA, [lm], strategy="voting"), lm


def answers(out: Path) -> dict[Any, Any]:
    return {row.id: row.outputs and row.outputs["answer"] for row in read_answers(out)}


def asked(lm: FakeLM) -> list[str]:
    return sorted(question(prompt) for prompt in lm.prompts)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def write(path: Path, *lines: str | Mapping[str, Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_a_row_holds_the_answer_and_how_it_came_about(out: Path) -> None:
    lms = {"a": FakeLM("a", echo), "b": FakeLM("b", [ValueError("broken")]), "judge": FakeLM("judge", echo)}
    answer_all(mixture(lms, strategy="selection"), [{"question": "why", "gold": "w", "n": 3}], out)
    row = json.loads(out.read_text())
    seconds = row.pop("seconds"), row["usage"].pop("seconds"), row["proposals"][0].pop("seconds")
    assert min(seconds) > 0 and row.pop("failures")[0]["agent"] == "b"
    assert row.pop("mixture").startswith("selection of a+b by judge [")
    usage = {"calls": 2, "prompt_tokens": 10, "completion_tokens": 5, "cost_usd": None, "unpriced_calls": 2}
    none = {"cached_tokens": 0, "reasoning_tokens": 0, "cache_hits": 0}
    said = {"id": "a", "agent": "a", "model": "a", "layer": 1, "sample": 1, "reasoning": "so"}
    assert row == {
        "id": "7df8be7d81a6",
        "inputs": {"question": "why"},
        "extra": {"gold": "w", "n": 3},
        "outputs": {"answer": "why"},
        "error": None,
        "agreement": 0.5,
        "degraded": True,
        "proposals": [{**said, "outputs": {"answer": "why"}}],
        "usage": {**usage, **none, "failed_calls": 1},
    }


def test_the_summary_adds_up(out: Path) -> None:
    lms = {"a": FakeLM("a", says("x")), "b": FakeLM("b", echo), "judge": FakeLM("judge", says("x"))}
    summary = answer_all(mixture(lms), [{"question": "x"}, {"question": "y"}], out)
    assert (summary.usage.calls, summary.usage.prompt_tokens, summary.usage.unpriced_calls) == (6, 60, 6)
    assert summary.usage.cost_usd is None and summary.usage.seconds > 0 and summary.seconds > 0
    assert summary.model_dump(exclude={"usage", "seconds"}) == {
        **dict.fromkeys(["skipped", "failed", "left", "degraded", "others"], 0),
        "questions": 2,
        "answered": 2,
        "interrupted": False,
        "first_error": None,
        "agreement": 0.75,
    }


def test_answers_stand_in_the_order_of_the_questions_however_they_came(out: Path) -> None:
    first = threading.Event()

    def late(prompt: str) -> Mapping[str, Any]:
        if question(prompt) == "question 0":
            first.wait(5)
        elif question(prompt) == "question 4":
            first.set()
        return echo(prompt)

    answer_all(one(late)[0], ROWS, out, concurrency=2)
    assert [row.id for row in read_answers(out)] == ["q0", "q1", "q2", "q3", "q4"]
    assert answers(out) == {f"q{n}": f"question {n}" for n in range(5)}


def test_as_many_questions_are_under_way_as_asked_for(out: Path) -> None:
    moa, _ = one(gate=Gate(2))
    assert answer_all(moa, ROWS[:4], out, concurrency=2).answered == 4


def test_what_is_answered_is_not_asked_again(out: Path) -> None:
    answer_all(one()[0], ROWS[:3], out)
    moa, lm = one()
    summary = answer_all(moa, [ROWS[4], *ROWS[:4]], out)
    assert asked(lm) == ["question 3", "question 4"]
    assert (summary.skipped, summary.answered, list(answers(out))) == (3, 2, ["q4", "q0", "q1", "q2", "q3"])


def test_a_question_that_was_edited_under_its_id_is_asked_again(out: Path) -> None:
    answer_all(one()[0], ROWS, out)
    moa, lm = one()
    answer_all(moa, [*ROWS[:4], {"id": "q4", "question": "another"}], out)
    assert (asked(lm), answers(out)["q4"], len(read_answers(out))) == (["another"], "another", 5)


def test_without_ids_a_question_is_known_wherever_it_stands(out: Path) -> None:
    answer_all(one()[0], [{"question": "b"}, {"question": "c"}, {"question": "c"}], out)
    moa, lm = one()
    answer_all(moa, [{"question": "a"}, {"question": "c", "note": "new"}, {"question": "b"}, {"question": "c"}], out)
    assert asked(lm) == ["a"]
    assert [row.inputs["question"] for row in read_answers(out)] == ["a", "c", "b", "c"]


def test_rows_of_questions_that_are_gone_are_kept(out: Path) -> None:
    answer_all(one()[0], ROWS, out)
    assert answer_all(one()[0], ROWS[2:], out).others == 2
    assert list(answers(out)) == ["q2", "q3", "q4", "q0", "q1"]


def test_a_failed_question_is_kept_with_its_cause_and_asked_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "hidden-4711-hidden")
    lms = {"a": FakeLM("a", echo), "b": FakeLM("b", [ValueError("hidden-4711-hidden is no good")])}
    strict = Limits(min_proposals=2)
    summary = answer_all(MoA(QA, list(lms.values()), strategy="voting", limits=strict), ROWS[:1], out)
    [row] = read_answers(out)
    assert (summary.failed, summary.answered, summary.usage.calls) == (1, 0, 2)
    assert row.outputs is None and row.error is not None and row.error.type == "TooFewProposals"
    assert [proposal.outputs for proposal in row.proposals] == [{"answer": "question 0"}]
    assert "hidden" not in out.read_text() and "hidden" not in summary.model_dump_json()
    assert "*** is no good" in row.error.message and summary.first_error == f"q0: TooFewProposals: {row.error.message}"

    mended = MoA(QA, [FakeLM("a", echo), FakeLM("b", echo)], strategy="voting", limits=strict)
    assert answer_all(mended, ROWS[:1], out).answered == 1
    assert answers(out) == {"q0": "question 0"}


def test_a_line_cut_short_anywhere_is_dropped_and_its_question_asked_again(out: Path) -> None:
    answer_all(one()[0], ROWS[:3], out)
    whole = out.read_bytes()
    last = whole.rindex(b'{"id"')
    for end in [*range(last + 1, last + 12), *range(last + 12, len(whole) - 1, 37)]:
        out.write_bytes(whole[:end])
        assert list(answers(out)) == ["q0", "q1"]
        moa, lm = one()
        answer_all(moa, ROWS[:3], out)
        assert (asked(lm), answers(out)) == (["question 2"], {f"q{n}": f"question {n}" for n in range(3)})


def test_a_last_line_that_lacks_its_end_only_is_an_answer(out: Path) -> None:
    answer_all(one()[0], ROWS[:2], out)
    out.write_bytes(out.read_bytes()[:-1])
    moa, lm = one()
    answer_all(moa, ROWS[:3], out)
    assert (asked(lm), list(answers(out))) == (["question 2"], ["q0", "q1", "q2"])


def test_the_last_row_of_an_id_counts(out: Path) -> None:
    answer_all(one()[0], ROWS[:1], out)
    out.write_bytes(out.read_bytes() + out.read_bytes().replace(b'"answer": "question 0"', b'"answer": "later"'))
    moa, lm = one()
    answer_all(moa, ROWS[:1], out)
    assert (lm.calls, answers(out), len(out.read_text().splitlines())) == (0, {"q0": "later"}, 1)


@pytest.mark.parametrize("text", ["notes", '{"question": "a"}\n', '{"question"', '{"id": 1}\n', "\n"])
def test_a_file_of_something_else_is_refused_and_left_alone(out: Path, text: str) -> None:
    out.write_text(text)
    with pytest.raises(ValueError, match=r"Line 1 of .* is no answer of a batch"):
        answer_all(one()[0], ROWS, out)
    assert out.read_text() == text


def test_a_file_of_another_mixture_is_refused_unless_forced(out: Path) -> None:
    lms = cast("a", "b", "judge")
    answer_all(mixture(lms, strategy="selection"), ROWS[:1], out)
    with pytest.raises(ValueError, match=r"there: selection of a\+b by judge .*\n  now:   synthesis of a\+b by judge"):
        answer_all(mixture(lms), ROWS, out)
    with pytest.raises(ValueError, match="The models have the same names; their settings"):
        answer_all(mixture(lms, strategy=Selection(rotations=2)), ROWS, out)
    before = calls(lms)
    assert answer_all(mixture(lms), ROWS, out, force=True).answered == 4
    assert (calls(lms)["a"], len({row.mixture for row in read_answers(out)})) == (before["a"] + 4, 2)


def test_failures_of_another_mixture_are_no_answers_of_it(out: Path) -> None:
    answer_all(MoA(QA, [FakeLM("wrong", [ValueError("no such model")])], strategy="voting"), ROWS[:1], out)
    assert answer_all(one()[0], ROWS[:1], out).answered == 1


def test_a_second_writer_is_refused(out: Path) -> None:
    moa, lm = one()
    with AnswerFile(out), pytest.raises(ValueError, match="Another process is writing"):
        answer_all(moa, ROWS, out)
    assert (lm.calls, answer_all(moa, ROWS, out).answered) == (0, 5)


def test_bad_places_for_answers_are_refused(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.jsonl", *ROWS)
    moa, lm = one()
    for out, problem in [
        (questions, "holds the questions"),
        (tmp_path / "no" / "a.jsonl", "does not exist"),
        (tmp_path, "no regular file"),
        (Path("/dev/null"), "no regular file"),
    ]:
        with pytest.raises(ValueError, match=problem):
            answer_all(moa, questions, out)
    assert lm.calls == 0


def test_a_missing_key_is_found_before_anything_is_asked(out: Path) -> None:
    lm = FakeLM("paid", echo)
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        answer_all(MoA(QA, [lm, "openai/gpt-5"], strategy="voting"), ROWS, out)
    assert (lm.calls, out.read_text()) == (0, "")


def test_a_row_that_cannot_be_written_ends_the_batch_without_a_half_line(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer_all(one()[0], ROWS[:2], out)
    before, whole = out.read_bytes(), batch_answers._write

    def full(file: Any, line: bytes) -> None:
        whole(file, line[:40])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(batch_answers, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        answer_all(one()[0], ROWS, out, concurrency=1)
    assert out.read_bytes() == before


def test_the_callers_settings_hold_in_the_threads(out: Path) -> None:
    judge = FakeLM("ambient", echo)
    with dspy.context(lm=judge):
        answer_all(MoA(QA, [FakeLM("a", echo), FakeLM("b", says("x"))]), ROWS, out)
    assert judge.calls == 5


def test_one_ctrl_c_lets_the_questions_under_way_finish(out: Path) -> None:
    moa, lm = one(delay=0.02)
    before = signal.getsignal(signal.SIGINT)
    seen: list[bool] = []

    def interrupt(summary: BatchSummary) -> None:
        seen.append(summary.interrupted)
        if summary.answered == 1 and not summary.interrupted:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(BatchInterrupted, match="of 40 questions are left") as caught:
        answer_all(moa, [{"question": str(n)} for n in range(40)], out, concurrency=2, on_progress=interrupt)
    summary = caught.value.summary
    assert summary.interrupted and seen[:2] == [False, False] and seen[-1]
    assert signal.getsignal(signal.SIGINT) is before
    assert summary.answered == lm.calls == len(read_answers(out)) == 40 - summary.left < 40


def test_a_second_ctrl_c_abandons_them(out: Path) -> None:
    hang = threading.Event()

    def hanging(prompt: str) -> Mapping[str, Any]:
        if question(prompt) != "question 0":
            hang.wait(10)
        return echo(prompt)

    def interrupt(summary: BatchSummary) -> None:
        if summary.answered == 1:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(BatchInterrupted) as caught:
        answer_all(one(hanging)[0], ROWS, out, concurrency=2, on_progress=interrupt)
    hang.set()
    assert (caught.value.summary.answered, caught.value.summary.left) == (1, 4)
    assert answers(out) == {"q0": "question 0"}
    assert answer_all(one()[0], ROWS, out).skipped == 1


def test_unicode_stays_on_one_line(out: Path) -> None:
    text = "ä 漢\u2028\u2029\x85\r\n"
    answer_all(one(says("half a \ud83d"))[0], [{"id": 1, "question": "q", "note": text}], out)
    [row] = read_answers(out)
    assert (row.extra, row.outputs) == ({"note": text}, {"answer": "half a ?"})
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1


class Typed(dspy.Signature):
    n: int = dspy.InputField()
    day: datetime.date = dspy.InputField()
    kind: Literal["a", "b"] | None = dspy.InputField()
    names: list[str] = dspy.InputField()
    answer: str = dspy.OutputField()


def test_questions_are_typed_as_the_signature_says(tmp_path: Path) -> None:
    row = {"id": 7, "n": 3, "day": "2024-02-29", "kind": "a", "names": ["x"]}
    [read] = read_questions(write(tmp_path / "q.jsonl", "", row, "  "), Typed)
    assert read.inputs == {"n": 3, "day": datetime.date(2024, 2, 29), "kind": "a", "names": ["x"]}
    assert (read.id, read.given, read.extra) == (7, {key: row[key] for key in row if key != "id"}, {})
    [read] = as_questions([{"n": 3, "day": datetime.date(2024, 2, 29), "names": []}], Typed)
    assert read.given == {"n": 3, "day": "2024-02-29", "names": []}


def test_a_number_is_taken_as_text_and_an_input_named_id_is_an_input() -> None:
    [read] = as_questions([{"id": 5, "question": 7.5}], task_signature("id, question -> answer"))
    assert (read.inputs, len(str(read.id))) == ({"id": "5", "question": "7.5"}, 12)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"question": "a"', "Line 2: this is no JSON: Expecting ',' delimiter"),
        ('["a"]', "Line 2: a row is a JSON object with \"question\", not ['a']"),
        ('{"id": 1, "q": "a"}', "Line 2: the input question is missing. Given: id, q."),
        ('{"question": null}', "Line 2: `question`: Input should be a valid string, not None."),
        ('{"question": "a", "id": "x"}', "Line 2: the id 'x' is that of line 1 too."),
        ('{"question": "a", "id": [1]}', "Line 2: an id is a text or a whole number, not [1]."),
        ('{"question": "a", "id": true}', "Line 2: an id is a text or a whole number, not True."),
        ('{"question": "a", "x": NaN}', "Line 2: this is no JSON: NaN is no JSON."),
        ('{"question": "\\ud800"}', "Line 2: 'utf-8' codec can't encode"),
    ],
)
def test_malformed_rows_are_named_before_anything_is_asked(tmp_path: Path, line: str, problem: str) -> None:
    questions = write(tmp_path / "q.jsonl", {"question": "fine", "id": "x"}, line)
    moa, lm = one()
    with pytest.raises(ValueError) as caught:
        answer_all(moa, questions, tmp_path / "a.jsonl")
    assert problem in str(caught.value) and lm.calls == 0


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)Line 1: .*Line 5: .*\n\.\.\. and 7 more\."):
        read_questions(write(tmp_path / "q.jsonl", *["{}"] * 12), TASK)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'holds no questions\. Write one JSON object a line, with "question"'):
        read_questions(write(tmp_path / "q.jsonl", "", " "), TASK)


def test_the_identity_is_that_of_what_decides_the_answers() -> None:
    def moa(strategy: Any = "voting", signature: str = QA, **options: Any) -> MoA:
        return MoA(signature, [Agent("openai/a", name="a", **options), "openai/b"], "openai/judge", strategy)

    tuned = moa()
    tuned.predictors()[0].demos = [dspy.Example(question="q", answer="a")]
    others = [
        moa(signature="question -> answer: int"),
        moa(temperature=0.5),
        moa(Voting(tolerance=0.1)),
        moa("selection"),
        tuned,
    ]
    assert len({identity(other) for other in [moa(), *others]}) == 6
    assert {identity(moa()), identity(moa(api_key="k")), identity(moa().deepcopy())} == {identity(moa())}
    assert identity(moa()).startswith("voting of a+b by judge [")


def test_rows_are_read_back_as_they_were_written(out: Path) -> None:
    answer_all(one()[0], ROWS[:1], out)
    [row] = read_answers(out)
    assert AnswerRow.model_validate_json(row.line()) == row and row.line() == out.read_bytes()
