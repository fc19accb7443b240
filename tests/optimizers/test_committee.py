import json
import re
from importlib import import_module
from typing import Any

import dspy
import numpy as np
import pytest
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.voters import examples, planted, voters

from moa_dspy import Agent, Limits, MoA, Recording, Selection, Voting, record
from moa_dspy.evaluation import MetricError, difference_interval
from moa_dspy.optimizers import CompileInterrupted, SelectCommittee
from moa_dspy.usage import LMCall

room: Any = import_module("moa_dspy.optimizers.committee")

GOLD = ["0"] * 60
# Three that are right on two thirds of the questions each, at least two of them on every question.
TRIO = {
    name: [str(n) if n % 3 == place else "0" for n in range(1, 61)] for place, name in enumerate(["ada", "bo", "cy"])
}
NOISE = {"dee": [f"dee{n}" for n in range(60)]}
ACE = {"ace": ["0"] * 57 + ["9", "8", "7"]}


def chosen(moa: MoA, optimizer: SelectCommittee, **options: Any) -> tuple[MoA, Any]:
    compiled = optimizer.compile(moa, **{"trainset": examples(GOLD), **options})
    return compiled, optimizer.report


def test_the_most_accurate_of_each_size_are_compared() -> None:
    moa, asked, recording = planted({"ada": 0.8, "bo": 0.3, "cy": 0.7, "dee": 0.6})
    _, report = chosen(moa, SelectCommittee(), trainset=asked, recorded=recording)
    assert [candidate.agents for candidate in report.candidates] == [
        ("ada",),
        ("ada", "cy"),
        ("ada", "cy", "dee"),
        ("ada", "bo", "cy", "dee"),
    ]
    assert report.candidates[2].score > report.candidates[0].score + 0.03 and report.candidates[0].weights == {}


def test_on_few_examples_the_vote_of_all_stays_and_no_loss_is_called_a_gain() -> None:
    moa, _ = voters({name: answers[:20] for name, answers in {**ACE, **TRIO}.items()})
    _, report = chosen(moa, SelectCommittee(), trainset=examples(GOLD[:20]))
    assert len(report.chosen.agents) == 4 and "may be chance" not in report.reason and "give 50" in report.reason
    _, report = chosen(moa, SelectCommittee(max_calls=1), trainset=examples(GOLD[:20]))
    assert report.chosen.agents == ("ace",) and report.gain == 0 and "give 50" not in report.reason


def test_between_one_and_all_only_evidence_counts() -> None:
    one, all_of_them = [1.0] * 50 + [0.0] * 50, [1.0] * 52 + [0.0] * 48
    lucky = [0.0] * 2 + [1.0] * 50 + [0.0] * 45 + [1.0] * 3  # 0.01 more than all, with a standard error of 0.022
    better = [1.0] * 60 + [0.0] * 40

    def picked(**scores: list[float]) -> float:
        made = [room.Candidate((), 1, {}, int(name[1:]), None, np.array(each)) for name, each in scores.items()]
        return room.pick(made).calls

    assert picked(c1=one, c3=lucky, c5=all_of_them) == 5
    assert picked(c1=one, c3=better, c5=all_of_them) == 3
    assert picked(c1=one, c3=one, c5=one) == 1
    assert picked(c5=all_of_them, c3=lucky, c1=one) == 5


def test_a_committee_is_chosen_where_it_pays() -> None:
    moa, lms = voters({**NOISE, **TRIO}, strategy=Voting(tolerance=0.25))
    compiled, report = chosen(moa, SelectCommittee("exact"))
    assert compiled.panels[0].names == ["ada", "bo", "cy"] and moa.panels[0].names == ["dee", "ada", "bo", "cy"]
    strategy: Any = compiled.strategy
    assert list(strategy.weights) == ["ada", "bo", "cy"] and strategy.tolerance == 0.25
    before = calls(lms)
    assert compiled(question="q7").answer == "0"
    assert {name: count - before[name] for name, count in calls(lms).items()} == {"dee": 0, "ada": 1, "bo": 1, "cy": 1}
    assert (report.chosen.calls, report.chosen.score, report.usage.calls) == (3, 1.0, 240)
    single = report.candidates[0]
    assert report.gain == 1 - single.score and report.gain_interval == difference_interval([1.0] * 60, single.scores)
    assert report.reason.startswith("Use voting of ada, bo, cy, 3 LM calls per question: 1.000 on 60 examples held out")
    assert json.loads(json.dumps(report.to_dict()))["chosen"]["agents"] == ["ada", "bo", "cy"]


def test_samples_are_chosen_too() -> None:
    said = iter(range(10**6))
    lm = FakeLM("ada", lambda prompt: {"reasoning": "so", "answer": "0" if next(said) % 3 else "1"})
    moa = MoA("question -> answer", [Agent(lm, name="ada")], strategy="voting", num_proposals_per_model=3)
    compiled, report = chosen(moa, SelectCommittee(concurrency=1))
    assert [candidate.calls for candidate in report.candidates] == [1, 2, 3]
    assert (compiled.panels[0].samples, str(report.chosen)) == (3, "voting of ada, each 3 times")


def judge(prompt: str) -> dict[str, Any]:
    """Writes 0 if any proposal says so."""
    shown = prompt.rpartition("[[ ## proposals ## ]]")[2]
    labels = re.findall(r"Proposal (P\d+).*?answer: (.*?)\n", shown, re.DOTALL)
    right = next((label for label, answer in labels if answer == "0"), "P1")
    return {"reasoning": "so", "answer": dict(labels)[right], "choice": right}


def test_strategies_that_ask_the_aggregator_are_tried_on_recorded_proposals() -> None:
    odd = {"ada": [str(n * (n % 2)) for n in range(60)], "bo": [str(n * (1 - n % 2)) for n in range(60)]}
    referee = FakeLM("judge", judge)
    moa, lms = voters({**odd, **NOISE}, aggregator=referee, strategy="selection")
    optimizer = SelectCommittee(strategies=["voting", "selection"])
    compiled, report = chosen(moa, optimizer)
    assert (compiled.strategy.name, report.chosen.score) == ("selection", 1.0) and report.chosen.calls <= 4
    assert calls(lms) == dict.fromkeys(lms, 60) and referee.calls <= 60
    assert report.usage.calls == 180 + referee.calls
    assert "60 examples of the trainset, by which its proposers were chosen too" in report.reason
    assert compiled(question="q7").answer == "0"


def test_judges_are_tried_and_proposers_added_while_they_gain() -> None:
    good, bad = FakeLM("good", judge), FakeLM("bad", lambda prompt: {"reasoning": "so", "choice": "P1"})
    odd = {"ada": [str(n * (n % 2)) for n in range(60)], "bo": [str(n * (1 - n % 2)) for n in range(60)]}
    moa, lms = voters({**odd, **NOISE}, aggregator=FakeLM("judge", []), strategy="selection")
    optimizer = SelectCommittee(strategies=["voting", "selection"], aggregators=[bad, good])
    compiled, report = chosen(moa, optimizer)
    best = report.chosen
    assert (best.agents, best.strategy, best.aggregator, best.score) == (("ada", "bo"), "selection", "good", 1.0)
    assert compiled.aggregator.model == "good" and calls(lms) == dict.fromkeys(lms, 60)
    assert report.usage.calls == 180 + good.calls + bad.calls
    with pytest.raises(ValueError, match="aggregators= judge nothing"):
        SelectCommittee(aggregators=[good])


def test_a_budget_counts_the_aggregators_call() -> None:
    moa, _ = voters(TRIO, aggregator=FakeLM("judge", judge), strategy="selection")
    _, report = chosen(moa, SelectCommittee(strategies=[Selection(rotations=2)], max_calls=4))
    assert {len(candidate.agents) for candidate in report.candidates} == {1, 2}


def priced(moa: MoA, prices: dict[str, float]) -> Recording:
    """What it proposed, had it cost this much."""
    found = record(moa, examples(GOLD), strategies=[])
    for row in found:
        row.calls = [LMCall(agent=name, model=name, cost_usd=cost) for name, cost in prices.items()]
    return found


def test_a_budget_in_dollars_leaves_out_who_is_too_dear() -> None:
    moa, lms = voters({**TRIO, **ACE, **NOISE})
    recorded = priced(moa, {"ada": 0.001, "bo": 0.001, "cy": 0.001, "ace": 0.01, "dee": 0.0001})
    compiled, report = chosen(moa, SelectCommittee(max_usd=0.0035), recorded=recorded)
    assert compiled.panels[0].names == ["ada", "bo", "cy"] and report.chosen.cost_usd == pytest.approx(0.003)
    assert {name for candidate in report.candidates for name in candidate.agents} == {"ada", "bo", "cy"}
    with pytest.raises(CompileInterrupted, match=r"cheapest proposal costs 0\.0001 USD") as caught:
        chosen(moa, SelectCommittee(max_usd=0.00001), recorded=recorded)
    assert caught.value.recording is not None and len(caught.value.recording) == 60
    assert calls(lms) == dict.fromkeys(lms, 60)


def test_prices_that_are_not_known_are_no_budget() -> None:
    moa, lms = voters(TRIO)
    with pytest.raises(CompileInterrupted, match=r"What ada, bo, cy cost is not known.*max_calls") as caught:
        chosen(moa, SelectCommittee(max_usd=1.0))
    chosen(moa, SelectCommittee(), recorded=caught.value.recording)
    assert calls(lms) == dict.fromkeys(lms, 60)


def test_a_valset_judges() -> None:
    moa, _ = voters({**TRIO, **NOISE})
    _, report = chosen(moa, SelectCommittee(), trainset=examples(GOLD)[:40], valset=examples(GOLD)[40:])
    assert "on 20 examples of the valset" in report.reason
    assert report.chosen.score == 1.0 and len(report.chosen.agents) >= 3


def test_bad_input_is_refused_before_anything_is_asked() -> None:
    moa, lms = voters(TRIO, limits=Limits(min_proposals=2))
    with pytest.raises(ValueError, match=r"max_calls=1 is too little.*min_proposals=2"):
        chosen(moa, SelectCommittee(max_calls=1))
    with pytest.raises(ValueError, match="needs an aggregator"):
        chosen(moa, SelectCommittee(strategies=["synthesis"]))
    assert calls(lms) == dict.fromkeys(lms, 0)


def test_an_aggregator_whose_answers_cannot_be_scored_loses_no_proposals() -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        return "bad" if prediction.answer == "written" else True

    referee = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "written"})
    moa, lms = voters(TRIO, aggregator=referee, strategy="synthesis")
    with pytest.raises(MetricError) as caught:
        chosen(moa, SelectCommittee(metric, strategies=["synthesis"]))
    assert caught.value.recording is not None
    chosen(moa, SelectCommittee(), recorded=caught.value.recording)
    assert calls(lms) == dict.fromkeys(lms, 60)


def test_on_few_examples_the_vote_of_all_stays_unless_another_is_proven() -> None:
    moa, _ = voters({**TRIO, **ACE})
    compiled, report = chosen(moa, SelectCommittee(), trainset=examples(GOLD[:24]))
    strategy: Any = compiled.strategy
    assert (compiled.panels[0].names, strategy.weights) == (["ada", "bo", "cy", "ace"], {})
    assert report.reason.endswith("On so few only what is proven replaces the vote of all: give 50 examples.")
    moa, _ = voters({**NOISE, "eve": ["9"] * 60, **ACE})
    compiled, report = chosen(moa, SelectCommittee(), trainset=examples(GOLD[:24]))
    assert report.chosen.is_single and compiled.panels[0].names == ["ace"]
