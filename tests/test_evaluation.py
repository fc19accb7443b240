import json
from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM

from moa_dspy import Agent, MoA, Strategy, TooFewProposals, Verdict, Voting
from moa_dspy.evaluation import EvaluationInterrupted, evaluate
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import MetricError
from moa_dspy.simulated.questions import bundled_questions
from moa_dspy.strategies import STRATEGIES

QA = "question -> answer"
PANEL = ["simulated/alice", "simulated/bob", "simulated/carol"]
DOWN = dspy.lm15.ServerError("down")


def examples(*golds: str) -> list[dspy.Example]:
    rows = [dspy.Example(question=f"question {number}", answer=gold) for number, gold in enumerate(golds, start=1)]
    return [row.with_inputs("question") for row in rows]


def said(*answers: str | BaseException) -> list[Any]:
    return [answer if isinstance(answer, BaseException) else judged(answer) for answer in answers]


def judged(answer: str) -> Mapping[str, Any]:
    """What an aggregator may be asked for, whichever strategy asks."""
    return {"reasoning": "so", "answer": answer, "choice": "P1"}


def scores(comparison: Comparison) -> dict[str, list[float]]:
    return {system.name: comparison.scores(system.name).tolist() for system in comparison.systems}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_on_the_recorded_proposals_is_the_mixture_itself(strategy: str) -> None:
    questions = bundled_questions()[:12]
    moa = MoA(QA, PANEL, "simulated/judge", strategy=strategy, layers=2)
    comparison = evaluate(moa, questions, strategies=[strategy])
    for question, record in zip(questions, comparison.records, strict=True):
        really = moa(question=question.question)
        here, usage = record.answers[strategy], really.metadata.usage
        assert here.outputs == dict(really.items()) and here.spent is not None
        assert here.spent.calls == usage.calls
        assert here.spent.prompt_tokens == usage.prompt_tokens
        assert here.spent.completion_tokens == usage.completion_tokens


def test_each_model_is_asked_once_and_every_answer_is_scored() -> None:
    a, b = FakeLM("a", said("1", "2")), FakeLM("b", said("1", "0"))
    judge = FakeLM("judge", said("0", "1", "2", "2"))
    comparison = evaluate(MoA(QA, [a, b], judge), examples("1", "2"), strategies=["synthesis"], concurrency=1)
    assert scores(comparison) == {
        "a": [1, 1],
        "b": [1, 0],
        "judge": [0, 1],
        "plain vote": [1, 1],
        "synthesis": [1, 1],
        "oracle": [1, 1],
    }
    assert (a.calls, b.calls, judge.calls, comparison.usage.calls) == (2, 2, 4, 8)
    assert [row.calls for row in comparison.rows] == [1, 1, 1, 2, 3, None]


def test_the_judge_alone_has_the_proposers_prompt() -> None:
    moa = MoA(QA, [FakeLM("a", said("1"))], judge := FakeLM("judge", said("1", "1")))
    shared: Any = moa.panels[0].shared.predict
    shared.signature = shared.signature.with_instructions("Answer like a compiled program.")
    evaluate(moa, examples("1"), strategies=["synthesis"])
    assert ["Answer like a compiled program." in prompt for prompt in judge.prompts] == [True, False]


def test_a_proposer_that_judges_too_is_not_asked_twice() -> None:
    lm = FakeLM("a", said("1", "1"))
    comparison = evaluate(MoA(QA, [lm], lm), examples("1"), strategies=["synthesis"])
    assert [system.name for system in comparison.systems] == ["a", "plain vote", "synthesis", "oracle"]


def test_failures_count_as_wrong_and_are_reported() -> None:
    a, b = FakeLM("a", said("1", DOWN, DOWN)), FakeLM("b", said("1", "1", DOWN))
    comparison = evaluate(MoA(QA, [a, b], strategy="voting"), examples("1", "1", "1"), concurrency=1)
    assert scores(comparison) == {
        "a": [1, 0, 0],
        "b": [1, 1, 0],
        "plain vote": [1, 1, 0],
        "voting": [1, 1, 0],
        "oracle": [1, 1, 0],
    }
    assert [row.failures for row in comparison.rows] == [2, 1, 1, 1, 1]
    assert [(trouble.system, trouble.error, trouble.count) for trouble in comparison.troubles] == [
        ("a", "LMServerError", 2),
        ("b", "LMServerError", 1),
        ("voting", "TooFewProposals", 1),
    ]


def test_a_vote_in_place_of_the_aggregator_is_reported() -> None:
    a, b, judge = FakeLM("a", said("1")), FakeLM("b", said("1")), FakeLM("judge", said("1", DOWN, DOWN))
    comparison = evaluate(MoA(QA, [a, b], judge), examples("1"), strategies=["synthesis"])
    row = comparison.row("synthesis")
    assert (row.score, row.failures, row.fallbacks) == (1.0, 0, 1)
    assert [(trouble.system, trouble.error) for trouble in comparison.troubles] == [("synthesis", "LMServerError")]


def test_samples_count_on_average() -> None:
    a = FakeLM("a", said("1", "0"), temperature=1.0)
    comparison = evaluate(MoA(QA, [a], strategy="voting", num_proposals_per_model=2), examples("1"))
    assert (comparison.row("a").score, comparison.row("a").calls, comparison.row("a").tokens) == (0.5, 1.0, 15.0)
    assert comparison.row("oracle").score == 1.0
    assert sorted(comparison.records[0].proposals) == ["a", "a#2"]


def test_a_sample_that_failed_is_reported_beside_the_others() -> None:
    a = FakeLM("a", lambda prompt: judged("1"), temperature=1.0)
    b = FakeLM("b", said("1", DOWN), temperature=1.0)
    moa = MoA(QA, [a, b], strategy="voting", num_proposals_per_model=2)
    comparison = evaluate(moa, examples("1"), concurrency=1)
    assert (comparison.row("b").score, comparison.row("b").failures) == (0.5, 0)
    assert [(trouble.system, trouble.count) for trouble in comparison.troubles] == [("b", 1)]


def test_the_mixtures_own_strategy_is_taken_as_it_is() -> None:
    class Last(Strategy):
        name = "last"

        def decide(self, case: Any) -> Verdict:
            return Verdict(case.proposals[-1].outputs, selected=case.proposals[-1].id)

    moa = MoA(QA, [FakeLM("a", said("1", "1")), FakeLM("b", said("2", "1"))], strategy=Last())
    assert scores(evaluate(moa, examples("2", "1"), concurrency=1)) == {
        "a": [0, 1],
        "b": [1, 1],
        "plain vote": [0, 1],
        "voting": [0, 1],
        "last": [1, 1],
        "oracle": [1, 1],
    }


def test_two_strategies_of_one_name_are_told_apart() -> None:
    moa = MoA(QA, [FakeLM("a", said("1")), FakeLM("b", said("2"))], strategy="voting")
    comparison = evaluate(moa, examples("2"), strategies=["voting", Voting(weights={"b": 2.0})])
    assert scores(comparison) | {"voting": [0], "voting 2": [1]} == scores(comparison)


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


def test_a_metric_that_cannot_score_the_gold_answer_costs_nothing() -> None:
    a = FakeLM("a", [])
    with pytest.raises(MetricError, match="gave None, which is no score"):
        evaluate(MoA(QA, [a], strategy="voting"), examples("1"), lambda example, prediction: None)
    assert a.calls == 0


def test_a_metric_that_fails_later_loses_nothing() -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction) -> bool:
        return {"1": True}[prediction.answer]

    moa = MoA(QA, [FakeLM("a", said("1", "2"))], strategy="voting")
    with pytest.raises(MetricError, match="raised KeyError: '2'") as failed:
        evaluate(moa, examples("1", "1"), metric, concurrency=1)
    assert failed.value.comparison is not None
    assert [record.number for record in failed.value.comparison.records] == [1]


def test_an_interrupt_keeps_what_was_finished() -> None:
    def interrupt(done: int, planned: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    moa = MoA(QA, [FakeLM("a", lambda prompt: judged("1"))], strategy="voting")
    with pytest.raises(EvaluationInterrupted) as stopped:
        evaluate(moa, examples(*"11111"), concurrency=1, on_progress=interrupt)
    assert (len(stopped.value.comparison.records), stopped.value.comparison.planned) == (2, 5)


def test_the_rest_is_not_asked_if_nobody_answers_the_first_question() -> None:
    a, b = FakeLM("a", said(DOWN)), FakeLM("b", said(DOWN))
    with pytest.raises(TooFewProposals, match=r"No proposer answered the first question.*b: LMServerError") as error:
        evaluate(MoA(QA, [a, b], strategy="voting"), examples("1", "1"))
    assert (a.calls, b.calls, error.value.metadata.usage.calls) == (1, 1, 2)


def test_the_rest_is_not_asked_if_the_aggregators_model_does_not_answer() -> None:
    moa = MoA(QA, [FakeLM("a", said("1"))], FakeLM("judge", said(DOWN)))
    with pytest.raises(TooFewProposals, match=r"aggregator's model did not answer.*judge: LMServerError"):
        evaluate(moa, examples("1", "1"), strategies=[])


def test_questions_side_by_side_stand_in_order_and_see_the_callers_settings() -> None:
    with dspy.context(lm=FakeLM("ambient", lambda prompt: judged("1"))):
        moa = MoA(QA, [FakeLM("a", lambda prompt: judged("1"))])
        comparison = evaluate(moa, examples(*"1111111"), strategies=["synthesis"], concurrency=4)
    assert [record.number for record in comparison.records] == [1, 2, 3, 4, 5, 6, 7]
    assert comparison.row("ambient").kind == "aggregator"


def test_records_are_plain_data() -> None:
    moa = MoA("question -> answer: float", [FakeLM("a", said("1.5"))], strategy="voting")
    [record] = evaluate(moa, examples("1.5")).records
    plain = json.loads(json.dumps(record.to_dict()))
    assert plain["question"] == 1 and plain["example"] == {"question": "question 1", "answer": "1.5"}
    assert plain["proposals"]["a"]["outputs"] == {"answer": 1.5}
    assert plain["answers"]["voting"]["spent"] | {"seconds": 0} == {
        "calls": 1.0,
        "prompt_tokens": 10.0,
        "completion_tokens": 5.0,
        "cost_usd": None,
        "seconds": 0,
        "cached": False,
    }


@pytest.mark.parametrize(
    ("dataset", "settings", "message"),
    [
        ([], {}, "dataset is empty"),
        (examples("1"), {"concurrency": 0}, "asks nothing"),
        (examples("1"), {"strategies": ["nope"]}, "no strategy 'nope'"),
        (examples("1"), {"metric": "nope"}, "no metric 'nope'"),
    ],
)
def test_what_cannot_be_compared_is_refused(dataset: Any, settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate(MoA(QA, [FakeLM("a", [])], strategy="voting"), dataset, **settings)


def test_a_missing_key_is_found_before_anything_is_asked() -> None:
    a = FakeLM("a", [])
    with pytest.raises(ValueError, match="OPENAI_API_KEY"):
        evaluate(MoA(QA, [a, "openai/gpt-5-mini"], strategy="voting"), examples("1"))
    assert a.calls == 0
