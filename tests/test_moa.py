import asyncio
import importlib
import inspect
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any, Literal

import dspy
import pydantic
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
    MoAError,
    MoAPrediction,
    Selection,
    Strategy,
    Verdict,
    Voting,
)

ERRORS = [dspy.lm15.AuthError("who?"), dspy.lm15.AuthError("who?")]


def judged_by(*answers: Any, strategy: Any | Strategy = "synthesis", **limits: Any) -> tuple[MoA, dict[str, FakeLM]]:
    lms = {**cast("a", "b"), "judge": FakeLM("judge", answers)}
    return mixture(lms, strategy=strategy, limits=Limits(**limits)), lms


ANYTHING: Any = object()


class Person(pydantic.BaseModel):
    name: str
    age: int


class TestAnswer:
    @every_way
    def test_is_the_aggregators_and_holds_the_tasks_outputs_only(self, ask: Ask) -> None:
        pred = ask(mixture(cast("a", "b", "judge")), question="?")
        assert (dict(pred.items()), type(pred)) == ({"answer": "judge"}, MoAPrediction)

    @every_way
    def test_is_typed_as_the_task_says(self, ask: Ask) -> None:
        class Task(dspy.Signature):
            question: str = dspy.InputField()
            number: float = dspy.OutputField()
            kind: Literal["x", "y"] = dspy.OutputField()
            people: list[Person] = dspy.OutputField()
            note: float | None = dspy.OutputField()

        outputs = {"number": 1.5, "kind": "y", "people": [Person(name="A", age=3)], "note": None}
        lms = [FakeLM(name, lambda prompt: {"reasoning": "r", **outputs}) for name in ("a", "b", "judge")]
        pred = ask(MoA(Task, lms[:2], lms[2]), question="?")
        assert dict(pred.items()) == outputs and [p.outputs for p in pred.proposals] == [outputs] * 2

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
    @pytest.mark.parametrize(
        ("inputs", "message"),
        [
            ({}, "The input question is missing, .* Given: none; the task's inputs: question"),
            ({"qestion": "?"}, "The input question is missing, .* Given: qestion; the task's inputs: question"),
            (
                {"question": "?", "config": {"temperature": 1}},
                "`config` cannot be given per call: every agent has its own",
            ),
            ({"question": "?", "lm": None}, "`lm` cannot be given per call"),
            ({"question": "?", "demos": []}, "`demos` cannot be given per call"),
            ({"question": "?", "signature": QA}, "`signature` cannot be given per call"),
        ],
    )
    def test_to_a_call_is_refused_before_anybody_is_asked(self, ask: Ask, inputs: Any, message: str) -> None:
        lms = cast("a", "judge")
        with pytest.raises(ValueError, match=message):
            ask(mixture(lms), **inputs)
        assert calls(lms) == {"a": 0, "judge": 0}

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

    @pytest.mark.parametrize(
        "signature", ["question ->", "proposals -> answer", "question -> metadata", "config -> answer"]
    )
    def test_signature_that_a_mixture_cannot_carry_is_refused(self, signature: str) -> None:
        with pytest.raises(ValueError):
            MoA(signature, ["x/a"], "x/j")


class TestNumberOfCalls:
    @both_ways
    @pytest.mark.parametrize("samples", [1, 2])
    @pytest.mark.parametrize("layers", [1, 2, 3])
    @pytest.mark.parametrize(
        ("strategy", "more"),
        [("synthesis", 1), ("selection", 1), (Selection(rotations=3), 3), ("voting", 1), ("fusion", 1)],
    )
    def test_is_proposers_times_samples_times_layers_and_the_strategys(
        self, ask: Ask, strategy: Any, more: int, layers: int, samples: int
    ) -> None:
        def replies(name: str) -> Callable[[str], Any]:
            verdict = {"choice": "P1", "groups": [["P1"]], "best": "P1", "elements": []}
            return lambda prompt: {"reasoning": name, "answer": name, **verdict}

        lms = {name: FakeLM(name, replies(name)) for name in ("a", "b", "judge")}
        pred = ask(mixture(lms, strategy=strategy, layers=layers, num_proposals_per_model=samples), question="?")
        each = layers * samples
        assert calls(lms) == {"a": each, "b": each, "judge": more}
        assert (pred.metadata.usage.calls, pred.metadata.proposals_asked) == (2 * each + more, 2 * each)
        assert (pred.metadata.failures, pred.metadata.degraded) == ([], False)

    def test_of_a_vote_that_nobody_disputes_is_that_of_the_proposers(self) -> None:
        lms = {name: FakeLM(name, says("same")) for name in ("a", "b", "judge")}
        mixture(lms, strategy="voting")(question="?")
        assert calls(lms) == {"a": 1, "b": 1, "judge": 0}


class TestLayers:
    @both_ways
    def test_later_ones_see_all_of_the_layer_before_and_no_names(self, ask: Ask) -> None:
        def step(name: str) -> FakeLM:
            laps = iter(range(9))
            return FakeLM(f"vendor/{name}", lambda prompt: {"reasoning": "so", "answer": f"{name[0]}{next(laps)}"})

        proposers, judge = [step("ada"), step("bob")], step("judge")
        pred = ask(MoA(QA, proposers, judge, layers=3), question="?")
        for lm in proposers:
            shown = [
                {answer for answer in ("a0", "b0", "a1", "b1", "a2", "b2") if f"answer: {answer}" in prompt}
                for prompt in lm.prompts
            ]
            assert shown == [set(), {"a0", "b0"}, {"a1", "b1"}]
        assert (
            all(answer in judge.prompts[0] for answer in ("answer: a2", "answer: b2")) and "a1" not in judge.prompts[0]
        )
        prompts = "".join(prompt for lm in [*proposers, judge] for prompt in lm.prompts)
        assert not any(name in prompts for name in ("ada", "bob", "vendor"))
        assert [p.outputs["answer"] for p in pred.proposals] == ["a2", "b2"]
        assert [(p.layer, p.outputs["answer"]) for p in pred.metadata.all_proposals] == [
            (layer, f"{name}{layer - 1}") for layer in (1, 2, 3) for name in "ab"
        ]

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

    def test_need_not_be_complete(self) -> None:
        bad = FakeLM("bad", [dspy.lm15.AuthError("?"), {"reasoning": "r", "answer": "back"}])
        pred = mixture({"bad": bad, **cast("b", "judge")}, layers=2)(question="?")
        assert ([p.outputs["answer"] for p in pred.proposals], len(pred.metadata.failures)) == (["back", "b"], 1)


class TestAggregatorFailure:
    @every_way
    def test_of_one_reply_is_repaired_as_another_rollout(self, ask: Ask) -> None:
        moa, lms = judged_by("nonsense", {"reasoning": "r", "answer": "fine"})
        pred = ask(moa, question="?")
        metadata = pred.metadata
        assert (pred.answer, metadata.repaired, metadata.fallback_used, metadata.degraded) == (
            "fine",
            True,
            False,
            False,
        )
        assert (lms["judge"].calls, metadata.usage.calls) == (2, 4)

    @every_way
    @pytest.mark.parametrize("replies", [ERRORS[:1], ["nonsense", "nonsense"]])
    def test_falls_back_to_the_vote_and_says_so(self, ask: Ask, replies: Any) -> None:
        moa, _ = judged_by(*replies)
        pred = ask(moa, question="?")
        metadata = pred.metadata
        assert (pred.answer, metadata.strategy, metadata.answered_by) == ("a", "synthesis", "voting")
        assert (metadata.fallback_used, metadata.degraded, metadata.selected) == (True, True, "a")
        [failure] = metadata.failures
        assert (failure.agent, failure.model) == ("aggregator", "judge")
        assert len([call for call in metadata.calls if call.agent == "aggregator"]) == len(replies)

    @every_way
    def test_raises_where_degraded_is_not_wanted_with_the_proposals(self, ask: Ask) -> None:
        moa, _ = judged_by(*ERRORS[:1], on_degraded="raise")
        with pytest.raises(AggregationFailed, match=r"gave no answer \(LMAuthError: .*who") as caught:
            ask(moa, question="?")
        error = caught.value
        assert [p.outputs for p in error.proposals] == [{"answer": "a"}, {"answer": "b"}]
        assert (error.failures[0].agent, error.metadata.usage.calls) == ("aggregator", 3)
        assert isinstance(error.__cause__, dspy.LMError) and isinstance(error, MoAError)

    @every_way
    def test_with_nothing_to_vote_on_raises(self, ask: Ask) -> None:
        lms = {"a": FakeLM("a", says("")), "judge": FakeLM("judge", ERRORS[:1])}
        with pytest.raises(AggregationFailed, match=r"LMAuthError") as caught:
            ask(mixture(lms), question="?")
        assert len(caught.value.proposals) == 1 and not caught.value.metadata.fallback_used

    def test_message_holds_no_secrets(self) -> None:
        moa, _ = judged_by(dspy.lm15.AuthError("bad key sk-abcdefghijklmnop123"), on_degraded="raise")
        with pytest.raises(AggregationFailed) as caught:
            moa(question="?")
        assert "***" in str(caught.value) and "sk-abc" not in str(caught.value)


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
    @pytest.mark.parametrize("others", [0, 1])
    def test_of_a_proposer_pass_through(self, ask: Ask, others: int) -> None:
        class Interrupts(dspy.Module):
            async def aforward(self, **inputs: Any) -> Any:
                raise KeyboardInterrupt

            def forward(self, **inputs: Any) -> Any:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(MoA(QA, [Interrupts(), *[cast("b")["b"]] * others], strategy="voting"), question="?")

    @every_way
    def test_of_a_strategy_pass_through(self, ask: Ask) -> None:
        class Interrupts(Strategy):
            name = "interrupts"

            def decide(self, case: Any) -> Any:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ask(mixture(cast("a", "b", "judge"), strategy=Interrupts()), question="?")

    def test_cancelling_a_call_cancels_the_calls_inside(self) -> None:
        lms = {**cast("a", "b", delay=10), **cast("judge")}
        inner = mixture(lms)

        async def main() -> None:
            task = asyncio.create_task(MoA(QA, [inner, lms["a"]], lms["judge"]).acall(question="?"))
            while lms["a"].calls + lms["b"].calls < 3:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        asyncio.run(main())
        assert [call.cancelled for name in "ab" for call in lms[name].log] == [True] * 3 and lms["judge"].calls == 0


class TestDeterminism:
    @pytest.mark.parametrize("side_by_side", [False, True])
    def test_same_inputs_make_the_same_prompts_in_the_same_order(self, side_by_side: bool) -> None:
        # What one LM is asked side by side has no order.
        options: dict[str, Any] = (
            {"num_proposals_per_model": 2, "strategy": Selection(rotations=2)} if side_by_side else {}
        )
        seen = []
        for run in range(5):
            for ask in (sync, in_task):
                delays = random.Random(run)
                lms = {
                    name: FakeLM(name, says(name), delay=delays.uniform(0, 0.03)) for name in ("a", "b", "c", "judge")
                }
                pred = ask(mixture(lms, layers=2, **options), question="?")
                prompts = [sorted(lm.prompts) if side_by_side else lm.prompts for lm in lms.values()]
                seen.append((prompts, pred.metadata.order_shown, [p.id for p in pred.metadata.all_proposals], pred))
        assert all(again == seen[0] for again in seen)

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

    def test_lacks_other_names(self) -> None:
        with pytest.raises(AttributeError, match=r"module 'moa_dspy' has no attribute 'MOA'"):
            _ = moa_dspy.MOA

    def test_names_are_documented(self) -> None:
        documented = [getattr(moa_dspy, name) for name in moa_dspy.__all__]
        assert all(inspect.getdoc(thing) for thing in documented if inspect.isclass(thing) or inspect.isfunction(thing))

    def test_importing_it_imports_neither_litellm_nor_mlflow(self) -> None:
        program = "import sys; from moa_dspy import *; print({'litellm', 'mlflow', 'openai', 'torch'} & {*sys.modules})"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
        assert (done.stdout, done.returncode) == ("set()\n", 0)


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
