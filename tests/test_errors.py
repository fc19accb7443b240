import copy
import pickle
from typing import Any

import dspy
import pytest
from dspy.lm15 import ContextLengthError, RateLimitError
from dspy.utils.exceptions import ContextWindowExceededError, DSPyError, LMRateLimitError
from support.fake_lm import FakeLM
from support.mixtures import QA, Gives, says

from moa_dspy import Agent, AggregationFailed, Limits, MoA, MoAError, ProposersOutOfContext, TooFewProposals


def raised(*answers: Any, judge: Any = None, **options: Any) -> MoAError:
    moa = MoA(QA, [FakeLM(f"m{n}", [answer]) for n, answer in enumerate(answers)], judge, **options)
    with pytest.raises(MoAError) as caught:
        moa(question="?")
    return caught.value


def test_they_are_dspys_own_with_the_cause_chained() -> None:
    error = raised(RateLimitError("slow down"), strategy="voting")
    assert isinstance(error, DSPyError) and type(error) is TooFewProposals
    assert isinstance(error.__cause__, LMRateLimitError) and error.__cause__.__traceback__ is not None
    assert error.retryable


def test_a_bug_in_a_program_is_not_worth_another_try() -> None:
    class Broken(dspy.Module):
        def forward(self, question: str) -> Any:
            return dict[str, Any]()["nothing"]

    with pytest.raises(TooFewProposals) as caught:
        MoA(QA, [Agent(program=Broken(), name="a")], strategy="voting")(question="?")
    assert isinstance(caught.value.__cause__, KeyError) and not caught.value.retryable


def test_a_caller_that_handles_long_inputs_gets_to_handle_them() -> None:
    error = raised(ContextLengthError("too long"), ContextLengthError("too long"), strategy="voting")
    assert type(error) is ProposersOutOfContext and isinstance(error, ContextWindowExceededError)


def test_mixed_causes_are_nobodys_to_handle() -> None:
    assert type(raised(ContextLengthError("too long"), RateLimitError("no"), strategy="voting")) is TooFewProposals


@pytest.mark.parametrize("travel", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_they_travel_with_all_that_was_paid_for(travel: Any) -> None:
    judge = FakeLM("judge", [ContextLengthError("no")])
    error = raised(*({"reasoning": "r", "answer": x} for x in "ab"), judge=judge, limits=Limits(on_degraded="raise"))
    arrived = travel(error)
    assert type(arrived) is AggregationFailed and str(arrived) == str(error)
    assert arrived.metadata == error.metadata and len(arrived.proposals) == 2
    assert travel(travel(raised(RateLimitError("slow"), strategy="voting"))).retryable and not arrived.retryable


def test_what_cannot_be_pickled_travels_as_its_json() -> None:
    programs = [Agent(program=Gives(dspy.Prediction(answer=lambda: 1)), name="a")]
    moa = MoA(
        "question -> answer: Any",
        [*programs, FakeLM("b", [RateLimitError("no")])],
        strategy="voting",
        limits=Limits(min_proposals=2),
    )
    with pytest.raises(TooFewProposals) as caught:
        moa(question="?")
    arrived = pickle.loads(pickle.dumps(caught.value))
    assert str(arrived) == str(caught.value) and arrived.failures == caught.value.failures
    assert "lambda" in arrived.proposals[0].outputs["answer"]


def test_the_lm_that_was_given_has_seen_all_of_its_calls() -> None:
    lm = FakeLM("a", lambda prompt: {"reasoning": "r", "answer": "x"}, temperature=1.0)
    MoA(QA, [lm, Agent(lm, name="again")], FakeLM("judge", says("x")), num_proposals_per_model=3)(question="?")
    assert len(lm.history) == lm.calls == 6
