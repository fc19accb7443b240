"""The optimizers that know that a mixture is made of agents: stages, vote weights, committees, advice, models."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import calls, question
from support.roles import TIP, TRAIN, School, Task, right, role
from support.shown import JUDGED

from moa_dspy import Agent, Limits, MoA, Voting
from moa_dspy.optimizers import Finetune, FitVoteWeights, SelectCommittee, Specialize, diagnose
from moa_dspy.simulated import simulated_lm
from moa_dspy.simulated.questions import bundled_questions

GONE = dspy.lm15.AuthError("the key was revoked")
GOLD = ["0"] * 60
# Three that are right on two thirds of the questions each, at least two of them on every question.
TRIO = {name: [str(n) if n % 3 == at else "0" for n in range(1, 61)] for at, name in enumerate(["ada", "bo", "cy"])}
NOISE = {"dee": [f"dee{n}" for n in range(60)]}
ACE = {"ace": ["0"] * 57 + ["9", "8", "7"]}
LOBBY = ([str(n) for n in [1] * 9 + [0]]) * 6  # right on every tenth question


def team(**others: FakeLM) -> dict[str, FakeLM]:
    """Two proposers, a judge, and who proposes prompts."""
    coach = FakeLM("coach", lambda prompt: {"new_instruction": TIP})
    return {**{name: role(name) for name in ("ada", "bo", "judge")}, "coach": coach, **others}


def student(lms: Mapping[str, FakeLM], **options: Any) -> MoA:
    return MoA(Task, [lms["ada"], lms["bo"]], lms["judge"], **options)


def specialize(lms: Mapping[str, FakeLM], metric: Any = right, **settings: Any) -> Specialize:
    return Specialize(metric, **{"recipe": "quick", "reflection_lm": lms["coach"], **settings})


def compiled(optimizer: Any, moa: MoA) -> Any:
    with dspy.context(lm=FakeLM("stray", [])):  # it has no answer: a call fails the test
        return optimizer.compile(moa, trainset=TRAIN, valset=TRAIN)


def instructions(moa: Any) -> list[str]:
    return [part.signature.instructions for part in moa.predictors()]


def examples(gold: Any) -> list[dspy.Example]:
    return [dspy.Example(question=f"q{n}", answer=answer).with_inputs("question") for n, answer in enumerate(gold)]


def voters(answers: Mapping[str, list[Any]], **options: Any) -> tuple[MoA, dict[str, FakeLM]]:
    """A vote of models that give these answers to q0, q1, ...; an exception among them is raised."""

    def says(given: list[Any]) -> Any:
        def answer(prompt: str) -> Any:
            said = given[int(question(prompt).removeprefix("q"))]
            return said if isinstance(said, BaseException) else {"reasoning": "so", "answer": said}

        return answer

    lms = {name: FakeLM(name, says(given)) for name, given in answers.items()}
    agents = [Agent(lm, name=name) for name, lm in lms.items()]
    return MoA("question -> answer", agents, **{"strategy": "voting", **options}), lms


# Specialize.


def test_specialize_tunes_later_layers_and_a_vote_without_an_aggregator() -> None:
    lms = team()
    layered = compiled(specialize(lms), student(lms, layers=2))
    assert instructions(layered)[:2] == [TIP] * 2 and layered(question="q5").answer == "a5"
    vote = MoA(Task, [lms["ada"], lms["bo"]], strategy="voting")
    asked = lms["judge"].calls
    assert compiled(specialize(lms), vote)(question="q3").answer == "a3" and lms["judge"].calls == asked


def test_a_metric_may_look_at_the_metadata_in_every_stage() -> None:
    seen: set[int] = set()

    def metric(example: Any, pred: Any, trace: Any = None) -> bool:
        if example.question == "q1":  # the first example's gold outputs are tried before any agent is asked
            seen.add(pred.metadata.num_proposers)
        return right(example, pred)

    lms = team()
    inner = dspy.BootstrapFewShot(max_bootstrapped_demos=1, max_labeled_demos=0)
    compiled(specialize(lms, metric, optimizer=inner), student(lms))
    assert seen == {1, 2}


def test_a_prompt_per_model_pays_where_models_need_different_prompts() -> None:
    questions = bundled_questions()
    train, val, held = questions[::5], questions[1::5], questions[2::5]
    moa = MoA("question -> answer", [f"simulated/{name}" for name in ("alice", "bob", "carol")], "simulated/judge")
    optimizer = Specialize("exact", recipe="quick", reflection_lm=simulated_lm("judge"), seed=1)
    tuned = optimizer.compile(moa, trainset=train, valset=val)

    def right_proposals(program: MoA) -> int:
        asked = [(example, program(question=example.question).proposals) for example in held]
        return sum(proposal.outputs["answer"] == example.answer for example, found in asked for proposal in found)

    assert right_proposals(tuned) > right_proposals(moa) and optimizer.report.joint_calls > 2 * optimizer.report.calls


# Weights of a vote.


def test_weights_that_make_it_worse_are_not_kept() -> None:
    moa, _ = voters({"bo": LOBBY, "cy": LOBBY, "ada": GOLD}, strategy=Voting(weights={"ada": 3.0}))
    wrong = [dspy.Example(question=f"q{n}", answer=LOBBY[n]).with_inputs("question") for n in range(60)]
    weighted: Any = FitVoteWeights("exact").compile(moa, trainset=wrong, valset=examples(GOLD))
    assert weighted.strategy.weights == {"ada": 3.0}


# A committee.


@pytest.mark.parametrize(
    ("panel", "settings", "chosen"),
    [
        ({**NOISE, **TRIO}, {}, ["ada", "bo", "cy"]),
        ({**TRIO, **ACE, **NOISE}, {"max_calls": 2}, ["ace"]),
    ],
    ids=["where it pays", "one model alone"],
)
def test_a_committee_is_who_pays(panel: Any, settings: Any, chosen: list[str]) -> None:
    moa, lms = voters(panel, aggregator=FakeLM("judge", []), strategy="voting")
    optimizer = SelectCommittee("exact", **settings)
    committee: Any = optimizer.compile(moa, trainset=examples(GOLD))
    before = calls(lms)
    pred = committee(question="q5")
    assert sorted(agent.name for agent in committee.agents if agent.name != "aggregator") == chosen
    assert {name: count - before[name] for name, count in calls(lms).items() if count > before[name]} == dict.fromkeys(
        chosen, 1
    )
    report: Any = optimizer.report
    assert (pred.answer, committee.strategy.name, before) == ("0", "voting", dict.fromkeys(lms, 60))
    assert all(name in report.reason for name in chosen) and json.loads(json.dumps(report.to_dict()))


def test_a_committee_keeps_its_prompts_and_is_saved(tmp_path: Path) -> None:
    names = ["simulated/alice", "simulated/bob", "simulated/carol"]
    moa: Any = MoA("question -> answer", names, "simulated/judge", use_specialized_prompts=True)
    for part in moa.predictors():
        part.signature = part.signature.with_instructions("Mind the units.")
    committee: Any = SelectCommittee("exact", max_calls=1).compile(moa, trainset=bundled_questions()[:6])
    committee.save(tmp_path / "moa.json")
    loaded = MoA.from_file(tmp_path / "moa.json")
    assert loaded(question="What is 2 + 4?").metadata.usage.calls == 1
    assert "Mind the units." in instructions(loaded)


# Advice.


@pytest.mark.parametrize(("panel", "verdict"), [({**ACE, **NOISE}, "single"), (TRIO, "mix")])
def test_a_diagnosis_says_whether_to_mix_at_all(panel: Any, verdict: str) -> None:
    found: Any = diagnose(voters(panel)[0], examples(GOLD), strategies=["voting"], self_moa=False)
    assert found.recommendation.verdict == verdict


def test_a_diagnosis_takes_several_samples_of_the_best_as_a_control() -> None:
    def sampled(prompt: str) -> dict[str, Any]:
        return {**JUDGED, "answer": next(turns)}

    turns = iter(["0", "1"] * 200)
    ada, (bo_moa, bo) = FakeLM("ada", sampled), voters({"bo": ["2"] * 20})
    moa = MoA("question -> answer", [Agent(ada, name="ada"), *bo_moa.agents[:1]], strategy="voting")
    found: Any = diagnose(moa, examples(GOLD[:20]), strategies=["voting"])
    assert any("Self-MoA" in row.name for row in found.comparison.rows)
    assert (ada.calls, bo["bo"].calls) == (20 + 40, 20)


# Weights of models.


@pytest.mark.parametrize("specialized", [True, False])
def test_finetune_trains_each_model_on_what_its_own_role_had_right(specialized: bool) -> None:
    school = School()
    lms = {name: role(name, provider=school) for name in ("ada", "bo", "judge")}
    moa = student(lms, use_specialized_prompts=specialized)
    tuned: Any = Finetune(right, train_kwargs={"epochs": 2}).compile(moa, trainset=TRAIN)
    assert school.authors == {name: {name} for name in lms} and [*school.settings.values()] == [{"epochs": 2}] * 3
    assert [len(replies) for replies in school.replies.values()] == [3, 3, 3]
    assert [agent.model for agent in tuned.agents] == ["ada+", "bo+", "judge+"]
    assert [agent.model for agent in moa.agents] == [*lms] and calls(lms) == dict.fromkeys(lms, 6)


def test_finetune_refuses_what_cannot_be_trained_before_anything_is_asked() -> None:
    lms = {"ada": role("ada"), "bo": role("bo", provider=School()), "judge": role("judge", provider=School())}
    for optimizer, words in ((Finetune(right), "ada"), (Finetune(agents=["al"]), "'al'.*ada, bo")):
        with pytest.raises(ValueError, match=f"(?s){words}"):
            optimizer.compile(student(lms), trainset=TRAIN)
    assert calls(lms) == dict.fromkeys(lms, 0)


# What all refuse, before anything is asked.

EVERY: dict[str, Any] = {
    "Specialize": lambda moa, metric, data: Specialize(metric, recipe="quick").compile(moa, trainset=data),
    "FitVoteWeights": lambda moa, metric, data: FitVoteWeights(metric).compile(moa, trainset=data),
    "SelectCommittee": lambda moa, metric, data: SelectCommittee(metric).compile(moa, trainset=data),
    "diagnose": lambda moa, metric, data: diagnose(moa, data, metric),
    "Finetune": lambda moa, metric, data: Finetune(metric).compile(moa, trainset=data),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("metric", "data", "error", "words"),
    [
        ("exact", [], ValueError, "empty"),
        ("exact", "train.jsonl", TypeError, "str"),
        ("exact", [TRAIN[0], {"question": "q1"}], TypeError, "dict"),
        ("exact", [dspy.Example(q="?", answer="!")], ValueError, "question"),
        ("exact", [TRAIN[0].without("answer")], ValueError, "answer"),
        (lambda one: 1, TRAIN, TypeError, "."),
        ("nearly", TRAIN, ValueError, "'nearly'"),
    ],
)
def test_what_cannot_be_right_is_refused(name: str, metric: Any, data: Any, error: Any, words: str) -> None:
    lms = {model: role(model) for model in ("ada", "bo")}
    with pytest.raises(error, match=words):
        EVERY[name](MoA(Task, list(lms.values()), strategy="voting"), metric, data)
    with pytest.raises(TypeError, match=r"MoA.*Predict"):
        EVERY[name](dspy.Predict(Task), right, TRAIN)
    assert calls(lms) == {"ada": 0, "bo": 0}


unknown: Any = "huge"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Specialize(right, recipe=unknown), "'huge'.*quick, balanced, thorough"),
        (lambda: SelectCommittee(max_calls=0), "max_calls=0"),
        (lambda: SelectCommittee(strategies=["nope"]), "'nope'"),
        (lambda: FitVoteWeights(alternatives=0.5), "alternatives|wrong answer"),
        (lambda: FitVoteWeights().compile(voters({"ada": ["0"]}, strategy="fusion")[0], trainset=TRAIN[:1]), "fusion"),
        (
            lambda: SelectCommittee(max_calls=1).compile(
                voters(TRIO, limits=Limits(min_proposals=2))[0], trainset=examples(GOLD)
            ),
            "max_calls=1.*min_proposals=2",
        ),
    ],
)
def test_settings_that_make_no_sense_are_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){words}"):
        make()


def test_a_proposer_that_dies_stops_the_asking() -> None:
    down = [dspy.lm15.RateLimitError("slow down")]
    moa, lms = voters({"ada": ["0"] * 30 + down * 70, "bo": ["0"] * 100})
    with pytest.raises(Exception, match=r"(?s)ada.*slow down"):
        FitVoteWeights().compile(moa, trainset=examples(["0"] * 100))
    assert lms["bo"].calls < 100
