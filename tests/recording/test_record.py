"""What a recording keeps, resumes and refuses."""

import fcntl
import json
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, cast, echo, mixture, question, says

from moa_dspy import Agent, Limits, MoA, Recording, Selection, Voting, record
from moa_dspy.recording import RecordingInterrupted, Row, Summary
from moa_dspy.recording.identity import identity

ROWS = [{"id": f"q{n}", "question": f"question {n}"} for n in range(5)]
DOWN = dspy.lm15.ServerError("down")


def one(answers: Any = echo, **options: Any) -> tuple[MoA, FakeLM]:
    """A mixture of one, which asks one call a question, and its LM."""
    lm = FakeLM("only", answers, **options)
    return MoA(QA, [lm], strategy="voting"), lm


def answers(rows: Any) -> dict[Any, Any]:
    rows = Recording.load(rows) if isinstance(rows, Path) else rows
    return {row.id: row.outputs and row.outputs["answer"] for row in rows}


def asked(lm: FakeLM) -> list[str]:
    return sorted(question(prompt) for prompt in lm.prompts)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "answers.jsonl"


def test_the_summary_adds_up(out: Path) -> None:
    lms = {"a": FakeLM("a", says("x")), "b": FakeLM("b", echo), "judge": FakeLM("judge", says("x"))}
    seen: list[Summary] = []
    record(mixture(lms), [{"question": "x"}, {"question": "y"}], out, on_row=lambda row, summary: seen.append(summary))
    summary = seen[-1]
    assert (summary.usage.calls, summary.usage.prompt_tokens, summary.usage.cost_usd) == (6, 60, None)
    assert summary.model_dump(exclude={"usage", "earlier_usage", "seconds"}) == {
        **dict.fromkeys(["skipped", "failed", "left", "pending", "degraded", "others"], 0),
        "batches": [],
        "questions": 2,
        "answered": 2,
        "interrupted": False,
        "stopped": None,
        "troubles": [],
        "agreement": 0.75,
    }


def test_after_the_aggregator_failed_only_it_is_asked_again(out: Path) -> None:
    lms = {"a": FakeLM("a", [says("1")("")]), "judge": FakeLM("judge", [DOWN, DOWN, says("2")("")])}
    moa = mixture(lms, limits={"on_degraded": "raise"})
    assert record(moa, ROWS[:1], out)[0].error is not None
    failed = Recording.load(out)[0].usage.calls
    [row] = record(moa, ROWS[:1], out)
    assert (row.outputs, row.error, row.usage.calls, calls(lms)["a"]) == ({"answer": "2"}, None, failed + 1, 1)


def test_proposals_are_asked_for_once_and_every_strategy_decides_on_them(out: Path) -> None:
    lms = {"a": FakeLM("a", says("1")), "b": FakeLM("b", says("2")), "judge": FakeLM("judge", says("3"))}
    moa = mixture(lms)
    other = Agent(FakeLM("other", [DOWN, says("4")("")]), dspy.ChainOfThought(QA))
    [row] = record(moa, ROWS[:1], out, strategies=["synthesis"], others={"other": other})
    assert {name: verdict.outputs for name, verdict in row.verdicts.items()} == {
        "synthesis": {"answer": "3"},
        "other": None,
    }
    [row] = record(moa, ROWS[:1], out, strategies=["selection", "synthesis"], others={"other": other})
    assert {name: verdict.outputs for name, verdict in row.verdicts.items()} == {
        "synthesis": {"answer": "3"},
        "other": {"answer": "4"},
        "selection": {"answer": row.verdicts["selection"].outputs["answer"]},  # type: ignore[index]
    }
    assert calls(lms) == {"a": 1, "b": 1, "judge": 2} and row.usage.calls == 5 + len(row.earlier_calls) == 6
    [row] = record(moa, ROWS[:1], out, strategies=["selection"])
    assert list(row.verdicts) == ["synthesis", "selection", "other"] and lms["judge"].calls == 2


def test_a_verdict_of_another_prompt_is_asked_for_anew_on_the_same_proposals(out: Path) -> None:
    lms = cast("a", "b", "judge")
    record(mixture(lms), ROWS[:1], out, strategies=["synthesis"])
    tuned = mixture(lms)
    tuned.aggregator.predictors()[0].demos = [dspy.Example(question="q", proposals="p", answer="a")]
    record(tuned, ROWS[:1], out, strategies=["synthesis"])
    assert calls(lms) == {"a": 1, "b": 1, "judge": 2}


def test_known_rows_and_imported_answers_need_not_be_asked_for() -> None:
    imported = Recording.from_answers({"a": ["1"], "b": ["2"]}, [{"question": "why"}])
    lms = {"a": FakeLM("a", []), "b": FakeLM("b", []), "judge": FakeLM("judge", says("2"))}
    [row] = record(mixture(lms), [{"question": "why"}], known=imported, strategies=["synthesis"])
    assert row.verdicts["synthesis"].outputs == {"answer": "2"}
    assert answers(record(mixture(lms), [{"question": "why"}], known=imported)) == {row.id: "2"}


def test_known_rows_are_kept_in_the_file_without_asking(out: Path) -> None:
    known = record(one()[0], ROWS[:2])
    moa, lm = one()
    assert list(answers(record(moa, ROWS[:3], out, known=known))) == ["q0", "q1", "q2"]
    assert asked(lm) == ["question 2"] and list(answers(out)) == ["q0", "q1", "q2"]


def test_the_answer_of_a_whole_mixture_is_its_strategys_verdict(out: Path) -> None:
    lms = cast("a", "b", "judge")
    whole = record(mixture(lms), ROWS[:1], out)
    [row] = record(mixture(lms), ROWS[:1], out, strategies=["synthesis", "selection"])
    assert row.verdicts["synthesis"].outputs == {"answer": "judge"} and row.usage.calls == 4
    assert (calls(lms), row.outputs) == ({"a": 1, "b": 1, "judge": 2}, whole[0].outputs)


def test_a_strategy_that_nobody_can_decide_is_refused_before_anything_is_asked() -> None:
    moa, lm = one()
    with pytest.raises(ValueError, match="needs an aggregator, and there is none"):
        record(moa, ROWS, strategies=["synthesis"])
    assert lm.calls == 0


def test_an_outage_is_asked_again_and_a_bad_answer_is_not(out: Path) -> None:
    down, bad = FakeLM("a", [DOWN, says("1")("")]), FakeLM("b", ["no field", "no field", says("1")("")])
    moa = MoA(QA, [down, bad, FakeLM("c", says("1"))], strategy="voting")
    record(moa, ROWS[:1], out, strategies=[])
    before = bad.calls
    [row] = record(moa, ROWS[:1], out, strategies=[])
    assert [proposal.id for proposal in row.proposals] == ["a", "b", "c"]
    record(moa, ROWS[:1], out, strategies=[])
    assert (down.calls, bad.calls) == (2, before + 1)


def test_new_proposals_are_decided_anew_and_other_modules_keep_their_answers(out: Path) -> None:
    a, b, c = FakeLM("a", [DOWN, says("2")("")]), FakeLM("b", says("1")), FakeLM("c", says("2"))
    other = Agent(FakeLM("other", [says("3")("")]), dspy.ChainOfThought(QA))
    moa = MoA(QA, [b, a, c], strategy="voting")
    found = [record(moa, ROWS[:1], out, strategies=["voting"], others={"other": other})[0] for _ in range(2)]
    assert [row.verdicts["voting"].outputs for row in found] == [{"answer": "1"}, {"answer": "2"}]
    assert found[1].verdicts["other"].outputs == {"answer": "3"}


def test_a_first_line_cut_short_is_no_other_file(out: Path) -> None:
    record(one()[0], ROWS[:2], out)
    first, second = out.read_bytes().splitlines(keepends=True)
    for torn in (first[:250], first[:250] + b"\n" + second):
        out.write_bytes(torn)
        assert list(answers(record(one()[0], ROWS[:2], out))) == list(answers(out)) == ["q0", "q1"]


def test_a_last_line_that_lacks_its_end_only_is_an_answer(out: Path) -> None:
    record(one()[0], ROWS[:2], out)
    out.write_bytes(out.read_bytes()[:-1])
    moa, lm = one()
    record(moa, ROWS[:3], out)
    assert (asked(lm), list(answers(out))) == (["question 2"], ["q0", "q1", "q2"])


@pytest.mark.parametrize(
    "text",
    ["notes", "notes\n", '{"question": "a"}\n', '{"id": 1}\n', '{"recording": 1, "id": 1}\n', "[" * 100_000, "\xff\n"],
)
def test_a_file_of_something_else_is_refused_and_left_alone(out: Path, text: str) -> None:
    out.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=r"Line 1 of .* is no row of a recording"):
        record(one()[0], ROWS, out)
    assert out.read_text(encoding="latin-1") == text


def test_a_newer_format_is_refused(out: Path) -> None:
    record(one()[0], ROWS[:1], out)
    out.write_text(out.read_text().replace('{"recording": 1', '{"recording": 2'))
    with pytest.raises(ValueError, match=r"of format 2, and this version reads format 1\. Update moa-dspy"):
        Recording.load(out)


def test_what_a_newer_version_wrote_beside_is_kept(out: Path) -> None:
    record(one()[0], ROWS[:1], out, strategies=["voting"])
    text = out.read_text().replace('{"recording": 1', '{"recording": 1, "new": {"x": [1]}')
    out.write_text(text.replace('"proposals": [{', '"proposals": [{"cited": 1, '))
    record(one()[0], ROWS[:2], out, strategies=["voting"])
    assert '"new": {"x": [1]}' in out.read_text()


def test_a_file_of_another_mixture_is_refused_unless_forced(out: Path) -> None:
    lms = cast("a", "b", "judge")
    record(mixture(lms, strategy="selection"), ROWS[:1], out)
    with pytest.raises(ValueError, match=r"there: selection of a\+b by judge .*\n  now:   synthesis of a\+b by judge"):
        record(mixture(lms), ROWS, out)
    with pytest.raises(ValueError, match="What changed: the proposers' models"):
        record(mixture(cast("a", "c", "judge"), strategy="selection"), ROWS, out)
    record(mixture(lms), ROWS, out, force=True)
    assert len({row.mixture for row in Recording.load(out)}) == 2
    with pytest.raises(ValueError, match="What changed: the task"):
        record(MoA("question -> answer: int", list(lms.values()), strategy="voting"), ROWS, out)


def test_a_file_that_is_sorted_while_another_process_opens_it_is_opened_anew(out: Path) -> None:
    record(one()[0], ROWS[:2], out)
    moa, lm = one()
    with open(out, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        other = threading.Thread(target=lambda: record(moa, ROWS[:3], out))
        other.start()
        other.join(0.2)
        Recording.load(out).save(out)  # another file in its place
        fcntl.flock(held, fcntl.LOCK_UN)
    other.join(10)
    assert (asked(lm), list(answers(out))) == (["question 2"], ["q0", "q1", "q2"])


def test_a_line_that_another_process_is_writing_is_read_when_it_is_whole(out: Path) -> None:
    record(one()[0], ROWS[:3], out)
    first, second, _ = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(first + second[:50])

    def go_on(row: Row | None, summary: Summary) -> None:
        if row is None:
            with open(out, "ab") as other:
                other.write(second[50:])

    moa, lm = one()
    record(moa, [ROWS[3], *ROWS[:3]], out, concurrency=1, on_row=go_on)
    assert asked(lm) == ["question 2", "question 3"] and list(answers(out)) == ["q3", "q0", "q1", "q2"]


def interrupted(moa: MoA, rows: Any, out: Path | None, when: Callable[[Summary], bool]) -> RecordingInterrupted:
    def interrupt(row: Row | None, summary: Summary) -> None:
        if when(summary):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RecordingInterrupted, match="questions are left") as caught:
        record(moa, rows, out, concurrency=2, on_row=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    return caught.value


@pytest.mark.parametrize("in_file", [True, False])
def test_one_ctrl_c_lets_the_questions_under_way_finish(out: Path, in_file: bool) -> None:
    moa, lm = one(delay=0.02)
    rows = [{"question": str(n)} for n in range(40)]
    stop = interrupted(moa, rows, out if in_file else None, lambda s: s.answered == 1 and not s.interrupted)
    assert stop.summary.interrupted and stop.summary.answered == lm.calls == len(stop.recording) < 40
    assert stop.summary.left == 40 - lm.calls and (not in_file or len(Recording.load(out)) == lm.calls)


def test_a_second_ctrl_c_abandons_them(out: Path) -> None:
    hang = threading.Event()

    def hanging(prompt: str) -> Mapping[str, Any]:
        if question(prompt) != "question 0":
            hang.wait(10)
        return echo(prompt)

    stop = interrupted(one(hanging)[0], ROWS, out, lambda summary: summary.answered == 1)
    hang.set()
    assert (stop.summary.answered, stop.summary.left, answers(stop.recording)) == (1, 4, {"q0": "question 0"})
    moa, lm = one()
    record(moa, ROWS, out)
    assert "question 0" not in asked(lm)


def test_text_of_any_kind_stays_on_one_line_of_strict_json(out: Path) -> None:
    said = {"reasoning": "so", "answer": "NaN", "text": "\ud83d"}
    moa = MoA("question -> answer: float, text", [FakeLM("a", lambda prompt: said)], strategy="voting")
    extra = {"note": "ä 漢\u2028\u2029\x85\r\n", "x": float("inf")}
    record(moa, [{"id": 1, "question": "q", **extra}], out, strategies=[])
    record(moa, [{"id": 1, "question": "q", **extra}, {"id": 2, "question": "p"}][:1], out, strategies=[])
    assert len(out.read_text(encoding="utf-8").splitlines()) == 1
    json.loads(out.read_text(), parse_constant=pytest.fail)
    [row] = Recording.load(out)
    assert (row.extra, row.proposals[0].outputs["answer"]) == ({**extra, "x": None}, None)


def test_the_identity_is_that_of_what_decides_the_answers() -> None:
    def moa(strategy: Any = "voting", signature: str = QA, **options: Any) -> MoA:
        return MoA(signature, [Agent("openai/a", name="a", **options), "openai/b"], "openai/judge", strategy)

    tuned = moa()
    tuned.predictors()[0].demos = [dspy.Example(question="q", answer="a")]
    int_task = moa(signature="question -> answer: int")
    others = [int_task, moa(temperature=0.5), moa(Voting(tolerance=0.1)), moa("selection"), tuned]
    assert len({identity(other) for other in [moa(), *others]}) == 6
    reached: dict[str, Any] = {
        "api_key": "k",
        "api_base": "http://b",
        "timeout": 9,
        "num_retries": 7,
        "extra_headers": {"x": "y"},
    }
    same = [moa(**reached, cache=False, prices={"input": 1.0, "output": 2.0}), moa().deepcopy()]
    same[1].limits = Limits(min_proposals=2, proposer_timeout=3)
    assert {identity(one) for one in same} == {identity(moa())}
    assert identity(moa()).startswith("voting of a+b by judge [")


@pytest.mark.parametrize(
    ("strategy", "fingerprint"),
    [(Voting(), "927fb90c"), (Selection(verifiers=[len]), "f29d318e")],
    ids=["vote", "select"],
)
def test_a_strategy_has_the_identity_it_always_had_so_that_old_files_are_resumed(
    strategy: Any, fingerprint: str
) -> None:
    moa = MoA("question -> answer", [Agent("openai/a", name="a")], strategy=strategy)
    assert identity(moa).endswith(f"aggregator {fingerprint}]")


def test_a_selection_has_no_options_but_its_own() -> None:
    assert {"needs_aggregator", "asks_one_lm"}.isdisjoint(vars(Selection()))  # its identity would be another


def test_the_rows_of_a_recording_are_questions_too() -> None:
    moa, lm = one()
    again = record(moa, record(moa, ROWS[:2]))
    assert answers(again) == {"q0": "question 0", "q1": "question 1"} and lm.calls == 4
