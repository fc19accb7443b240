import copy
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, Ask, both_ways, calls, cast, every_way, mixture, says

from moa_dspy import Agent, MoA, Strategy, Verdict

ANYTHING: Any = object()

shared_and_specialized = pytest.mark.parametrize("specialized", [False, True], ids=["shared", "specialized"])


def bootstrapped(moa: MoA, **options: Any) -> Any:
    return dspy.BootstrapFewShot(metric=lambda *_: True, max_labeled_demos=2, **options).compile(moa, trainset=EXAMPLES)


class Ensemble(dspy.Module):
    """A plain outer program."""

    def __init__(self, moa: dspy.Module) -> None:
        super().__init__()
        self.inner = moa

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


class OwnLM(dspy.Module):
    """A proposer that brings its LM."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)
        self.answer.set_lm(lm)

    def forward(self, question: str) -> Any:
        return self.answer(question=question)


class Uncopyable(OwnLM):
    def __deepcopy__(self, memo: dict[int, Any]) -> "Uncopyable":
        raise TypeError("holds a connection")


class Locked(FakeLM):
    def __deepcopy__(self, memo: dict[int, Any]) -> "Locked":
        raise TypeError("cannot pickle '_thread.lock' object")


class TestLMs:
    def test_mixture_gives_the_aggregators_lm(self) -> None:
        lms = cast("a", "judge")
        assert mixture(lms).get_lm() is lms["judge"]

    def test_without_an_aggregator_it_gives_a_proposers_lm(self) -> None:
        lms = cast("a", "b")
        assert MoA(QA, [*lms.values()], strategy="voting").get_lm() is lms["a"]

    def test_agent_gives_its_own_lm_or_its_programs(self) -> None:
        a = FakeLM("a", says("a"))
        assert [Agent(a, dspy.Predict(QA)).get_lm(), Agent(program=OwnLM(a)).get_lm()] == [a, a]


class TestCopies:
    def test_share_the_lms_whatever_their_history(self) -> None:
        lms = cast("a", "b", "judge")
        moa = mixture(lms)
        for lm in lms.values():
            lm.history = [{}] * 300
        copied: Any = moa.deepcopy()
        assert [agent.lm for agent in copied.agents] == [*lms.values()]
        assert all(agent.lm is lm for agent, lm in zip(copied.agents, lms.values(), strict=True))

    @shared_and_specialized
    def test_share_an_lm_that_is_still_in_the_mail(self, specialized: bool) -> None:
        lms = cast("a", "b", "judge", "new")
        new = lms.pop("new")
        moa = mixture(lms, use_specialized_prompts=specialized)
        moa.set_lm(new)
        copied: Any = moa.deepcopy()
        copied(question="?")
        assert all(agent.lm is new for agent in copied.agents)

    def test_share_an_lm_that_was_replaced(self) -> None:
        lms = cast("a", "judge", "new")
        new = lms.pop("new")
        moa = mixture(lms)
        moa(question="?")
        moa.set_lm(new)
        assert moa.get_lm() is new
        assert {*map(id, _lms(moa.deepcopy()))} <= {*map(id, [*lms.values(), new])}

    def test_share_the_lms_that_a_program_brings(self) -> None:
        own = FakeLM("own", says("own"))
        copied: Any = MoA(QA, [OwnLM(own)], strategy="voting").deepcopy()
        assert copied.proposers.ownlm.program.answer.predict.lm is own

    def test_keep_the_shared_predictor_shared(self) -> None:
        copied: Any = mixture(cast("a", "b", "judge")).deepcopy()
        assert copied.proposers.a.program is copied.proposers.b.program is copied.proposers.shared

    def test_survive_a_program_that_cannot_be_copied(self) -> None:
        lms = cast("a", "b", "judge", "own")
        own = lms.pop("own")
        moa: Any = MoA(QA, [lms["a"], lms["b"], Uncopyable(own)], lms["judge"])
        copied: Any = moa.deepcopy()
        assert [name for name, _ in copied.named_predictors()] == [name for name, _ in moa.named_predictors()]
        assert copied.proposers.a.program is not moa.proposers.a.program
        assert all(agent.lm is lm for agent, lm in zip(copied.agents[:2], lms.values(), strict=False))
        assert copied.proposers.uncopyable.program.answer.predict.lm is own
        assert copied(question="?").answer == "judge" and own.calls == 1

    @pytest.mark.parametrize("mailed", [False, True], ids=["held", "in the mail"])
    def test_survive_an_lm_that_cannot_be_copied(self, mailed: bool) -> None:
        lms = {**cast("a", "b", "judge"), "new": Locked("new", says("x"))}
        new = lms.pop("new")
        moa: Any = mixture(lms) if mailed else MoA(QA, [lms["a"], new], new)
        if mailed:
            moa.set_lm(new)
        copied: Any = moa.deepcopy()
        first, second = copied.agents[:2]
        assert first.program is second.program is copied.proposers.shared
        assert copied.get_lm() is new and copied.proposers.shared is not moa.proposers.shared


def _lms(module: Any) -> list[Any]:
    """Every LM that an agent of the module holds, under whatever attribute."""
    return [value for agent in module.agents for value in vars(agent).values() if isinstance(value, dspy.BaseLM)]


class TestMail:
    def test_plain_lm_ends_the_rollout(self) -> None:
        lms = cast("a", "judge", "stray")
        moa = mixture(lms)
        moa.set_lm(lms["a"].copy(rollout_id=7))
        moa(question="?")
        moa.set_lm(lms["stray"])
        moa(question="?")
        assert lms["stray"].rollouts == [None, None]

    def test_rollout_after_a_plain_lm_samples_that_one(self) -> None:
        lms = cast("a", "judge", "stray")
        moa = mixture(lms)
        moa.set_lm(lms["stray"])
        moa.set_lm(lms["stray"].copy(rollout_id=1))
        moa.get_lm()
        moa.set_lm(lms["stray"])
        moa(question="?")
        moa.set_lm(lms["a"].copy(rollout_id=3))
        moa(question="?")
        assert lms["stray"].rollouts == [None, None, 3, 3]

    def test_on_the_shared_predictor_is_for_every_proposer_and_not_for_the_aggregator(self) -> None:
        lms = cast("a", "b", "judge", "stray")
        moa: Any = mixture(lms)
        moa.proposers.shared.predict.lm = lms["stray"]
        moa(question="?")
        assert calls(lms) == {"a": 0, "b": 0, "judge": 1, "stray": 2}

    @both_ways
    def test_on_the_shared_predictor_is_for_every_proposer_of_a_panel_that_is_called_alone(self, ask: Ask) -> None:
        lms = cast("a", "b", "judge", "stray")
        moa: Any = mixture(lms)
        panel = moa.proposers
        panel.set_lm(lms["stray"])
        ask(panel, question="?")
        assert calls(lms) == {"a": 0, "b": 0, "judge": 0, "stray": 2}

    @both_ways
    def test_to_an_agent_that_stands_alone_is_taken(self, ask: Ask) -> None:
        lms = cast("a", "stray")
        agent = Agent(lms["a"], dspy.Predict(QA))
        agent.set_lm(lms["stray"].copy(rollout_id=4))
        ask(agent, question="?")
        agent.set_lm(lms["stray"])
        ask(agent, question="?")
        assert (lms["a"].rollouts, lms["stray"].rollouts, agent.lm) == ([4], [None], lms["stray"])

    def test_for_a_program_that_is_not_built_yet_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"Agent 'a' has no program yet"):
            Agent(FakeLM("a", says("a")))(question="?")


class TestResampling:
    def test_simba_asks_every_lm_for_its_candidates(self, cached: None) -> None:
        lms = cast("a", "b", "judge", cache=True)
        rule = FakeLM("adviser", lambda prompt: {"discussion": "?", "module_advice": {}})
        scores = iter(range(1000))
        optimizer = dspy.SIMBA(
            metric=lambda *_: next(scores) % 7 / 7, bsize=2, num_candidates=3, max_steps=1, max_demos=1, num_threads=2
        )
        with dspy.context(lm=rule):
            tuned = optimizer.compile(mixture(lms), trainset=EXAMPLES[:2], seed=1)
            before = calls(lms)
            tuned(question="other")
        assert {name: count - before[name] for name, count in calls(lms).items()} == {"a": 1, "b": 1, "judge": 1}
        assert all({0, 1, 2} <= {*lm.rollouts} for lm in lms.values())

    def test_agents_own_rollout_id_is_composed_with_another(self) -> None:
        a = FakeLM("a", says("a"))
        agents = [Agent(a.copy(rollout_id=id), dspy.Predict(QA)) for id in (1, 2)]
        with dspy.context(lm=FakeLM("stray", says("x"), rollout_id=9)):
            for agent in agents:
                agent(question="?")
        assert len({*a.rollouts, 1, 2, 9}) == 5

    def test_samples_of_bootstrapping_rounds_do_not_collide(self, cached: None) -> None:
        lms = cast("a", "judge", "stray", cache=True, temperature=1.0)
        moa = mixture(lms, num_proposals_per_model=2)
        optimizer = dspy.BootstrapFewShot(metric=lambda *_: False, max_rounds=3, max_labeled_demos=0)
        with dspy.context(lm=lms["stray"]):
            optimizer.compile(moa, trainset=EXAMPLES[:1])
        assert lms["a"].calls == len({*lms["a"].rollouts}) == 6

    def test_agents_own_rollout_id_stays_when_nobody_asks_for_another(self) -> None:
        a = FakeLM("a", says("a"), rollout_id=5, temperature=1.0)
        mixture({"a": a, **cast("judge")})(question="?")
        assert a.rollouts == [5]


class TestPrograms:
    def test_keep_them_with_rollout_mail_and_after_it(self) -> None:
        lms = cast("own", "judge", "stray")
        moa = MoA(QA, [OwnLM(lms["own"])], lms["judge"])
        for rollout in (3, 4):
            moa.set_lm(lms["stray"].copy(rollout_id=rollout))
            moa(question="?")
        copied: Any = moa.reset_copy()
        copied(question="?")
        assert calls(lms) == {"own": 3, "judge": 3, "stray": 0}
        assert lms["own"].rollouts[:2] == [3, 4]

    def test_give_them_up_for_a_plain_lm(self) -> None:
        lms = cast("own", "judge", "stray")
        moa = MoA(QA, [OwnLM(lms["own"])], lms["judge"])
        moa.set_lm(lms["stray"])
        moa(question="?")
        copied: Any = moa.reset_copy()
        copied(question="?")
        assert calls(lms) == {"own": 0, "judge": 0, "stray": 4}

    def test_without_lms_run_on_the_agents(self) -> None:
        lms = cast("a", "b", "judge", "stray")
        program = dspy.ChainOfThought(QA)
        moa = MoA(QA, [Agent(lms["a"], program), Agent(lms["b"], program, name="other")], lms["judge"])
        with dspy.context(lm=lms["stray"]):
            pred = moa(question="?")
        assert [(p.agent, p.outputs) for p in pred.proposals] == [("a", {"answer": "a"}), ("other", {"answer": "b"})]
        assert calls(lms) == {"a": 1, "b": 1, "judge": 1, "stray": 0}

    @every_way
    def test_mixture_proposes_inside_a_mixture(self, ask: Ask) -> None:
        lms = cast("a", "b", "inner_judge", "judge", "stray")
        inner = MoA(QA, [lms["a"], lms["b"]], lms["inner_judge"])
        with dspy.context(lm=lms["stray"]):
            pred = ask(MoA(QA, [inner, lms["a"]], lms["judge"]), question="?")
        assert calls(lms) == {"a": 2, "b": 1, "inner_judge": 1, "judge": 1, "stray": 0}
        assert {name: usage.calls for name, usage in pred.metadata.agents.items()} == {
            "moa": 3,
            "a": 1,
            "aggregator": 1,
        }
        assert {name: usage.calls for name, usage in pred.metadata.models.items()} == {
            "a": 2,
            "b": 1,
            "inner_judge": 1,
            "judge": 1,
        }

    def test_ambient_lm_s_rollout_reaches_every_agent_of_a_mixture_inside(self) -> None:
        lms = cast("a", "inner_judge", "judge", "stray")
        moa = MoA(QA, [MoA(QA, [lms["a"]], lms["inner_judge"])], lms["judge"])
        with dspy.context(lm=lms["stray"].copy(rollout_id=9, temperature=0.3)):
            moa(question="?")
        assert [(lm.rollouts != [None], lm.requests[0].config.temperature) for lm in [*lms.values()][:3]] == [
            (True, 0.3)
        ] * 3

    @both_ways
    def test_without_aforward_runs_in_a_thread_under_acall(self, ask: Ask) -> None:
        lms = cast("own", "judge")
        pred = ask(
            MoA(QA, [OwnLM(lms["own"]), Agent(lms["own"], Ensemble(dspy.Predict(QA)))], lms["judge"]), question="?"
        )
        assert [p.outputs for p in pred.proposals] == [{"answer": "own"}, {"answer": "own"}]
        assert (calls(lms), pred.metadata.usage.calls) == ({"own": 2, "judge": 1}, 3)

    @both_ways
    def test_task_may_have_inputs_of_any_name(self, ask: Ask) -> None:
        lms = cast("a", "judge")
        moa = MoA(
            "module, inputs, case, call -> answer",
            [lms["a"], Agent(lms["a"], Ensemble(dspy.Predict("module, inputs, case, call -> answer")))],
            lms["judge"],
        )
        assert ask(moa, module="m", inputs="i", case="c", call="l").metadata.failures == []

    def test_may_hold_predictors_in_lists_and_dicts(self) -> None:
        class Several(dspy.Module):
            def __init__(self, own: dspy.BaseLM) -> None:
                super().__init__()
                self.steps = [dspy.Predict("question -> draft")]
                self.named = {"last": dspy.Predict("draft -> answer")}
                self.named["last"].set_lm(own)

            def forward(self, question: str) -> Any:
                return self.named["last"](draft=self.steps[0](question=question).draft)

        own, free = FakeLM("own", says("x")), FakeLM("free", lambda prompt: {"draft": "d"})
        moa = MoA(QA, [Agent(free, Several(own))], strategy="voting")
        moa.set_lm(free.copy(rollout_id=3))
        moa(question="?")
        assert (own.rollouts, free.rollouts) == ([3], [3])

    def test_rollouts_reach_mixtures_inside_dspy_parallel(self, cached: None) -> None:
        lms = cast("a", "judge", cache=True)

        class Fanned(dspy.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = mixture(lms)

            def forward(self, **inputs: Any) -> Any:
                return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.inner, inputs)])[0]

        MoA(QA, [Fanned()], strategy="voting", num_proposals_per_model=3)(question="?")
        assert lms["a"].calls == 3


class TestSameModelTwice:
    @both_ways
    def test_two_lms_of_one_name_stay_apart_in_cache_and_account(self, ask: Ask, cached: None) -> None:
        first, second = (
            FakeLM("same", says(answer), usage=usage, cache=True) for answer, usage in (("1", (1, 2)), ("2", (3, 4)))
        )
        moa = MoA(QA, [first, second], strategy="voting")
        agents = ask(moa, question="?").metadata.agents
        assert [p.outputs["answer"] for p in ask(moa, question="?").proposals] == ["1", "2"]
        assert [(usage.prompt_tokens, usage.completion_tokens) for usage in agents.values()] == [(1, 2), (3, 4)]

    def test_two_mixtures_on_the_ambient_lm_stay_apart(self, cached: None) -> None:
        ambient = FakeLM("ambient", says("a"), cache=True)
        with dspy.context(lm=ambient):
            inner = [MoA(QA, [dspy.ChainOfThought(QA)], strategy="voting") for _ in range(2)]
            MoA(QA, inner, strategy="voting")(question="?")
        assert len({*ambient.rollouts}) == 2


class TestPrompts:
    def test_names_of_predictors_have_no_brackets(self) -> None:
        lms = cast("a", "b", "judge")
        inner = mixture(lms)
        moa = MoA(QA, [lms["a"], inner, dspy.Predict(QA)], lms["judge"], use_specialized_prompts=True)
        assert [name for name, _ in moa.named_predictors()] == [
            "proposers.a.program.predict",
            "proposers.moa.program.proposers.shared.predict",
            "proposers.moa.program.aggregator.program.synthesize",
            "proposers.predict.program",
            "aggregator.program.synthesize",
        ]

    def test_specialized_signatures_differ_and_prompts_do_not(self) -> None:
        lms = cast("a", "b", "judge")
        moa = mixture(lms, use_specialized_prompts=True, layers=2)
        signatures: list[Any] = [predictor.signature for predictor in moa.predictors()]
        assert not any(one.equals(two) for one in signatures for two in signatures if one is not two)
        moa(question="?")
        assert lms["a"].prompts == lms["b"].prompts

    def test_users_signature_is_left_alone(self) -> None:
        class Task(dspy.Signature):
            """Answer."""

            question: str = dspy.InputField()
            answer: str = dspy.OutputField()

        before = copy.deepcopy(Task.model_json_schema()), Task.instructions
        moa = MoA(Task, [*cast("a", "b").values()], FakeLM("j", says("j")), use_specialized_prompts=True, layers=2)
        bootstrapped(moa)
        assert (Task.model_json_schema(), Task.instructions) == before and moa.signature is Task


class TestBadInput:
    @pytest.mark.parametrize(
        ("make", "error", "message"),
        [
            (lambda: Agent(), ValueError, "needs an LM or a program"),
            (
                lambda: Agent(ANYTHING),
                TypeError,
                "A model is a name such as 'openai/gpt-5-mini' or a dspy.LM, not object",
            ),
            (lambda: Agent(program=ANYTHING), TypeError, "program is a dspy.Module, not object"),
            (lambda: Agent(program=dspy.Predict(QA), temperature=1), ValueError, "temperature would have no effect"),
            (lambda: Agent("openai/x", dspy.Predict(QA), instructions="x"), ValueError, "program has its own prompts"),
        ],
    )
    def test_is_refused(self, make: Any, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            make()

    @pytest.mark.parametrize(
        "name",
        ["", "a b", "a-b", "1a", "a.b", "x[0]", "_compiled", "_x", "forward", "aforward", "set_lm", "shared", "ask"],
    )
    def test_name_that_cannot_be_an_attribute_is_refused(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"cannot name an agent"):
            Agent("openai/x", name=name)

    def test_whatever_a_panel_has_is_taken(self) -> None:
        moa: Any = mixture(cast("a", "judge"))
        panel = moa.proposers
        for name in {*dir(panel)} - {"a"}:
            with pytest.raises(ValueError, match=r"cannot name an agent"):
                Agent("openai/x", name=name)

    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("openai/gpt-5-mini", "gpt_5_mini"),
            ("together/meta-llama/Llama-3.3-70B", "llama_3_3_70b"),
            ("x/1.5-flash", "m_1_5_flash"),
            ("x/shared", "shared_agent"),
            ("x/_hidden", "hidden"),
            ("x/模型", "agent"),
        ],
    )
    def test_names_from_models_are_readable_identifiers(self, model: str, name: str) -> None:
        assert Agent(FakeLM(model, [])).name == name

    def test_name_from_a_module(self) -> None:
        assert Agent(program=dspy.ChainOfThought(QA)).name == "chainofthought"


class TestKeys:
    def test_ambient_lm_s_missing_one_is_named_before_any_call(self) -> None:
        lms = cast("a")
        with (
            dspy.context(lm=dspy.LM("openai/gpt-5")),
            pytest.raises(ValueError, match=r"agent 'aggregator'.*OPENAI_API_KEY"),
        ):
            MoA(QA, [lms["a"]])(question="?")
        assert calls(lms) == {"a": 0}

    def test_that_is_set_later_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        agent = Agent("openai/gpt-5", dspy.Predict(QA))
        assert agent.missing_key() == ("openai/gpt-5", "OPENAI_API_KEY")
        monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
        assert agent.missing_key() is None

    def test_all_missing_ones_are_in_one_message(self) -> None:
        moa = MoA(QA, ["anthropic/claude-haiku-4-5", "openai/gpt-5"], strategy="voting")
        with pytest.raises(ValueError, match=r"ANTHROPIC_API_KEY is not set; .*OPENAI_API_KEY is not set"):
            moa(question="?")


class Mine(Strategy):
    name = "mine"

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


def test_uncopyable_strategy_does_not_split_the_mixture() -> None:
    strategy = Mine()
    lms = cast("a", "b")
    moa: Any = MoA(QA, [*lms.values()], strategy=strategy)
    moa.strategy.connection = iter(lambda: 0, 0)
    copied: Any = moa.deepcopy()
    assert copied.proposers.a.program is copied.proposers.b.program
    assert copied(question="?").answer == "a"
