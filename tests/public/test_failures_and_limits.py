"""Who fails or is late costs a proposal and not the call; what was paid for is never lost."""

import asyncio
import time
from typing import Any

import dspy
import pytest
from dspy.lm15 import AuthError, ContextLengthError, RateLimitError, ServerError
from support.fake_lm import FakeLM
from support.mixtures import QA, Ask, Gives, both_ways, calls, cast, every_way, in_task, mixture, says, sync
from support.shown import ADAPTERS, JUDGED, always, panel_of

from moa_dspy import Agent, AggregationFailed, Limits, MoA, MoAError, Selection, TooFewProposals, Voting, configure

NONSENSE = "I would rather not say."
GOOD = {"reasoning": "so", "answer": "fine"}


def failing(error: Exception, name: str = "bad") -> FakeLM:
    return FakeLM(name, lambda prompt: error)


# Proposers.


@every_way
@pytest.mark.parametrize(
    ("error", "reported"),
    [
        (RateLimitError("slow down"), "LMRateLimitError"),
        (AuthError("who?"), "LMAuthError"),
        (ServerError("oops"), "LMServerError"),
        (ContextLengthError("long"), "ContextWindowExceededError"),
        (RuntimeError("odd"), "LMUnexpectedError"),
    ],
)
def test_a_failing_lm_is_reported_and_is_no_answer(ask: Ask, error: Exception, reported: str) -> None:
    lms = {"bad": failing(error), **cast("b", "judge")}
    pred = ask(mixture(lms), question="?")
    [failure] = pred.metadata.failures
    assert (failure.agent, failure.model, failure.error) == ("bad", "bad", reported)
    assert str(error) in failure.message and str(error) not in "".join(lms["judge"].prompts)
    assert ([p.agent for p in pred.proposals], pred.metadata.degraded) == (["b"], True)


@both_ways
@pytest.mark.parametrize(
    ("result", "error", "message"),
    [
        ("text", "IncompleteProposal", "The program returned str; a proposer returns a dspy.Prediction"),
        (None, "IncompleteProposal", "The program returned NoneType"),
        (dspy.Prediction(other="x"), "IncompleteProposal", "The prediction lacks answer; it has other."),
        (dspy.Prediction(answer="many"), "IncompleteProposal", "The output answer is no <class 'int'>: 'many'"),
        (ValueError("a bug"), "ValueError", "a bug"),
        (asyncio.CancelledError(), "CancelledError", ""),
    ],
)
def test_a_program_that_gives_no_answer_is_a_failure(ask: Ask, result: Any, error: str, message: str) -> None:
    moa = MoA("question -> answer: int", [Gives(result), FakeLM("b", always(answer=1))], strategy="voting")
    pred = ask(moa, question="?")
    [failure] = pred.metadata.failures
    assert (failure.agent, failure.model, failure.error, pred.answer) == ("gives", None, error, 1)
    assert failure.message.startswith(message)


def test_a_reply_that_cannot_be_read_is_a_failure() -> None:
    metadata = mixture({"a": FakeLM("a", [NONSENSE] * 2), **cast("b", "judge")})(question="?").metadata
    assert [failure.error for failure in metadata.failures] == ["AdapterParseError"]
    assert [call.agent for call in metadata.calls] == ["a", "a", "b", "aggregator"]


@every_way
def test_too_few_proposals_carry_every_proposal_and_cause_and_the_usage(ask: Ask) -> None:
    lms = {**cast("a"), "bad": failing(RateLimitError("slow down")), **cast("judge")}
    with pytest.raises(TooFewProposals, match=r"(?s)1 .*2.*bad.*slow down") as caught:
        ask(mixture(lms, limits=Limits(min_proposals=2)), question="?")
    error = caught.value
    assert isinstance(error, MoAError) and [p.outputs for p in error.proposals] == [{"answer": "a"}]
    assert [(f.agent, f.error) for f in error.failures] == [("bad", "LMRateLimitError")]
    usage = error.metadata.usage
    assert (usage.calls, usage.prompt_tokens, usage.failed_calls, lms["judge"].calls) == (2, 10, 1, 0)


@both_ways
def test_a_layer_need_not_be_complete(ask: Ask) -> None:
    bad = FakeLM("bad", [AuthError("?"), {"reasoning": "r", "answer": "back"}])
    pred = ask(mixture({"bad": bad, **cast("b", "judge")}, layers=2), question="?")
    assert ([p.outputs["answer"] for p in pred.proposals], len(pred.metadata.failures)) == (["back", "b"], 1)


# Late.


@every_way
def test_it_goes_on_without_who_is_late(ask: Ask) -> None:
    lms = {**cast("a"), "late": FakeLM("late", says("x"), delay=3), **cast("judge")}
    started = time.monotonic()
    pred = ask(mixture(lms, limits=Limits(proposer_timeout=0.3)), question="?")
    assert time.monotonic() - started < 2.5
    [failure] = pred.metadata.failures
    assert failure.model_dump() == {
        "agent": "late",
        "id": "late",
        "layer": 1,
        "model": "late",
        "seconds": 0.3,
        "error": "ProposerTimeout",
        "message": "No answer within 0.3 s (Limits.proposer_timeout).",
    }
    [row] = [call for call in pred.metadata.calls if call.agent == "late"]
    assert (row.error, row.cost_usd, [p.agent for p in pred.proposals]) == ("Unfinished", None, ["a"])


def test_a_late_task_is_cancelled_and_the_aggregator_has_all_its_time() -> None:
    late, judge = FakeLM("late", says("x"), delay=5), FakeLM("judge", says("j"), delay=0.5)
    moa = mixture({**cast("a"), "late": late, "judge": judge}, limits=Limits(proposer_timeout=0.2))
    assert asyncio.run(moa.acall(question="?")).answer == "j"
    assert [call.cancelled for call in late.log] == [True]


@both_ways
def test_all_late_are_too_few(ask: Ask) -> None:
    with pytest.raises(TooFewProposals, match="ProposerTimeout") as caught:
        ask(mixture(cast("a", "b", "judge", delay=2), limits=Limits(proposer_timeout=0.5)), question="?")
    assert [call.error for call in caught.value.metadata.calls] == ["Unfinished", "Unfinished"]


@pytest.mark.parametrize(("ask", "tokens"), [(sync, 10), (in_task, 0)])
def test_what_is_billed_after_the_deadline_is_entered_when_it_comes(ask: Ask, tokens: int) -> None:
    lms = {**cast("a"), **cast("late", delay=0.6), **cast("judge")}
    metadata = ask(mixture(lms, limits=Limits(proposer_timeout=0.3)), question="?").metadata
    row = next(call for call in metadata.calls if call.agent == "late")
    assert (row.prompt_tokens, row.error, row.cost_usd) == (0, "Unfinished", None)
    time.sleep(0.6)
    assert (row.prompt_tokens, row.error, metadata.usage.prompt_tokens) == (tokens, "Unfinished", 20 + tokens)


@both_ways
def test_who_is_not_needed_any_more_is_no_failure(ask: Ask) -> None:
    lms = [FakeLM(name, says("x"), delay=0.1) for name in "ab"] + [FakeLM("late", says("y"), delay=3)]
    moa = MoA(QA, lms, strategy=Voting(early_stop=True), limits=Limits(proposer_timeout=2))
    metadata = ask(moa, question="?").metadata
    assert [call.error for call in metadata.calls] == [None, None, "Unfinished"]
    assert (metadata.stopped_early, metadata.failures, metadata.degraded) == (True, [], False)
    assert (metadata.proposals_asked, metadata.proposals_received) == (3, 2)


@both_ways
def test_stopping_early_does_not_undercut_the_minimum(ask: Ask) -> None:
    lms = [FakeLM(name, says("x"), delay=delay) for name, delay in (("a", 0), ("b", 0), ("c", 0.2))]
    moa = MoA(QA, lms, strategy=Voting(early_stop=True), limits=Limits(min_proposals=3))
    assert len(ask(moa, question="?").proposals) == 3


# The aggregator.


@pytest.mark.parametrize("adapter", [None, *ADAPTERS], ids=lambda adapter: type(adapter).__name__)
@pytest.mark.parametrize(
    ("ask", "first"), [(sync, NONSENSE), (in_task, ""), (sync, ServerError("down"))], ids=["nonsense", "empty", "down"]
)
def test_one_unreadable_reply_is_repaired(ask: Ask, adapter: Any, first: Any) -> None:
    judge = FakeLM("judge", [first, GOOD])
    with dspy.context(adapter=adapter):
        pred = ask(panel_of("x", "y", judge=judge), question="?")
    metadata = pred.metadata
    assert (pred.answer, metadata.repaired, metadata.fallback_used, metadata.degraded) == ("fine", True, False, False)
    assert (judge.calls, metadata.usage.calls) == (2, 4)


@pytest.mark.parametrize("strategy", ["synthesis", "selection", "voting", "fusion"])
@pytest.mark.parametrize(
    ("ask", "replies"), [(sync, [NONSENSE] * 2), (in_task, [AuthError("who?")])], ids=["nonsense", "refused"]
)
def test_an_aggregator_that_still_fails_leaves_the_vote_and_says_so(ask: Ask, strategy: Any, replies: Any) -> None:
    judge = FakeLM("judge", replies)
    pred = ask(panel_of("x", "y", "z", "z", judge=judge, strategy=strategy), question="?")
    metadata = pred.metadata
    assert (pred.answer, metadata.strategy, metadata.answered_by) == ("z", strategy, "voting")
    assert (metadata.fallback_used, metadata.degraded, metadata.selected) == (True, True, "m2")
    assert [(f.agent, f.model) for f in metadata.failures] == [("aggregator", "judge")]
    assert len([call for call in metadata.calls if call.agent == "aggregator"]) == judge.calls == len(replies)


@pytest.mark.parametrize(
    ("strategy", "wrong"),
    [
        ("selection", {"choice": "P7"}),
        ("voting", {"groups": [["P1", "P2"], ["P2"]]}),
        ("fusion", {"elements": [{"statement": "s", "kind": "unique", "supported_by": ["P9"], "resolution": None}]}),
    ],
)
def test_labels_that_were_not_shown_are_asked_for_again(strategy: Any, wrong: dict[str, Any]) -> None:
    judge = FakeLM("judge", [{**JUDGED, "answer": "z", **wrong}, {**JUDGED, "answer": "z"}])
    metadata = panel_of("x", "y", judge=judge, strategy=strategy)(question="?").metadata
    assert (metadata.repaired, metadata.fallback_used, judge.calls) == (True, False, 2)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0}, {"rollout_id": 7, "temperature": 1.0}], ids=str)
def test_nonsense_is_not_replayed_from_the_cache(settings: dict[str, Any], cached: None) -> None:
    judge = FakeLM("judge", [NONSENSE, GOOD], cache=True, **settings)
    moa = panel_of("x", "y", judge=judge)
    assert [moa(question="?").answer for _ in range(2)] == ["fine", "fine"] and judge.calls == 2


@both_ways
def test_an_aggregator_that_is_late_leaves_the_vote(ask: Ask) -> None:
    lms = {**cast("a", "b"), **cast("judge", delay=5)}
    pred = ask(mixture(lms, limits={"aggregator_timeout": 0.3}), question="?")
    assert (pred.metadata.answered_by, pred.metadata.failures[0].error) == ("voting", "AggregatorTimeout")
    assert pred.metadata.seconds < 3


@both_ways
def test_a_call_ends_in_its_time_and_leaves_the_aggregator_its_share(ask: Ask) -> None:
    lms = {**cast("a"), **cast("late", delay=5), **cast("judge")}
    pred = ask(mixture(lms, limits={"timeout": 1}), question="?")
    assert [(f.agent, f.message) for f in pred.metadata.failures] == [
        ("late", "No answer within 0.5 s (Limits.timeout).")
    ]
    assert pred.metadata.answered_by == "synthesis"


@both_ways
def test_with_a_quorum_in_the_others_have_their_grace(ask: Ask) -> None:
    lms = {**cast("a", "b"), **cast("late", delay=5), **cast("judge")}
    pred = ask(mixture(lms, limits={"quorum": 2, "grace": 0.2}), question="?")
    assert [p.agent for p in pred.proposals] == ["a", "b"]
    assert [f.message for f in pred.metadata.failures] == ["No answer within 0.2 s (Limits.grace)."]
    assert pred.metadata.seconds < 3


@every_way
@pytest.mark.parametrize("limits", [{"max_calls": 2}, {"max_tokens": 1400}, {"max_cost_usd": 0.0014}])
def test_the_call_that_would_go_beyond_is_not_started_and_what_came_is_kept(ask: Ask, limits: dict[str, Any]) -> None:
    lms = [Agent(lm, prices={"input": 1, "output": 1}) for lm in cast("a", "b", usage=(600, 50)).values()]
    judge = Agent(cast("judge")["judge"], prices={"input": 1, "output": 1})
    pred = ask(MoA(QA, lms, judge, limits=limits), question="?" * 500)
    assert (pred.metadata.answered_by, pred.metadata.usage.calls) == ("voting", 2)
    assert [(f.agent, f.error) for f in pred.metadata.failures] == [("aggregator", "LimitReached")]


def test_a_limit_in_usd_needs_prices() -> None:
    with pytest.raises(ValueError, match="max_cost_usd=1 cannot be kept: no price is known of a, b, judge"):
        mixture(cast("a", "b", "judge"), limits={"max_cost_usd": 1})(question="?")


def test_a_nested_mixture_takes_from_what_is_around_it() -> None:
    inner = mixture(cast("a", "b", "judge"))
    outer = MoA(
        QA, [Agent(program=inner, name="inner"), *cast("c").values()], strategy="voting", limits={"max_calls": 3}
    )
    pred = outer(question="?")
    assert pred.metadata.usage.calls == 3


@every_way
def test_no_more_calls_are_under_way_than_the_process_may_have(ask: Ask) -> None:
    gauge = Gauge()
    inner = mixture({name: FakeLM(name, gauge, delay=0.02) for name in ("a", "b", "judge")})
    moa = MoA(
        QA, [Agent(program=inner, name="inner"), *(FakeLM(n, gauge, delay=0.02) for n in "cde")], strategy="voting"
    )
    configure(max_concurrency=1)
    try:
        assert len(ask(moa, question="?").proposals) == 4
    finally:
        configure(max_concurrency=None)
    assert gauge.peak == 1


class Gauge:
    """Answers, and knows the most answers that were made at once."""

    def __init__(self) -> None:
        self.now = self.peak = 0

    def __call__(self, prompt: str) -> dict[str, str]:
        self.now += 1
        self.peak = max(self.peak, self.now)
        time.sleep(0.02)
        self.now -= 1
        return {"reasoning": "r", "answer": "x"}


def test_a_cancelled_call_tells_what_was_paid_for() -> None:
    async def cancel() -> BaseException:
        lms = {**cast("a"), **cast("late", delay=5), **cast("judge")}
        task = asyncio.create_task(mixture(lms).acall(question="?"))
        await asyncio.sleep(0.3)
        task.cancel()
        try:
            await task
        except BaseException as error:
            return error
        raise AssertionError

    metadata = getattr(asyncio.run(cancel()), "metadata")  # noqa: B009
    assert [(call.agent, call.error) for call in metadata.calls] == [("a", None), ("late", "Unfinished")]
    assert ([p.id for p in metadata.all_proposals], metadata.proposals_asked) == (["a"], 2)


def test_an_interrupted_call_tells_what_was_paid_for() -> None:
    lms = {**cast("a"), "stop": FakeLM("stop", [KeyboardInterrupt()]), **cast("judge")}
    with pytest.raises(KeyboardInterrupt) as caught:
        mixture(lms)(question="?")
    metadata = getattr(caught.value, "metadata")  # noqa: B009
    assert metadata.calls[0].agent == "a"
    assert [p.outputs["answer"] for p in metadata.all_proposals] == ["a"]


def test_an_lm_of_the_programs_own_is_counted_too() -> None:
    lms = cast("own", "a", "judge")
    program = dspy.Predict(QA)
    program.lm = lms["own"]
    moa = MoA(QA, [Agent(program=program, name="own"), lms["a"]], lms["judge"], limits={"max_calls": 2})
    assert moa(question="?").metadata.fallback_used and calls(lms) == {"own": 1, "a": 1, "judge": 0}


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            {"min_proposal": 2},
            "limits: min_proposal: unknown limit. Did you mean 'min_proposals'?.*Allowed: timeout, p",
        ),
        ({"strict": True}, "limits: strict is on_degraded='raise' now"),
        ({"timeout": float("inf")}, "limits: timeout: Input should be a finite number"),
        ({"proposer_timeout": 0}, "limits: proposer_timeout: Input should be greater than 0"),
        ({"quorum": 1, "min_proposals": 2}, "quorum=1 would stop waiting before min_proposals=2"),
        ({"quorum": 3}, "quorum=3 can never be reached"),
        ({"grace": 3}, "grace=3 has no effect"),
    ],
)
def test_limits_that_make_no_sense_are_refused(limits: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mixture(cast("a", "b", "judge"), limits=limits)


@every_way
def test_a_strict_mixture_raises_instead_with_all_that_was_paid_for(ask: Ask) -> None:
    judge = FakeLM("judge", [AuthError("bad key sk-abcdefghijklmnop123")])
    with pytest.raises(AggregationFailed, match="LMAuthError") as caught:
        ask(panel_of("x", "y", judge=judge, limits=Limits(on_degraded="raise")), question="?")
    error = caught.value
    assert [p.outputs["answer"] for p in error.proposals] == ["x", "y"] and "sk-abc" not in str(error)
    assert (error.failures[0].agent, error.metadata.usage.calls) == ("aggregator", 3)
    assert isinstance(error, MoAError) and isinstance(error.__cause__, dspy.LMError)


def test_a_rotation_that_fails_leaves_the_verdict_to_the_others() -> None:
    asked = iter(range(9))
    judge = FakeLM("judge", lambda prompt: AuthError("no") if next(asked) == 1 else JUDGED)
    metadata = panel_of("x", "y", judge=judge, strategy=Selection(3))(question="?").metadata
    assert (metadata.answered_by, [f.agent for f in metadata.failures], judge.calls) == ("selection", ["aggregator"], 3)


# Interrupts.


@every_way
def test_an_interrupt_passes_through(ask: Ask) -> None:
    class Interrupts(dspy.Module):
        def forward(self, **inputs: Any) -> Any:
            raise KeyboardInterrupt

        async def aforward(self, **inputs: Any) -> Any:
            raise KeyboardInterrupt

    for others in ([], [FakeLM("b", says("b"))]):
        with pytest.raises(KeyboardInterrupt):
            ask(MoA(QA, [Agent(program=Interrupts(), name="i"), *others], strategy="voting"), question="?")


def test_cancelling_a_call_cancels_the_calls_inside() -> None:
    lms = {**cast("a", "b", delay=10), **cast("judge")}

    async def main() -> None:
        task = asyncio.create_task(MoA(QA, [mixture(lms), lms["a"]], lms["judge"]).acall(question="?"))
        while lms["a"].calls + lms["b"].calls < 3:
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    assert [call.cancelled for name in "ab" for call in lms[name].log] == [True] * 3 and calls(lms)["judge"] == 0
