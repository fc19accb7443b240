"""A cascade asks on only where it must, keeps what it has, and tells what it took."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, every_way
from support.recorded import FILES, load, recordings_dir
from support.voters import examples, planted, voters

from moa_dspy import Agent, Cascade, MoA, MoAError, Voting, record
from moa_dspy.certainty import MEASURES, Calibration, weigh_evidence
from moa_dspy.optimizers import CompileInterrupted, FitCascade
from moa_dspy.strategies import Case
from moa_dspy.strategies.voting import count


def sure(moa: MoA, threshold: float = 0.9) -> MoA:
    """The mixture, as sure as its vote is unanimous."""
    measures = dict.fromkeys(MEASURES, 0.0) | {"support": 12.0, "constant": -8.0}
    agents = dict.fromkeys(moa.panels[0].names, 0.0)
    moa.calibration = Calibration(
        measures=measures,
        agents=agents,
        questions=50,
        accuracy=0.5,
        threshold=threshold,
        on_unsure="flag",
    )
    return moa


def agents_of(lms: dict[str, FakeLM]) -> list[Agent]:
    return [Agent(lm, name=name) for name, lm in lms.items()]


# All agree on q0; on q1 the first two do not, and the third decides; on q2 nobody agrees.
SAY = {"ada": ["0", "0", "0"], "bo": ["0", "1", "1"], "cy": ["0", "1", "2"]}


def two_stages(**settings: Any) -> tuple[Cascade, dict[str, FakeLM]]:
    whole, lms = voters(SAY, **settings)
    first = MoA(QA, agents_of({name: lms[name] for name in ("ada", "bo")}), strategy="voting")
    return Cascade([sure(first), whole]), lms


@every_way
def test_the_next_stage_is_asked_where_the_first_is_unsure_and_nobody_twice(ask: Any) -> None:
    cascade, lms = two_stages()
    answers = [ask(cascade, question=f"q{n}") for n in range(2)]
    assert [(one.answer, one.metadata.stage, one.metadata.usage.calls) for one in answers] == [("0", 1, 2), ("1", 2, 3)]
    assert calls(lms) == {"ada": 2, "bo": 2, "cy": 1}
    account = answers[1].metadata
    assert [p.id for p in account.all_proposals] == ["ada", "bo", "cy"] and not account.abstained
    assert sorted(call.agent for call in account.calls) == ["ada", "bo", "cy"]


def test_a_vote_that_can_no_longer_change_is_not_asked_for() -> None:
    whole, lms = voters({**SAY, "dan": ["0"] * 3, "eve": ["0"] * 3})
    three = MoA(QA, agents_of({name: lms[name] for name in ("ada", "bo", "dan")}), strategy="voting")
    answered = Cascade([sure(three, threshold=2.0), whole])(question="q0")
    assert (answered.answer, answered.metadata.stage, answered.metadata.abstained) == ("0", 1, False)
    assert (lms["cy"].calls, lms["eve"].calls) == (0, 0)


def test_a_judge_sees_what_was_kept() -> None:
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "J"})
    cascade, lms = two_stages(aggregator=judge, strategy="synthesis")
    answered = cascade(question="q1")
    assert (answered.answer, answered.metadata.stage, answered.metadata.usage.calls) == ("J", 2, 4)
    assert calls(lms) == dict.fromkeys(lms, 1) and "\n1\n" in judge.prompts[0].replace("answer: ", "\n").replace(
        "1 ", "1\n"
    )


def test_samples_are_kept_by_their_ids() -> None:
    whole, lms = voters(SAY, num_proposals_per_model=2)
    first = MoA(QA, agents_of({"ada": lms["ada"]}), strategy="voting")
    assert [p.id for p in Cascade([sure(first, threshold=2.0), whole])(question="q2").proposals] == [
        "ada", "ada#2", "bo", "bo#2", "cy", "cy#2",
    ]  # fmt: skip
    assert lms["ada"].calls == 2


def test_a_stage_that_fails_leaves_the_answer_before_it_flagged() -> None:
    cascade, lms = two_stages(limits={"min_proposals": 3})
    lms["cy"]._fake.answers = lambda prompt: RuntimeError("down")
    answered = cascade(question="q1")
    assert (answered.answer, answered.metadata.stage, answered.metadata.abstained) == ("0", 1, True)
    assert answered.metadata.usage.calls == 3 and "TooFewProposals" in [f.error for f in answered.metadata.failures]
    with pytest.raises(MoAError):
        Cascade([sure(voters({"ada": [ValueError("down")]})[0]), cascade.stages[1]])(question="q0")


def test_a_promise_holds_for_all_stages() -> None:
    cascade, _ = two_stages()
    sure(cascade.stages[1])
    account = cascade(question="q2").metadata
    assert (account.stage, account.abstained) == (2, True)


def test_it_is_saved_as_a_program(tmp_path: Path) -> None:
    cascade, _ = two_stages()
    cascade.save(tmp_path / "cascade.json")
    fresh, _ = two_stages()
    sure(fresh.stages[0], threshold=0.0)
    fresh.load(tmp_path / "cascade.json")
    assert fresh.stages[0].calibration == cascade.stages[0].calibration
    assert cascade.deepcopy()(question="q0").metadata.stage == 1


def test_what_makes_no_cascade() -> None:
    moa, lms = voters(SAY)
    first = sure(voters(SAY)[0])
    other = MoA("text -> label", agents_of(lms), strategy="voting")
    stranger = MoA(QA, [Agent(FakeLM("gpt", []), name="ada")], strategy="voting")
    cases: list[tuple[Any, str]] = [
        ([first], "has two stages or more"),
        (["openai/gpt-5", first], "begins with a mixture"),
        ([moa, first], "Stage 1 has no threshold"),
        ([first, other], "Stages 1 and 2 have different tasks"),
        ([first, stranger], "ada is ada and gpt"),
    ]
    for stages, problem in cases:
        with pytest.raises(ValueError, match=problem):
            Cascade(stages)


Votes: Any = import_module("moa_dspy.optimizers.votes").Votes
FIVE = {"ada": 0.8, "bo": 0.7, "cy": 0.6, "dan": 0.5, "eve": 0.5}


def test_evidence_of_all_questions_at_once_is_that_of_each() -> None:
    moa, asked, recording = planted(FIVE, questions=60, alternatives=3)
    votes = Votes.of(moa, recording, asked, None)
    weights = {"ada": 2.0, "bo": 1.0, "cy": 1.0, "dan": 1.5, "eve": 0.5}
    rows, _, _ = votes.weigh(list(weights.values()))
    strategy = Voting(weights=weights)
    for row, wanted in zip(recording, rows, strict=True):
        case = Case(moa.signature, row.inputs, row.proposals, {p.id: p.agent for p in row.proposals}, False)
        evidence = weigh_evidence(case, strategy.forward(case).outputs, strategy, weights)
        assert evidence == pytest.approx(wanted)


def test_a_fitted_cascade_does_what_its_report_says() -> None:
    moa, asked, recording = planted(FIVE, questions=400, alternatives=5)
    optimizer = FitCascade("exact")
    cascade: Any = optimizer.compile(moa, trainset=asked, recorded=recording)
    report: Any = optimizer.report
    assert report.always[1] == 5 and report.chosen.calls < 4 and report.chosen.lost <= 0.02
    calls_of = [one.calls for one in report.stops]
    assert calls_of == sorted(calls_of, reverse=True) and report.stops[0].lost == 0
    answers = dict(
        zip(FIVE, np.array([[p.outputs["answer"] for p in row.proposals] for row in recording]).T, strict=True)
    )
    live, lms = voters({name: list(column) for name, column in answers.items()})
    fresh: Any = Cascade([*(_with(stage, lms) for stage in cascade.stages[:-1]), live])
    asked_for = [fresh(question=f"q{n}").metadata for n in range(100)]
    assert abs(sum(one.usage.calls for one in asked_for) / 100 - report.chosen.calls) < 0.4
    assert sum(lm.calls for lm in lms.values()) == sum(one.usage.calls for one in asked_for)


def _with(stage: MoA, lms: dict[str, FakeLM]) -> MoA:
    names = stage.panels[0].names
    made = MoA(QA, agents_of({name: lms[name] for name in names}), strategy=stage.strategy)
    made.calibration = stage.calibration
    return made


@pytest.mark.parametrize(
    "goal",
    [{"max_calls": 2.5}, {"max_error": 0.2}, {"max_loss": 0.5}],
    ids=lambda goal: next(iter(goal)),
)
def test_goals(goal: Any, tmp_path: Path) -> None:
    moa, asked, recording = planted(FIVE, questions=200, alternatives=5)
    optimizer = FitCascade("exact", **goal)
    cascade: Any = optimizer.compile(moa, trainset=asked, recorded=recording)
    report: Any = optimizer.report
    assert report.chosen.calls <= goal.get("max_calls", 5)
    if "max_error" in goal:  # more votes may make an answer sure that they cannot change
        assert report.chosen.error <= 0.2 and cascade.stages[-1].calibration.threshold and report.stops[0].calls == 5
    assert report.table().row_count == len(report.stops) + 2 and json.dumps(report.to_dict())
    assert "always all" in report.plot(tmp_path / "curve.svg").read_text(encoding="utf-8")


def test_a_judge_is_the_last_stage_of_a_fitted_cascade() -> None:
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "0"})
    moa, _ = voters(
        {"ada": ["0"] * 60, "bo": ["0", "1"] * 30, "cy": ["0", "1", "2"] * 20}, aggregator=judge, strategy="synthesis"
    )
    optimizer = FitCascade("exact", max_calls=3.5)
    cascade: Any = optimizer.compile(moa, trainset=examples(["0"] * 60))
    report: Any = optimizer.report
    assert (
        report.always[:2] == (1.0, 4.0)
        and report.chosen.calls <= 3.5
        and cascade.stages[-1].strategy.name == "synthesis"
    )
    questions = examples(["0"] * 60)
    optimizer.compile(moa, trainset=questions, recorded=record(moa, questions))  # as it is: the judge has answered too
    report = optimizer.report
    assert report.always[:2] == (1.0, 4.0)


def test_goals_that_nothing_meets_and_settings_that_make_no_sense() -> None:
    moa, asked, recording = planted(FIVE, questions=100)
    unmet: list[tuple[Any, str]] = [
        ({"max_calls": 1}, "No threshold meets max_calls=1"),
        ({"max_cost_usd": 1.0}, "What the models cost is not known"),
        ({"max_error": 0.001}, "No threshold meets max_error=0.001"),
    ]
    for settings, problem in unmet:
        with pytest.raises(CompileInterrupted, match=problem) as refused:
            FitCascade(**settings).compile(moa, trainset=asked, recorded=recording)
        assert len(refused.value.recording or []) == 100
    with pytest.raises(CompileInterrupted, match="too few for a cascade"):
        FitCascade().compile(moa, trainset=asked[:10], recorded=recording)
    senseless: list[tuple[Any, str]] = [
        ({"max_error": 1}, "max_error=1"),
        ({"max_loss": 0}, "max_loss=0"),
        ({"max_calls": 2, "max_error": 0.1}, "Give one goal"),
        ({"max_calls": 0}, "more than 0"),
    ]
    for settings, problem in senseless:
        with pytest.raises(ValueError, match=problem):
            FitCascade(**settings)


@pytest.mark.parametrize("task", FILES)
def test_no_early_stop_changes_a_recorded_vote(task: str) -> None:
    if recordings_dir() is None:
        pytest.skip("there are no recordings here")
    for row in load(task):
        said = {model: output.get("key", output["answer"]) for model, output in row["outputs"].items()}
        ballots = [(model, {"answer": answer}) for model, answer in said.items()]
        whole = count(dict(ballots), {"answer": str}, exact_text=True)
        for asked in range(1, len(ballots)):
            tally = count(dict(ballots[:asked]), {"answer": str}, exact_text=True)
            if tally.is_decided(len(ballots) - asked):
                assert tally.winner and whole.winner and tally.winner.values == whole.winner.values
