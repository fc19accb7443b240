import importlib
from collections.abc import Mapping
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM, misuses
from support.mixtures import QA, Ask, both_ways, calls, cast, echo, every_way, in_task, mixture, says, sync

import moa_dspy
from moa_dspy import (
    Agent,
    AggregationFailed,
    Fusion,
    Limits,
    MoA,
    Strategy,
    Verdict,
    Voting,
)

ERRORS = [dspy.lm15.AuthError("who?"), dspy.lm15.AuthError("who?")]


ANYTHING: Any = object()


class TestAnswer:
    def test_may_leave_out_inputs_that_have_a_default(self) -> None:
        class Task(dspy.Signature):
            question: str = dspy.InputField()
            style: str = dspy.InputField(default="plain")
            hint: str | None = dspy.InputField()
            answer: str = dspy.OutputField()

        lms = cast("a", "judge")
        assert MoA(Task, [lms["a"]], lms["judge"])(question="?").answer == "judge"
        assert "plain" in lms["a"].prompts[0]

    def test_reads_as_any_prediction_for_an_optimizer_that_patches_forward(self) -> None:
        moa: Any = mixture(cast("a", "judge"))
        forward = type(moa).forward.__get__(moa)
        moa.forward = lambda **inputs: (forward(**inputs), "trace")
        assert moa(question="?")[1] == "trace"


class TestBadInput:
    @both_ways
    def test_input_that_the_task_does_not_know_is_left_out_with_a_warning(
        self, ask: Ask, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Plain(dspy.Module):
            def forward(self, question: str) -> Any:
                return dspy.Prediction(answer="x")

        lms = cast("a", "judge")
        pred = ask(MoA(QA, [lms["a"], Plain()], lms["judge"]), question="?", idle="secret")
        assert (pred.metadata.failures, "secret" in "".join(lms["a"].prompts)) == ([], False)
        assert [record.message for record in caplog.records if "moa_dspy" in record.name] == [
            "idle: no inputs of the task, left out. Its inputs: question."
        ]

    @pytest.mark.parametrize("setting", ["num_proposals_per_model", "layers"])
    @pytest.mark.parametrize("number", [0, -1, True, 1.5, "2", None])
    def test_to_the_mixture_is_refused(self, setting: str, number: Any) -> None:
        with pytest.raises(ValueError, match=rf"{setting}={number!r} leaves nobody to ask"):
            MoA(QA, ["x/a"], "x/j", **{setting: number})


class TestLayers:
    def test_first_one_has_the_plain_prompt(self) -> None:
        one, three = cast("a", "judge"), cast("a", "judge")
        mixture(one)(question="?")
        mixture(three, layers=3)(question="?")
        assert one["a"].prompts == three["a"].prompts[:1]

    def test_have_predictors_of_their_own(self) -> None:
        names = [name for name, _ in mixture(cast("a", "judge"), layers=3).named_predictors()]
        assert names == [
            "proposers.shared.predict",
            "layer_2.shared.predict",
            "layer_3.shared.predict",
            "aggregator.program.synthesize",
        ]


class TestAggregatorFailure:
    @every_way
    def test_with_nothing_to_vote_on_raises(self, ask: Ask) -> None:
        lms = {"a": FakeLM("a", says("")), "judge": FakeLM("judge", ERRORS[:1])}
        with pytest.raises(AggregationFailed, match=r"LMAuthError") as caught:
            ask(mixture(lms), question="?")
        assert len(caught.value.proposals) == 1 and not caught.value.metadata.fallback_used


class Buggy(Strategy):
    """Goes wrong in the way it is told."""

    name = "buggy"
    early_stop = False

    def __init__(self, bug: Any, early_stop: bool = False) -> None:
        super().__init__()
        self.bug = bug
        self.early_stop = early_stop

    def decide(self, case: Any) -> Any:
        if isinstance(self.bug, Exception):
            raise self.bug
        return self.bug

    def is_decided(self, case: Any, pending: Mapping[str, str]) -> bool:
        raise KeyError("early")


class TestUsersStrategy:
    @every_way
    @pytest.mark.parametrize(
        ("bug", "error", "message"),
        [
            (TypeError("a bug"), TypeError, "TypeError: a bug"),
            (StopIteration("a bug"), Exception, "a bug|StopIteration"),
            (None, TypeError, "decided on None, which is no Verdict"),
            ({"answer": "x"}, TypeError, "decided on {'answer': 'x'}, which is no Verdict"),
            (
                Verdict({"other": "x"}),
                TypeError,
                "TypeError: The strategy's verdict lacks answer, which the task asks for",
            ),
            (Verdict({"answer": "x"}, selected=ANYTHING), ValueError, "ValidationError: .*selected"),
        ],
    )
    def test_with_a_bug_raises_from_it_and_keeps_the_proposals(
        self, ask: Ask, bug: Any, error: Any, message: str
    ) -> None:
        with pytest.raises(AggregationFailed, match=f"(?s){message}") as caught:
            ask(mixture(cast("a", "b", "judge"), strategy=Buggy(bug)), question="?")
        assert isinstance(caught.value.__cause__, error)
        assert [p.agent for p in caught.value.proposals] == ["a", "b"] and not caught.value.metadata.fallback_used

    @both_ways
    def test_that_steps_to_no_verdict_keeps_the_proposals(self, ask: Ask) -> None:
        class Forgets(Strategy):
            name = "forgets"

            def decide(self, case: Any) -> Any:
                yield from ()

        with pytest.raises(AggregationFailed, match=r"decided on None, which is no Verdict") as caught:
            ask(mixture(cast("a", "judge"), strategy=Forgets()), question="?")
        assert len(caught.value.proposals) == 1

    @both_ways
    def test_with_a_bug_in_is_decided_raises_from_it_and_keeps_the_proposals(self, ask: Ask) -> None:
        strategy = Buggy(Verdict({"answer": "x"}), early_stop=True)
        with pytest.raises(AggregationFailed, match=r"KeyError: 'early'") as caught:
            ask(mixture(cast("a", "b", "judge"), strategy=strategy), question="?")
        assert [p.agent for p in caught.value.proposals] == ["a", "b"]
        assert isinstance(caught.value.__cause__, KeyError)

    @every_way
    def test_may_decide_without_any_model(self, ask: Ask) -> None:
        class Last(Strategy):
            name = "last"

            def decide(self, case: Any) -> Verdict:
                return Verdict(case.proposals[-1].outputs, selected=case.proposals[-1].id)

        pred = ask(MoA(QA, [*cast("a", "b").values()], strategy=Last()), question="?")
        assert (pred.answer, pred.metadata.strategy, pred.metadata.selected) == ("b", "last", "b")

    @every_way
    def test_may_ask_the_aggregator(self, ask: Ask) -> None:
        class Twice(Strategy):
            name = "twice"
            needs_aggregator = True

            def bind(self, task: Any, agents: Any) -> None:
                self.predict = dspy.Predict(task.append("proposals", dspy.InputField()))

            def decide(self, case: Any) -> Any:
                first = yield from self.ask(self.predict, case)
                second = yield from self.ask(self.predict, case)
                return Verdict({"answer": first.prediction.answer + second.prediction.answer})

        lms = cast("a", "judge")
        assert ask(mixture(lms, strategy=Twice()), question="?").answer == "judgejudge"
        assert calls(lms) == {"a": 1, "judge": 2}


class TestInterrupts:
    @every_way
    def test_of_a_strategy_pass_through(self, ask: Ask) -> None:
        class Interrupts(Strategy):
            name = "interrupts"

            def decide(self, case: Any) -> Any:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(mixture(cast("a", "b", "judge"), strategy=Interrupts()), question="?")


class TestDeterminism:
    def test_other_inputs_may_show_another_order(self) -> None:
        moa = mixture(cast("a", "b", "c", "judge"))
        assert len({tuple(moa(question=str(n)).metadata.order_shown) for n in range(20)}) > 1

    def test_sync_and_async_give_the_same_account(self) -> None:
        dumps = []
        for ask in (sync, in_task):
            lms = {**cast("a", "b", "judge"), "judge": FakeLM("judge", ERRORS[:1])}
            lms["late"], lms["judge"] = FakeLM("late", says("x"), delay=2), lms.pop("judge")
            pred = ask(mixture(lms, limits=Limits(proposer_timeout=0.5)), question="?")
            dumps.append(_timeless(pred.metadata.model_dump(mode="json")))
        assert dumps[0] == dumps[1]


def _timeless(dump: Any) -> Any:
    if isinstance(dump, dict):
        return {key: _timeless(value) for key, value in dump.items() if key != "seconds"}
    return [_timeless(item) for item in dump] if isinstance(dump, list) else dump


class TestEarlyStop:
    def test_is_asked_of_the_last_layer_only(self) -> None:
        lms = {name: FakeLM(name, says("same")) for name in "abc"}
        pred = MoA(QA, [*lms.values()], strategy=Voting(early_stop=True), layers=2)(question="?")
        assert (len([p for p in pred.metadata.all_proposals if p.layer == 1]), pred.answer) == (3, "same")


class TestSaving:
    def test_state_goes_into_a_mixture_of_the_same_make(self, tmp_path: Any) -> None:
        moa: Any = mixture(cast("a", "b", "judge"), use_specialized_prompts=True)
        moa.proposers.a.program.predict.demos = [dspy.Example(question="q", answer="a")]
        moa.save(tmp_path / "moa.json")
        lms = cast("a", "b", "judge")
        other: Any = mixture(lms, use_specialized_prompts=True)
        other.load(tmp_path / "moa.json")
        assert other(question="?").answer == "judge" and calls(lms) == {"a": 1, "b": 1, "judge": 1}
        assert other.proposers.a.program.predict.demos == [{"question": "q", "answer": "a"}]

    def test_loading_leaves_a_program_its_lms(self, tmp_path: Any) -> None:
        program = dspy.ChainOfThought(QA)
        program.set_lm(own := FakeLM("own", says("x")))
        moa = MoA(QA, [program], strategy="voting")
        for predictor in moa.predictors()[:1]:
            predictor.lm = None
        moa.save(tmp_path / "moa.json")
        moa.load(tmp_path / "moa.json")
        moa(question="?")
        assert own.calls == 1


class TestPublicSurface:
    def test_is_sorted_and_complete(self) -> None:
        named = [name for names in moa_dspy._MODULES.values() for name in names]
        assert moa_dspy.__all__ == sorted(named) and set(named) <= {*dir(moa_dspy)}
        assert all(getattr(moa_dspy, name).__name__ == name for name in named)

    def test_has_what_its_modules_offer_their_users(self) -> None:
        for module, names in moa_dspy._MODULES.items():
            assert {*names} <= {*importlib.import_module(f"moa_dspy.{module}").__all__}


def test_fakes_complain_of_what_a_test_did_not_foresee() -> None:
    pred = mixture({"a": FakeLM("a", []), **cast("b", "judge")})(question="?")
    assert [failure.error for failure in pred.metadata.failures] == ["LMUnexpectedError"] and misuses
    misuses.clear()


def test_agents_lists_all() -> None:
    moa = mixture(cast("a", "b", "judge"), layers=2)
    assert [agent.name for agent in moa.agents] == ["a", "b", "a", "b", "aggregator"]
    assert isinstance(moa.strategy, moa_dspy.Synthesis) and isinstance(moa.agents[0], Agent)


def test_documented_example_runs() -> None:
    lms = {name: FakeLM(name, echo) for name in ("a", "judge")}
    assert mixture(lms, strategy=Fusion())(question="?").answer == "?"
