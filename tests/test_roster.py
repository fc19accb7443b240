from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, cast, says

from moa_dspy import Agent, MoA, Selection, Strategy, Synthesis, Verdict, Voting

REACT: Any = dspy.ReAct


class Drafts(dspy.Module):
    """A program whose predictor's fields are not its own inputs and outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("context, question -> draft")


class Rag(Drafts):
    def forward(self, question: str, *, top: int = 3) -> Any:
        return dspy.Prediction(answer=self.predict(question=question, context="c" * top).draft)


class Needs(Drafts):
    def forward(self, question: str, context: str) -> Any:
        return dspy.Prediction(answer=self.predict(question=question, context=context).draft)


class Refines(Drafts):
    def forward(self, question: str, proposals: str = "") -> Any:
        return dspy.Prediction(answer=proposals or "first")


class TakesAll(Drafts):
    def forward(self, *args: Any, **inputs: Any) -> Any:
        return dspy.Prediction(answer=inputs.get("proposals", "first"))


class Mine(Strategy):
    name = "mine"

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


class NeedsJudge(Mine):
    needs_aggregator = True


def voting(*proposers: Any, task: str = QA, **options: Any) -> MoA:
    return MoA(task, proposers, strategy="voting", **options)


def cold(name: str = "a") -> FakeLM:
    return FakeLM(name, says("x"), temperature=0)


class TestProposers:
    def test_may_be_names_lms_agents_and_modules_mixed(self) -> None:
        lm = FakeLM("x/lm", says("x"))
        moa = voting("openai/gpt-5-mini", lm, Agent(lm, name="mine"), dspy.ChainOfThought(QA), voting(lm))
        assert [(agent.name, agent.model) for agent in moa.agents] == [
            ("gpt_5_mini", "openai/gpt-5-mini"),
            ("lm", "x/lm"),
            ("mine", "x/lm"),
            ("chainofthought", None),
            ("moa", None),
            ("aggregator", None),
        ]

    def test_may_be_in_a_tuple(self) -> None:
        assert MoA(QA, tuple(cast("a", "b").values()), strategy="voting")(question="?").metadata.num_proposers == 2

    def test_of_one_name_are_numbered(self) -> None:
        moa = voting("x/a", "y/a", Agent("z/a"), Agent("z/b", name="a_2"), "x/aggregator")
        assert [agent.name for agent in moa.agents] == ["a", "a_3", "a_4", "a_2", "aggregator_2", "aggregator"]

    def test_leave_the_users_agent_as_it_was(self) -> None:
        agent = Agent(FakeLM("a", says("a")))
        voting(agent, agent)
        assert (agent.name, agent.program) == ("a", None)

    @pytest.mark.parametrize(
        ("proposers", "error", "message"),
        [
            ("openai/gpt-5", TypeError, "`proposers` is a list of models, agents or modules, not str"),
            (None, TypeError, "not NoneType"),
            ({"a": "openai/gpt-5"}, TypeError, "not dict"),
            (FakeLM("a", []), TypeError, "not FakeLM"),
            (dspy.Predict(QA), TypeError, "not Predict"),
            ([], ValueError, "No proposers: there is nobody to ask"),
            ([3], TypeError, "A model is a name such as .* or a dspy.LM, not int"),
            ([Agent("x/a", name="n"), Agent("x/b", name="n")], ValueError, "Two proposers are named 'n'"),
            ([Agent("x/a", name="aggregator")], ValueError, "'aggregator' is the aggregator's own name"),
            ([Agent("x/a", instructions="Be brief.")], ValueError, "Agent 'a' has instructions of its own, but all"),
        ],
    )
    def test_that_make_no_mixture_are_refused(self, proposers: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            MoA(QA, proposers, strategy="voting")


class TestPrograms:
    def test_of_any_make_are_taken_by_what_they_give(self) -> None:
        lm = FakeLM("a", lambda prompt: {"draft": "d"})
        pred = voting(Agent(lm, Rag()), Agent(lm, TakesAll()))(question="?")
        assert [p.outputs for p in pred.proposals] == [{"answer": "d"}, {"answer": "first"}]

    @pytest.mark.parametrize(
        "program",
        [
            dspy.Predict("question -> other"),
            dspy.ChainOfThought("question -> other"),
            REACT("question -> other", tools=[]),
            dspy.BestOfN(dspy.ChainOfThought("question -> other"), N=2, reward_fn=lambda *_: 0.0, threshold=1.0),
            MoA("question -> other", ["x/a"], strategy="voting"),
        ],
        ids=lambda program: type(program).__name__,
    )
    def test_whose_outputs_lack_the_tasks_are_refused(self, program: dspy.Module) -> None:
        with pytest.raises(ValueError, match=r"gives .*other, but not answer, which the task asks for"):
            voting(program)

    @pytest.mark.parametrize("program", [dspy.Predict("context, question -> answer"), Needs()])
    def test_that_need_an_unknown_input_are_refused(self, program: dspy.Module) -> None:
        with pytest.raises(
            ValueError, match=r"needs context, which is no input of the task. The task's inputs: question"
        ):
            voting(program)

    def test_that_take_too_little_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"takes no hint, which the task gives: every call would fail"):
            voting(Rag(), task="question, hint -> answer")

    def test_may_give_more_and_need_less(self) -> None:
        lm = FakeLM("a", lambda prompt: {"answer": "x", "confidence": 0.5})
        pred = voting(
            Agent(lm, dspy.Predict("question -> answer, confidence: float")), task="question, hint -> answer"
        )(question="?", hint="!")
        assert [p.outputs for p in pred.proposals] == [{"answer": "x"}]

    @pytest.mark.parametrize("program", [dspy.Predict(QA), Rag(), MoA(QA, ["x/a"], strategy="voting")])
    def test_that_would_never_see_the_layer_before_are_refused(self, program: dspy.Module) -> None:
        with pytest.raises(ValueError, match=r"With layers=2 .* would never see the layer before it"):
            voting(program, layers=2)

    def test_that_take_proposals_go_into_layers(self) -> None:
        lm = FakeLM("a", says("a"))
        pred = voting(Agent(lm, TakesAll()), Refines(), layers=2)(question="?")
        assert all("answer: first" in p.outputs["answer"] for p in pred.proposals) and len(pred.proposals) == 2


class TestSamples:
    def test_of_a_program_with_lms_of_its_own_are_refused(self) -> None:
        program = dspy.ChainOfThought(QA)
        program.set_lm(FakeLM("own", says("x")))
        with pytest.raises(ValueError, match=r"brings LMs of its own, which cannot be sampled 2 times"):
            voting(program, num_proposals_per_model=2)
        with pytest.raises(ValueError, match=r"brings LMs of its own"):
            voting(Agent(FakeLM("a", says("x")), program), num_proposals_per_model=2)

    def test_of_a_program_with_a_predictor_that_is_free_are_taken(self) -> None:
        own, free = FakeLM("own", says("x")), FakeLM("free", lambda prompt: {"draft": "d"})

        class TwoSteps(Drafts):
            def __init__(self) -> None:
                super().__init__()
                self.last = dspy.Predict("question, draft -> answer")
                self.last.set_lm(own)

            def forward(self, question: str) -> Any:
                return self.last(question=question, draft=self.predict(question=question, context="").draft)

        voting(Agent(free, TwoSteps()), num_proposals_per_model=2)(question="?")
        assert (own.rollouts, len({*free.rollouts})) == ([None, None], 2)

    def test_at_temperature_0_are_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"Agent 'a' answers at temperature 0, so its 2 samples would be one answer"
        ):
            voting(cold(), num_proposals_per_model=2)

    def test_of_one_lm_at_temperature_0_twice_are_refused(self) -> None:
        lm = cold()
        with pytest.raises(ValueError, match=r"One LM at temperature 0 proposes twice with one prompt"):
            voting(lm, lm)

    def test_at_temperature_0_with_prompts_of_their_own_are_taken(self) -> None:
        lm = cold()
        moa = voting(Agent(lm, instructions="One."), Agent(lm, instructions="Two."), use_specialized_prompts=True)
        with pytest.warns(UserWarning, match=r"rollout_id has no effect when temperature=0"):
            assert len(moa(question="?").proposals) == 2

    def test_of_two_lms_at_temperature_0_are_taken(self) -> None:
        assert len(voting(cold("a"), cold("b"))(question="?").proposals) == 2


class TestAggregator:
    @pytest.mark.parametrize("make", [lambda lm: lm, Agent, lambda lm: Agent(lm, name="judge")])
    def test_may_be_an_lm_or_an_agent(self, make: Any) -> None:
        lms = cast("a", "judge")
        moa = MoA(QA, [lms["a"]], make(lms["judge"]))
        assert (moa(question="?").answer, moa.aggregator.name) == ("judge", "aggregator")

    def test_may_be_a_name(self) -> None:
        assert MoA(QA, ["x/a"], "openai/gpt-5").aggregator.model == "openai/gpt-5"

    def test_may_be_the_ambient_lm(self) -> None:
        lms = cast("a", "ambient")
        with dspy.context(lm=lms["ambient"]):
            moa = MoA(QA, [lms["a"]])
            assert moa(question="?").answer == "ambient"
        with pytest.raises(ValueError, match=r"The strategy 'synthesis' needs an aggregator, and there is none"):
            moa(question="?")
        assert calls(lms) == {"a": 1, "ambient": 1}

    @pytest.mark.parametrize("strategy", ["synthesis", "selection", "fusion", NeedsJudge()])
    def test_that_the_strategy_needs_is_missed_at_once(self, strategy: Any) -> None:
        with pytest.raises(ValueError, match=r"needs an aggregator, and there is none. Give aggregator="):
            MoA(QA, ["x/a"], strategy=strategy)

    @pytest.mark.parametrize("strategy", ["voting", Mine()])
    def test_that_is_not_needed_is_not_asked_for_even_if_there_is_an_ambient_lm(self, strategy: Any) -> None:
        lms = cast("a", "b", "ambient")
        with dspy.context(lm=lms["ambient"]):
            assert MoA(QA, [lms["a"], lms["b"]], strategy=strategy)(question="?").answer == "a"
        assert calls(lms) == {"a": 1, "b": 1, "ambient": 0}

    def test_that_is_not_needed_need_have_no_key(self) -> None:
        lms = cast("a", "b")
        with dspy.context(lm=dspy.LM("openai/gpt-5")):
            assert MoA(QA, [*lms.values()], strategy="voting")(question="?").answer == "a"

    @pytest.mark.parametrize(
        ("aggregator", "error", "message"),
        [
            (dspy.Predict(QA), TypeError, "An aggregator is a model, not a module .Predict.. To judge in your own way"),
            (Agent("x/a", dspy.Predict(QA)), ValueError, "An aggregator runs the strategy, not a program of its own"),
            (Agent("x/a", instructions="Be kind."), ValueError, "An aggregator's instructions would be ignored"),
            (3, TypeError, "A model is a name .* not int"),
        ],
    )
    def test_that_cannot_judge_is_refused(self, aggregator: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            MoA(QA, ["x/a"], aggregator)


class TestStrategy:
    def test_unknown_one_names_the_known(self) -> None:
        with pytest.raises(ValueError, match=r"no strategy .best.. Choose one of: synthesis, selection, voting"):
            MoA(QA, ["x/a"], "x/j", "best")

    @pytest.mark.parametrize("strategy", [Voting, None, 3])
    def test_of_another_type_is_refused(self, strategy: Any) -> None:
        with pytest.raises(TypeError, match=r"A strategy is a name or a Strategy"):
            MoA(QA, ["x/a"], "x/j", strategy)

    def test_object_is_copied_so_that_it_serves_several_mixtures(self) -> None:
        strategy = Selection(rotations=2)
        mixtures = [MoA(QA, ["x/a"], "x/j", strategy) for _ in range(2)]
        assert strategy is not mixtures[0].strategy is not mixtures[1].strategy and strategy.predictors() == []

    def test_in_an_aggregator_that_was_swapped_is_looked_at(self) -> None:
        moa = MoA(QA, ["x/a"], "x/j", Synthesis())
        moa.aggregator = Agent("x/j", dspy.Predict(QA))
        with pytest.raises(TypeError, match=r"which is no Strategy"):
            _ = moa.strategy
