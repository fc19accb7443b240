"""A mixture around what is not its own: strategies, programs and optimizers that do the unexpected."""

from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM, misuses
from support.mixtures import QA, Ask, Gives, both_ways, cast, every_way, in_task, mixture, says, sync

from moa_dspy import Agent, AggregationFailed, Limits, MoA, Panel, Strategy, TooFewProposals, Verdict, Voting
from moa_dspy.signatures import task_signature

TASK = task_signature(QA)
anything: Any = object()


def test_an_input_with_a_default_or_that_may_be_none_may_be_left_out() -> None:
    class Task(dspy.Signature):
        question: str = dspy.InputField()
        style: str = dspy.InputField(default="plain")
        hint: str | None = dspy.InputField()
        answer: str = dspy.OutputField()

    a, judge = cast("a", "judge").values()
    assert MoA(Task, [a], judge)(question="?").answer == "judge" and "plain" in a.prompts[0]


def test_an_optimizer_may_patch_forward() -> None:
    moa: Any = mixture(cast("a", "judge"))
    forward = type(moa).forward.__get__(moa)
    moa.forward = lambda **inputs: (forward(**inputs), "trace")
    assert moa(question="?")[1] == "trace"


@both_ways
def test_a_task_may_have_inputs_of_any_name(ask: Ask) -> None:
    task, lms = "module, inputs, case, call -> answer", cast("a", "judge")
    moa = MoA(task, [lms["a"], Agent(lms["a"], dspy.Predict(task))], lms["judge"])
    assert ask(moa, module="m", inputs="i", case="c", call="l").metadata.failures == []


def test_loading_leaves_a_program_its_lms(tmp_path: Any) -> None:
    program = dspy.ChainOfThought(QA)
    program.set_lm(own := FakeLM("own", says("x")))
    moa = MoA(QA, [program], strategy="voting")
    for predictor in moa.predictors()[:1]:
        predictor.lm = None
    moa.save(tmp_path / "moa.json")
    moa.load(tmp_path / "moa.json")
    moa(question="?")
    assert own.calls == 1


def test_sync_and_async_give_the_same_account() -> None:
    dumps = []
    for ask in (sync, in_task):
        lms = {**cast("a", "b"), "late": FakeLM("late", says("x"), delay=2)}
        lms["judge"] = FakeLM("judge", [dspy.lm15.AuthError("who?")])
        pred = ask(mixture(lms, limits=Limits(proposer_timeout=0.5)), question="?")
        dumps.append(_timeless(pred.metadata.model_dump(mode="json")))
    assert dumps[0] == dumps[1]


def _timeless(dump: Any) -> Any:
    if isinstance(dump, dict):
        return {key: _timeless(value) for key, value in dump.items() if key != "seconds"}
    return [_timeless(item) for item in dump] if isinstance(dump, list) else dump


# Strategies.


class Odd(Strategy):
    """Does what it is told."""

    name = "odd"

    def __init__(self, decision: Any, early_stop: bool = False) -> None:
        super().__init__()
        self.decision, self.early_stop = decision, early_stop

    def decide(self, case: Any) -> Any:
        if isinstance(self.decision, BaseException):
            raise self.decision
        return self.decision

    def is_decided(self, case: Any, pending: Mapping[str, str]) -> bool:
        raise KeyError("early")


@both_ways
@pytest.mark.parametrize(
    ("strategy", "error", "message"),
    [
        (Odd(TypeError("a bug")), TypeError, "TypeError: a bug"),
        (Odd(StopIteration("a bug")), Exception, "a bug|StopIteration"),
        (Odd({"answer": "x"}), TypeError, "decided on {'answer': 'x'}, which is no Verdict"),
        (Odd(iter(())), TypeError, "which is no Verdict"),
        (Odd(Verdict({"other": "x"})), TypeError, "The strategy's verdict lacks answer, which the task asks for"),
        (Odd(Verdict({"answer": "x"}, selected=anything)), ValueError, "ValidationError: .*selected"),
        (Odd(Verdict({"answer": "x"}), early_stop=True), KeyError, "KeyError: 'early'"),
    ],
)
def test_a_bug_in_a_strategy_is_said_and_chained(ask: Ask, strategy: Any, error: Any, message: str) -> None:
    with pytest.raises(AggregationFailed, match=f"(?s){message}") as caught:
        ask(mixture(cast("a", "b", "judge"), strategy=strategy), question="?")
    assert isinstance(caught.value.__cause__, error)
    assert [p.agent for p in caught.value.proposals] == ["a", "b"] and not caught.value.metadata.fallback_used


@every_way
def test_an_interrupt_of_a_strategy_passes_through(ask: Ask) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(mixture(cast("a", "b", "judge"), strategy=Odd(KeyboardInterrupt())), question="?")


@every_way
def test_an_aggregator_that_fails_with_nothing_to_vote_on_raises(ask: Ask) -> None:
    lms = {"a": FakeLM("a", says("")), "judge": FakeLM("judge", [dspy.lm15.AuthError("who?")])}
    with pytest.raises(AggregationFailed, match=r"LMAuthError") as caught:
        ask(mixture(lms), question="?")
    assert len(caught.value.proposals) == 1 and not caught.value.metadata.fallback_used


def test_only_the_last_layer_may_stop_early() -> None:
    moa = MoA(QA, [FakeLM(name, says("same")) for name in "abc"], strategy=Voting(early_stop=True), layers=2)
    pred = moa(question="?")
    assert (len([p for p in pred.metadata.all_proposals if p.layer == 1]), pred.answer) == (3, "same")


# Panels.


def test_reasoning_that_the_task_asks_for_is_an_output() -> None:
    panel = Panel(task_signature("question -> reasoning, answer"), [Agent(FakeLM("a", says("x", "r")))])
    [proposal] = panel(question="?").proposals
    assert (proposal.outputs, proposal.reasoning) == ({"reasoning": "r", "answer": "x"}, None)
    assert [type(getattr(made, "shared")) for made in (panel, Panel(TASK, [Agent("x/a")]))] == [  # noqa: B009
        dspy.Predict,
        dspy.ChainOfThought,
    ]


@pytest.mark.parametrize(("ambient", "message"), [(None, "No LM is loaded"), ("openai/gpt-5", "not a string")])
def test_settings_without_an_lm_are_said_in_dspys_words(ambient: Any, message: str) -> None:
    with dspy.context(lm=ambient), pytest.raises(TooFewProposals, match=rf"predict: ValueError: .*{message}"):
        MoA(QA, [dspy.Predict(QA)], strategy="voting")(question="?")


def test_a_failures_message_is_cut_to_a_readable_length() -> None:
    [failure] = Panel(TASK, [Agent(program=Gives(ValueError("x" * 5000)))])(question="?").failures
    assert failure.message == "x" * 500 + " [...]"


def test_too_few_in_a_later_layer_carry_the_earlier_ones() -> None:
    lms = {"a": FakeLM("a", [{"reasoning": "r", "answer": "x"}, dspy.lm15.ServerError("down")]), **cast("judge")}
    with pytest.raises(TooFewProposals) as caught:
        mixture(lms, layers=2, limits=Limits(on_degraded="raise"))(question="?")
    error = caught.value
    assert ([(p.layer, p.agent) for p in error.proposals], len(error.failures)) == ([(1, "a")], 1)
    assert (error.metadata.proposals_asked, error.metadata.usage.calls) == (2, 2)


def test_more_than_there_can_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="min_proposals=5 can never be reached: a layer gives 4 "):
        mixture(cast("a", "b", "judge"), limits=Limits(min_proposals=5), num_proposals_per_model=2)


def test_every_layer_has_its_own_time() -> None:
    lms = {**cast("a", delay=0.6), **cast("judge")}
    assert mixture(lms, layers=2, limits=Limits(proposer_timeout=1))(question="?").metadata.failures == []


def test_fakes_complain_of_what_a_test_did_not_foresee() -> None:
    pred = mixture({"a": FakeLM("a", []), **cast("b", "judge")})(question="?")
    assert [failure.error for failure in pred.metadata.failures] == ["LMUnexpectedError"] and misuses
    misuses.clear()
