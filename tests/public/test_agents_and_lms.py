"""Each role asks its own LM: in copies, after resets, when somebody sets another, and with one model in two roles."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import EXAMPLES, QA, Ask, both_ways, calls, cast, every_way, in_task, mixture, says
from support.roles import Outer, never

from moa_dspy import Agent, MoA, Strategy, Verdict

specialized = pytest.mark.parametrize("specialized", [False, True], ids=["shared", "specialized"])
Copied = Callable[[MoA, Path], Any]


def saved(moa: MoA, folder: Path) -> Any:
    moa.save(str(folder / "program"), save_program=True)
    return dspy.load(str(folder / "program"), allow_pickle=True)


COPIES: dict[str, Copied] = {
    "itself": lambda moa, _: moa,
    "reset_copy": lambda moa, _: moa.reset_copy(),
    "deepcopy": lambda moa, _: copy.deepcopy(moa),
    "copy of a copy": lambda moa, _: moa.deepcopy().reset_copy().deepcopy(),
    "save_program": saved,
    "LabeledFewShot": lambda moa, _: dspy.LabeledFewShot(k=1).compile(moa, trainset=EXAMPLES),
}


class Brings(dspy.Module):
    """A proposer that brings its LM."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought(QA)
        self.answer.set_lm(lm)

    def forward(self, question: str) -> Any:
        return self.answer(question=question)


class Uncopyable(Brings):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("holds a connection")


class Locked(FakeLM):
    def __deepcopy__(self, memo: Any) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")


class Last(Strategy):
    """Holds what cannot be copied."""

    name = "last"

    def __init__(self) -> None:
        super().__init__()
        self.connection = iter(lambda: 0, 0)

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[-1].outputs)


def predictor(moa: Any, role: str) -> Any:
    """The predictor that belongs to a role, by its name."""
    [found] = [part for name, part in moa.named_predictors() if role in name.split(".")]
    return found


# Its own LM, whatever became of the program.


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("stray", [False, True], ids=["no settings.lm", "settings.lm"])
@specialized
def test_every_role_asks_its_own_lm(name: str, stray: bool, specialized: bool, tmp_path: Path) -> None:
    lms = cast("a", "b", "judge", "stray")
    with dspy.context(lm=lms["stray"] if stray else None):
        moa = COPIES[name](mixture(lms, use_specialized_prompts=specialized), tmp_path)
        assert moa(question="?").answer == "judge"
    assert calls(lms) == {"a": 1, "b": 1, "judge": 1, "stray": 0}
    assert {part.lm for part in moa.predictors()} == {None}


@every_way
@pytest.mark.parametrize("reset", [False, True])
def test_a_program_keeps_the_lm_that_it_brings(ask: Ask, reset: bool) -> None:
    lms = cast("own", "judge", "stray")
    with dspy.context(lm=lms["stray"]):
        moa = MoA(QA, [Brings(lms["own"])], lms["judge"])
        ask(moa.reset_copy() if reset else moa, question="?")
    assert calls(lms) == {"own": 1, "judge": 1, "stray": 0}


@every_way
def test_who_has_no_lm_asks_the_one_of_the_settings(ask: Ask) -> None:
    lms = cast("a", "ambient")
    with dspy.context(lm=lms["ambient"]):
        pred = ask(MoA(QA, [lms["a"], dspy.ChainOfThought(QA)]), question="?")
    assert (pred.answer, calls(lms)) == ("ambient", {"a": 1, "ambient": 2})


@specialized
def test_copies_share_the_lms_and_not_the_prompts(specialized: bool) -> None:
    lms = cast("a", "b", "own", "judge", "new")
    moa: Any = MoA(QA, [lms["a"], lms["b"], Brings(lms["own"])], lms["judge"], use_specialized_prompts=specialized)
    copied: Any = moa.deepcopy()
    assert [agent.get_lm() for agent in copied.agents] == [*lms.values()][:4]
    assert all(agent.get_lm() is lm for agent, lm in zip(copied.agents, lms.values(), strict=False))
    assert [name for name, _ in copied.named_predictors()] == [name for name, _ in moa.named_predictors()]
    copied.predictors()[0].demos = EXAMPLES
    assert moa.predictors()[0].demos == []
    moa.set_lm(lms["new"])  # nobody was called since
    assert all(agent.get_lm() is lms["new"] for agent in moa.deepcopy().agents)


def test_a_copied_panel_shares_the_lm_that_was_put_into_its_prompt() -> None:
    lms = cast("a", "new")
    panel = MoA(QA, [lms["a"]], strategy="voting").panels[0]
    panel.set_lm(lms["new"])
    copied: Any = copy.deepcopy(panel)
    assert copied(question="?").proposals[0].outputs == {"answer": "new"} and copied.agents[0].lm is lms["new"]


def told(moa: MoA, lm: dspy.BaseLM) -> MoA:
    moa.set_lm(lm)
    return moa


@pytest.mark.parametrize(
    "build",
    [
        lambda lms: MoA(QA, [lms["a"], lms["a"], Uncopyable(lms["own"])], lms["judge"]),
        lambda lms: MoA(QA, [lms["a"], lms["own"]], lms["own"]),
        lambda lms: told(mixture({name: lms[name] for name in ("a", "judge")}), lms["own"]),
        lambda lms: MoA(QA, [lms["a"], lms["own"]], strategy=Last()),
    ],
    ids=["program", "LM", "LM that was set", "strategy"],
)
def test_a_copy_is_whole_whatever_in_it_cannot_be_copied(build: Callable[[Any], MoA]) -> None:
    lms = {**cast("a", "judge"), "own": Locked("own", says("own"))}
    moa: Any = build(lms)
    copied: Any = moa.deepcopy()
    assert [name for name, _ in copied.named_predictors()] == [name for name, _ in moa.named_predictors()]
    assert copied.predictors()[0] is not moa.predictors()[0] and copied.get_lm() is moa.get_lm()
    assert copied(question="?").answer == moa(question="?").answer and lms["own"].calls > 1


def test_an_agent_is_a_program_of_its_own() -> None:
    a, stray = cast("a", "stray").values()
    agent = Agent(a, dspy.Predict(QA))
    with dspy.context(lm=stray):
        assert (agent(question="?").answer, in_task(agent, question="?").answer) == ("a", "a")
    assert (a.calls, stray.calls, agent.get_lm()) == (2, 0, a)
    agent.set_lm(stray.copy(rollout_id=4))
    agent(question="?")
    agent.set_lm(stray)
    agent(question="?")
    assert (a.rollouts, stray.rollouts, agent.get_lm()) == ([None, None, 4], [None], stray)


def test_one_program_may_be_two_agents() -> None:
    lms, program = cast("a", "b", "judge"), dspy.ChainOfThought(QA)
    moa = MoA(QA, [Agent(lms["a"], program), Agent(lms["b"], program, name="other")], lms["judge"])
    assert [(p.agent, p.outputs["answer"]) for p in moa(question="?").proposals] == [("a", "a"), ("other", "b")]


def test_an_agent_without_a_program_waits_for_its_mixture() -> None:
    with pytest.raises(ValueError, match=r"Agent 'a' has no program yet"):
        Agent(FakeLM("a", says("a")))(question="?")


# What is put on the predictors is adopted.


@specialized
@every_way
def test_an_lm_that_is_set_replaces_every_agents(ask: Ask, specialized: bool) -> None:
    lms = cast("a", "b", "judge", "new")
    moa = mixture({name: lms[name] for name in ("a", "b", "judge")}, use_specialized_prompts=specialized)
    moa.set_lm(lms["new"])
    assert moa.get_lm() is lms["new"]
    for _ in range(2):
        ask(moa, question="?")
    ask(moa.deepcopy(), question="?")
    assert calls(lms) == {"a": 0, "b": 0, "judge": 0, "new": 9}


@specialized
@every_way
def test_one_with_a_rollout_makes_each_agent_sample_its_own_again(ask: Ask, specialized: bool) -> None:
    lms = cast("a", "b", "judge", "stray")
    moa = mixture(lms, use_specialized_prompts=specialized)
    moa.set_lm(lms["stray"].copy(rollout_id=7, temperature=0.9))
    ask(moa, question="?")
    assert [lm.rollouts for lm in lms.values()] == [[7], [7], [7], []]
    assert {lm.requests[0].config.temperature for lm in lms.values() if lm.calls} == {0.9}


@pytest.mark.parametrize(
    ("role", "rollout", "asked"),
    [
        ("b", None, {"a": 1, "b": 0, "judge": 1, "new": 1}),
        ("b", 5, {"a": 1, "b": 1, "judge": 1, "new": 0}),
        ("aggregator", None, {"a": 1, "b": 1, "judge": 0, "new": 1}),
    ],
)
def test_one_on_a_predictor_is_for_its_agent_only(role: str, rollout: Any, asked: dict[str, int]) -> None:
    lms = cast("a", "b", "judge", "new")
    moa = mixture({name: lms[name] for name in ("a", "b", "judge")}, use_specialized_prompts=True)
    predictor(moa, role).lm = lms["new"].copy(rollout_id=rollout, temperature=1.0) if rollout else lms["new"]
    moa(question="?")
    assert calls(lms) == asked and [lms["a"].rollouts, lms["b"].rollouts] == [[None], [rollout] * asked["b"]]


@both_ways
def test_it_reaches_agents_in_a_program_around_them_and_in_a_mixture_inside(ask: Ask) -> None:
    lms = cast("a", "inner", "judge", "stray")
    outer = Outer(MoA(QA, [MoA(QA, [lms["a"]], lms["inner"])], lms["judge"]))
    outer.set_lm(lms["stray"].copy(rollout_id=2, temperature=1.0))
    outer(question="?")
    assert [lm.rollouts for lm in lms.values()] == [[2], [2], [2], []]
    outer.set_lm(lms["stray"])
    outer(question="?")
    assert lms["stray"].calls == 3


def test_what_was_set_last_counts() -> None:
    lms = cast("a", "judge", "new")
    moa = mixture({name: lms[name] for name in ("a", "judge")})
    for number, lm in enumerate([lms["new"], lms["new"].copy(rollout_id=1), lms["new"], lms["a"].copy(rollout_id=3)]):
        moa.set_lm(lm)
        moa.get_lm()
        if number > 1:
            moa(question="?")
    assert lms["new"].rollouts == [None, None, 3, 3] and lms["a"].calls == 0


def test_one_on_the_shared_predictor_is_for_every_proposer() -> None:
    lms = cast("a", "b", "judge", "stray")
    moa = mixture(lms)
    predictor(moa, "proposers").lm = lms["stray"]
    moa(question="?")
    assert calls(lms) == {"a": 0, "b": 0, "judge": 1, "stray": 2}


def test_a_program_with_its_own_lm_keeps_it_for_samples_and_gives_it_up_for_another() -> None:
    lms = cast("own", "judge", "stray")
    moa = MoA(QA, [Brings(lms["own"])], lms["judge"])
    for rollout in (3, None):
        moa.set_lm(lms["stray"].copy(rollout_id=rollout, temperature=1.0) if rollout else lms["stray"])
        moa(question="?")
        moa.reset_copy()(question="?")
    assert [lms["own"].rollouts[0], calls(lms)] == [3, {"own": 2, "judge": 2, "stray": 4}]


def test_it_reaches_predictors_in_lists_and_dicts() -> None:
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


def test_the_sample_that_is_asked_of_the_settings_lm_is_asked_of_every_agent() -> None:
    lms = cast("a", "inner", "judge", "stray")
    moa = MoA(QA, [MoA(QA, [lms["a"]], lms["inner"])], lms["judge"])
    with dspy.context(lm=lms["stray"].copy(rollout_id=9, temperature=0.3)):
        moa(question="?")
    found = [(lm.rollouts != [None], lm.requests[0].config.temperature) for lm in lms.values() if lm.calls]
    assert found == [(True, 0.3)] * 3


def test_it_arrives_whole_however_many_threads_call_at_once() -> None:
    lms = cast("a", "b", "judge", "stray")
    moa, run = mixture(lms), dspy.Parallel(num_threads=8, disable_progress_bar=True)
    for _ in range(5):
        moa.set_lm(lms["stray"])
        run([(moa, {"question": "?"})] * 8)
    assert calls(lms) == {"a": 0, "b": 0, "judge": 0, "stray": 5 * 8 * 3}


@pytest.mark.parametrize("sampler", [dspy.BestOfN, dspy.Refine])
@pytest.mark.parametrize("wrapped", [lambda moa: moa, Outer], ids=["mixture", "outer program"])
@specialized
def test_resampling_modules_get_n_answers_of_every_lm(
    sampler: Any, wrapped: Any, specialized: bool, cached: None
) -> None:
    lms = cast("a", "b", "judge", cache=True)
    adviser = FakeLM("adviser", lambda prompt: {"discussion": "?", "advice": {}})
    program = wrapped(mixture(lms, use_specialized_prompts=specialized))
    with dspy.context(lm=adviser):
        assert sampler(program, N=3, reward_fn=never, threshold=1.0)(question="?").answer == "judge"
    assert calls(lms) == {"a": 3, "b": 3, "judge": 3}
    assert [len({*lm.rollouts}) for lm in lms.values()] == [3, 3, 3]


@specialized
def test_each_round_of_bootstrapping_samples_every_lm_anew(specialized: bool, cached: None) -> None:
    lms = cast("a", "b", "judge", "stray", cache=True)
    optimizer = dspy.BootstrapFewShot(metric=never, max_rounds=3, max_labeled_demos=0)
    with dspy.context(lm=lms["stray"]):
        optimizer.compile(mixture(lms, use_specialized_prompts=specialized), trainset=EXAMPLES[:1])
    assert calls(lms) == {"a": 3, "b": 3, "judge": 3, "stray": 0}
    assert {len({*lm.rollouts}) for lm in lms.values() if lm.calls} == {3}
    assert [request.config.temperature for request in lms["a"].requests] == [None, 1.0, 1.0]


# One model, several answers.


@both_ways
def test_one_model_twice_gives_two_answers(ask: Ask, cached: None) -> None:
    a = FakeLM("a", [{"reasoning": "r", "answer": "one"}, {"reasoning": "r", "answer": "two"}], cache=True)
    pred = ask(MoA(QA, [a, a], FakeLM("judge", says("j"))), question="?")
    assert [p.agent for p in pred.proposals] == ["a", "a_2"] and None in a.rollouts
    assert sorted(p.outputs["answer"] for p in pred.proposals) == ["one", "two"]


def test_two_lms_of_one_name_stay_apart_in_the_cache(cached: None) -> None:
    lms = [FakeLM("same", says(answer), cache=True) for answer in "12"]
    moa = MoA(QA, [*lms, Brings(FakeLM("same", says("3"), cache=True))], strategy="voting")
    for _ in range(2):
        assert [p.outputs["answer"] for p in moa(question="?").proposals] == ["1", "2", "3"]


def test_samples_layers_mixtures_inside_and_attempts_never_collide(cached: None) -> None:
    a, judge = (FakeLM(name, says(name), cache=True) for name in ("a", "judge"))
    inner = [MoA(QA, [a, a], judge) for _ in range(2)]
    moa = MoA(QA, [inner[0], a, a.copy(rollout_id=1), inner[1], a], judge, num_proposals_per_model=2)
    moa(question="?")
    dspy.BestOfN(moa, N=3, reward_fn=never, threshold=1.0)(question="?")
    assert a.calls == len({*a.rollouts}) == 4 * 2 * 7


def test_two_mixtures_on_the_settings_lm_stay_apart(cached: None) -> None:
    ambient = FakeLM("ambient", says("a"), cache=True)
    with dspy.context(lm=ambient):
        inner = [MoA(QA, [dspy.ChainOfThought(QA)], strategy="voting") for _ in range(2)]
        MoA(QA, inner, strategy="voting")(question="?")
    assert len({*ambient.rollouts}) == 2


def test_samples_reach_mixtures_inside_dspy_parallel(cached: None) -> None:
    lms = cast("a", "judge", cache=True)

    class Fanned(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = mixture(lms)

        def forward(self, **inputs: Any) -> Any:
            return dspy.Parallel(num_threads=2, disable_progress_bar=True)([(self.inner, inputs)])[0]

    MoA(QA, [Fanned()], strategy="voting", num_proposals_per_model=3)(question="?")
    assert lms["a"].calls == 3


def test_an_lms_own_rollout_id_stays_until_another_sample_is_asked_for() -> None:
    a, own = (FakeLM(name, says(name), temperature=1.0) for name in ("a", "own"))
    programs = [Brings(own.copy(rollout_id=number)) for number in (6, 7)]
    moa = MoA(QA, [a.copy(rollout_id=5), *programs], strategy="voting")
    moa(question="?")
    moa.set_lm(a.copy(rollout_id=6))
    moa(question="?")
    assert (a.rollouts[0], {*own.rollouts[:2]}) == (5, {6, 7}) and len({*a.rollouts, *own.rollouts}) == 6


def test_the_same_question_again_comes_from_the_cache(cached: None) -> None:
    lms = cast("a", "judge", cache=True)
    moa = MoA(QA, [lms["a"], lms["a"]], lms["judge"], num_proposals_per_model=2)
    first, again = moa(question="?").metadata.usage, moa(question="?").metadata.usage
    assert (first.cache_hits, again.cache_hits, calls(lms)) == (0, 5, {"a": 4, "judge": 1})


# The names of the predictors, by which optimizers and saved states know them.


def test_predictors_have_names_without_brackets() -> None:
    lms = cast("a", "b", "judge")
    moa = MoA(QA, [lms["a"], mixture(lms), dspy.Predict(QA)], lms["judge"], use_specialized_prompts=True)
    assert [name for name, _ in moa.named_predictors()] == [
        "proposers.a.program.predict",
        "proposers.moa.program.proposers.shared.predict",
        "proposers.moa.program.aggregator.program.synthesize",
        "proposers.predict.program",
        "aggregator.program.synthesize",
    ]
    layered = [name for name, _ in mixture(lms, layers=2).named_predictors()]
    assert layered == ["proposers.shared.predict", "layer_2.shared.predict", "aggregator.program.synthesize"]


def test_specialized_signatures_differ_and_prompts_do_not() -> None:
    lms = cast("a", "b", "judge")
    moa = mixture(lms, use_specialized_prompts=True, layers=2)
    signatures: list[Any] = [predictor.signature for predictor in moa.predictors()]
    assert not any(one.equals(two) for one in signatures for two in signatures if one is not two)
    moa(question="?")
    assert lms["a"].prompts == lms["b"].prompts


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("openai/gpt-5.4-mini", "gpt_5_4_mini"),
        ("x/1.5-flash", "m_1_5_flash"),
        ("x/shared", "shared_agent"),
        ("x/_hidden", "hidden"),
        ("x/模型", "agent"),
    ],
)
def test_an_agent_is_named_after_its_model(model: str, name: str) -> None:
    assert Agent(FakeLM(model, [])).name == name


def test_what_a_panel_has_and_what_is_no_attribute_cannot_name_an_agent() -> None:
    panel: Any = mixture(cast("a", "judge")).panels[0]
    for name in ["", "a b", "a-b", "1a", "a.b", "x[0]", "_x", *{*dir(panel)} - {"a"}]:
        with pytest.raises(ValueError, match=r"cannot name an agent"):
            Agent("openai/x", name=name)


# Keys.


def test_every_missing_key_is_named_before_anybody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    a = FakeLM("a", says("a"))
    moa = MoA(QA, [a, "anthropic/claude-haiku-4-5"])
    with dspy.context(lm=dspy.LM("openai/gpt-5")):
        with pytest.raises(ValueError, match=r"ANTHROPIC_API_KEY is not set; .*agent 'aggregator'.*OPENAI_API_KEY is"):
            moa(question="?")
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-x")
        with pytest.raises(ValueError, match=r"^(?!.*ANTHROPIC).*OPENAI_API_KEY"):
            moa(question="?")
    assert a.calls == 0
