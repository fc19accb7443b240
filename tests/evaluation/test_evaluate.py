import datetime
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import BaseModel
from support.fake_lm import FakeLM

from moa_dspy import Agent, MoA, Recording, Strategy, TooFewProposals, Verdict, Voting, record
from moa_dspy.evaluation import Comparison, EvaluationInterrupted, MetricError, evaluate

QA = "question -> answer"
PANEL = ["simulated/alice", "simulated/bob", "simulated/carol"]
DOWN = dspy.lm15.ServerError("down")


def examples(*golds: str) -> list[dspy.Example]:
    rows = [dspy.Example(question=f"question {number}", answer=gold) for number, gold in enumerate(golds, start=1)]
    return [row.with_inputs("question") for row in rows]


def said(*answers: str | BaseException) -> list[Any]:
    return [answer if isinstance(answer, BaseException) else judged(answer) for answer in answers]


def judged(answer: Any) -> Mapping[str, Any]:
    """What an aggregator may be asked for, whichever strategy asks."""
    return {"reasoning": "so", "answer": answer, "choice": "P1"}


def always(answer: Any) -> Any:
    return lambda prompt: judged(answer)


def scores(comparison: Comparison) -> dict[str, list[float]]:
    return {system.name: comparison.scores(system.name).tolist() for system in comparison.systems}


def test_the_judge_is_asked_alone_too_unless_it_is_a_proposer() -> None:
    a, judge = FakeLM("a", said("1", "1")), FakeLM("judge", said("1", "0"))
    comparison = evaluate(MoA(QA, [a], judge), examples("1"), strategies=["synthesis"])
    assert scores(comparison) == {"a": [1], "judge": [0], "plain vote": [1], "synthesis": [1], "oracle": [1]}
    assert [system.models for system in comparison.systems[1:4]] == [("judge",), ("a",), ("a", "judge")]
    moa = MoA(QA, [lm := FakeLM("a", said("1", "1"))], lm)
    alone = evaluate(moa, examples("1"), strategies=["synthesis"])
    assert list(scores(alone)) == ["a", "plain vote", "synthesis", "oracle"]


def test_the_judge_alone_has_the_proposers_prompt() -> None:
    moa = MoA(QA, [FakeLM("a", said("1"))], judge := FakeLM("judge", said("1", "1")))
    shared: Any = moa.panels[0].shared.predict
    shared.signature = shared.signature.with_instructions("Answer like a compiled program.")
    evaluate(moa, examples("1"), strategies=["synthesis"])
    assert ["Answer like a compiled program." in prompt for prompt in judge.prompts] == [False, True]


def test_a_vote_in_place_of_the_aggregator_is_reported() -> None:
    a, b, judge = FakeLM("a", said("1")), FakeLM("b", said("1")), FakeLM("judge", said(DOWN, DOWN, "1"))
    comparison = evaluate(MoA(QA, [a, b], judge), examples("1"), strategies=["synthesis"])
    row = comparison.row("synthesis")
    assert (row.score, row.failures, row.fallbacks) == (1.0, 0, 1)
    assert [(trouble.who, trouble.error) for trouble in comparison.troubles] == [("synthesis", "LMServerError")]


def test_samples_count_on_average() -> None:
    a = FakeLM("a", said("1", "0"), temperature=1.0)
    comparison = evaluate(MoA(QA, [a], strategy="voting", num_proposals_per_model=2), examples("1"))
    assert (comparison.row("a").score, comparison.row("a").calls, comparison.row("a").tokens) == (0.5, 1.0, 15.0)
    assert (comparison.row("oracle").score, comparison.row("plain vote").calls) == (1.0, 2.0)
    assert sorted(comparison.questions[0].proposals) == ["a", "a#2"]


def test_a_sample_that_failed_is_reported_beside_the_others() -> None:
    a, b = FakeLM("a", always("1"), temperature=1.0), FakeLM("b", said("1", DOWN), temperature=1.0)
    comparison = evaluate(MoA(QA, [a, b], strategy="voting", num_proposals_per_model=2), examples("1"))
    assert (comparison.row("b").score, comparison.row("b").failures) == (0.5, 0)
    assert [(trouble.who, trouble.count) for trouble in comparison.troubles] == [("b", 1)]


class Last(Strategy):
    name = "last"

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[-1].outputs, selected=case.proposals[-1].id)


def test_the_mixtures_own_strategy_is_taken_as_it_is() -> None:
    moa = MoA(QA, [FakeLM("a", said("1", "1")), FakeLM("b", said("2", "1"))], strategy=Last())
    comparison = evaluate(moa, examples("2", "1"), concurrency=1)
    assert [scores(comparison)[name] for name in ("voting", "last")] == [[0, 1], [1, 1]]
    assert scores(evaluate(moa, comparison.recording)) == scores(comparison)


def test_other_modules_are_really_called() -> None:
    class Failing(dspy.Module):
        def forward(self, question: str) -> dspy.Prediction:
            raise RuntimeError("broken")

    mine = Agent(FakeLM("mine", said("1")), dspy.ChainOfThought(QA))
    moa = MoA(QA, [FakeLM("a", said("0"))], strategy="voting")
    comparison = evaluate(moa, examples("1"), others={"mine": mine, "failing": Failing()})
    assert (comparison.row("mine").score, comparison.row("mine").tokens) == (1.0, 15.0)
    assert (comparison.row("failing").failures, comparison.troubles[0].message) == (1, "broken")
    assert comparison.usage.calls == 2


@pytest.mark.usefixtures("cached")
def test_what_the_cache_answered_is_not_taken_for_cheap() -> None:
    moa = MoA(QA, [FakeLM("a", said("1"), cache=True)], strategy="voting")
    fresh, cached = evaluate(moa, examples("1")).row("a"), evaluate(moa, examples("1")).row("a")
    assert (fresh.score, fresh.calls, fresh.tokens, fresh.cached) == (1.0, 1.0, 15.0, 0)
    assert (cached.score, cached.calls, cached.tokens, cached.seconds, cached.cached) == (1.0, 1.0, None, None, 1)


@pytest.mark.parametrize(
    ("dataset", "metric", "message"),
    [
        (examples("1"), lambda example, prediction: None, "gave None, which is no score"),
        ([{"question": "no gold"}], "exact", "no gold value for any of answer"),
    ],
)
def test_a_metric_that_cannot_score_the_gold_answer_costs_nothing(dataset: Any, metric: Any, message: str) -> None:
    with pytest.raises(MetricError, match=message):
        evaluate(MoA(QA, [FakeLM("a", [])], strategy="voting"), dataset, metric)


def picky(example: dspy.Example, prediction: dspy.Prediction) -> bool:
    return {"1": True}[prediction.answer]


def test_a_metric_that_fails_later_loses_nothing() -> None:
    moa = MoA(QA, [FakeLM("a", said("1", "2", "1"))], strategy="voting")
    with pytest.raises(MetricError, match="raised KeyError: '2'") as failed:
        evaluate(moa, examples("1", "1", "1"), picky, concurrency=1)
    assert failed.value.comparison is not None and failed.value.recording is not None
    assert (len(failed.value.comparison.questions), failed.value.comparison.planned) == (1, 3)
    assert evaluate(moa, failed.value.recording, "exact").row("a").score == pytest.approx(2 / 3)


def test_an_interrupt_keeps_what_was_finished() -> None:
    def interrupt(done: int, planned: int) -> None:
        if done == 2:
            signal.raise_signal(signal.SIGINT)

    moa = MoA(QA, [FakeLM("a", always("1"), delay=0.01)], strategy="voting")
    with pytest.raises(EvaluationInterrupted) as stopped:
        evaluate(moa, examples(*"1" * 40), concurrency=1, on_progress=interrupt)
    comparison = stopped.value.comparison
    assert 2 <= len(comparison.questions) < 40 and comparison.planned == 40 and comparison.row("a").score == 1


def test_the_rest_is_not_asked_if_the_aggregators_model_does_not_answer() -> None:
    moa = MoA(QA, [FakeLM("a", said("1"))], FakeLM("judge", said(DOWN)))
    with pytest.raises(TooFewProposals, match=r"aggregator's model did not answer.*judge: LMServerError"):
        evaluate(moa, examples("1", "1"), strategies=[])


def test_questions_side_by_side_stand_in_order_and_see_the_callers_settings() -> None:
    seen: list[tuple[int, int]] = []
    with dspy.context(lm=FakeLM("ambient", always("1"))):
        moa = MoA(QA, [FakeLM("a", always("1"))])
        comparison = evaluate(
            moa, examples(*"1111111"), strategies=["synthesis"], on_progress=lambda *done: seen.append(done)
        )
    assert [row.row.inputs["question"] for row in comparison.questions] == [f"question {n}" for n in range(1, 8)]
    assert comparison.row("ambient").kind == "aggregator"
    assert seen == [(n, 7) for n in range(8)]


class Invoice(BaseModel):
    total: float
    day: datetime.date


class Typed(dspy.Signature):
    day: datetime.date = dspy.InputField()
    answer: Invoice = dspy.OutputField()


def test_a_metric_sees_typed_values_also_of_a_file(tmp_path: Path) -> None:
    def same_day(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return bool(example.day == example.answer.day == prediction.answer.day and example.note == "n")

    moa = MoA(Typed, [FakeLM("a", always({"total": 1, "day": "2024-02-29"}))], strategy="voting")
    day = datetime.date(2024, 2, 29)
    row = dspy.Example(day=day, answer=Invoice(total=1, day=day), note="n").with_inputs("day")
    comparison = evaluate(moa, [row], same_day)
    assert comparison.row("a").score == 1 and comparison.questions[0].example is row
    data = tmp_path / "data.json"
    data.write_text('[{"day": "2024-02-29", "answer": {"total": 1, "day": "2024-02-29"}, "note": "n"}]')
    path = tmp_path / "answers.jsonl"
    assert evaluate(moa, data, same_day, path=path).row("a").score == 1
    assert evaluate(moa, path, same_day).row("a").score == 1


def test_a_recording_is_scored_anew_without_a_call(tmp_path: Path) -> None:
    a, b, judge = FakeLM("a", said("1", "2")), FakeLM("b", said("1", "3")), FakeLM("judge", always("2"))
    moa, path = MoA(QA, [a, b], judge), tmp_path / "answers.jsonl"
    mine, asked = Agent(FakeLM("mine", said("1", "1")), dspy.ChainOfThought(QA)), ["synthesis", "selection"]
    first = evaluate(moa, examples("1", "2"), strategies=asked, others={"mine": mine}, path=path, concurrency=1)
    calls = judge.calls
    again = evaluate(moa, path, strategies=asked)
    assert scores(again) == scores(first) and again.to_dict() == first.to_dict()
    some = evaluate(moa, Recording.load(path), "contains", strategies=["synthesis"], others={})
    assert list(scores(some)) == ["a", "b", "judge", "plain vote", "synthesis", "oracle"]
    assert list(scores(evaluate(moa, path, strategies=[], aggregator_alone=False, others={})))[2:] == [
        *("plain vote", "oracle")
    ]
    assert judge.calls == calls


def test_what_a_recording_lacks_is_left_out_unless_it_is_arithmetic(caplog: pytest.LogCaptureFixture) -> None:
    moa = MoA(QA, [FakeLM("a", said("1", "1")), FakeLM("b", said("1", "2"))], FakeLM("judge", []))
    recording = record(moa, examples("1", "1"), strategies=[], concurrency=1)
    assert list(scores(evaluate(moa, recording))) == ["a", "b", "plain vote", "voting", "oracle"]
    assert "synthesis" not in scores(evaluate(moa, recording, strategies=["synthesis"], others={"x": moa}))
    assert "synthesis, x: not in the recording, and left out" in caplog.text
    with pytest.raises(ValueError, match=r"holds no answer of c \(it has a, b\)"):
        evaluate(MoA(QA, [Agent(FakeLM("c", []))], strategy="voting"), recording)


def test_a_table_of_answers_is_scored_and_costs_are_not_known(tmp_path: Path) -> None:
    recording = Recording.from_answers({"x": ["1", "0"], "y": ["1", None], "z": ["0", "1"]}, examples("1", "1"))
    moa = MoA(QA, [Agent(FakeLM(name, []), name=name) for name in "xyz"], strategy=Voting(weights={"z": 3}))
    comparison = evaluate(moa, recording)
    assert scores(comparison) == {
        "x": [1, 0],
        "y": [1, 0],
        "z": [0, 1],
        "plain vote": [1, 0],
        "voting": [0, 1],
        "oracle": [1, 1],
    }
    assert {row.calls for row in comparison.rows} == {None} and comparison.row("y").failures == 1
    assert "no costs are recorded" in comparison.plot(tmp_path / "plot.svg").read_text()


def test_fewer_agents_and_samples_than_were_recorded_may_be_scored() -> None:
    lms = [FakeLM(name, always(name), temperature=1.0) for name in "abc"]
    recording = record(MoA(QA, lms, strategy="voting", num_proposals_per_model=3), examples("1"), strategies=[])
    comparison = evaluate(MoA(QA, lms[:2], strategy="voting"), recording)
    assert list(scores(comparison)) == ["a", "b", "plain vote", "voting", "oracle"]
    assert [row.calls for row in comparison.rows] == [1, 1, 2, 2, None]


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        (Recording(), {}, "dataset is empty"),
        (examples("1"), {"strategies": ["synthesis"]}, "needs an aggregator, and there is none"),
        (examples("1"), {"others": {"voting": dspy.Predict(QA)}}, "`others` names 'voting', which is a strategy"),
        (examples("1"), {"others": {"a": dspy.Predict(QA)}}, "'a' names two systems"),
        ([{"answer": "1"}], {}, "Row 1: the input question is missing"),
        (Recording(), {"path": "x.jsonl"}, "nothing to keep in x.jsonl"),
    ],
)
def test_what_cannot_be_compared_is_refused(dataset: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(MoA(QA, [FakeLM("a", [])], strategy="voting"), dataset, **settings)


def test_a_program_that_is_no_mixture_is_told_what_to_write() -> None:
    program: Any = dspy.Predict(QA)
    with pytest.raises(TypeError, match=r"this is Predict\. Write evaluate\(MoA"):
        evaluate(program, examples("1"))


def test_a_missing_key_is_found_before_anything_is_asked() -> None:
    a = FakeLM("a", [])
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        evaluate(MoA(QA, [a, "openai/gpt-5-mini"], strategy="voting"), examples("1"))
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        evaluate(MoA(QA, [a], "openai/gpt-5-mini"), examples("1"), strategies=[])
    assert a.calls == 0


def test_the_answers_of_a_mixture_that_was_asked_as_it_is_are_scored() -> None:
    moa = MoA(QA, [FakeLM("a", said("1")), FakeLM("b", said("2"))], FakeLM("judge", said("3")))
    comparison = evaluate(moa, record(moa, examples("3")))
    assert scores(comparison) | {"synthesis": [1], "plain vote": [0]} == scores(comparison)
    assert (comparison.row("synthesis").calls, comparison.row("plain vote").calls) == (3, 2)
    assert comparison.usage.calls == 3
