import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from support.fake_lm import FakeLM
from support.mixtures import calls
from support.voters import examples, matrix, planted, voters

from moa_dspy import Agent, Limits, MoA, Selection, Voting
from moa_dspy.evaluation import evaluate
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.metrics import MetricError
from moa_dspy.evaluation.records import Answer
from moa_dspy.optimizers import BudgetTooSmall, SelectCommittee, best_committees, optimism, pick, vote_scores

GOLD = ["0"] * 60
# Three that are right on two thirds of the questions each, at least two of them on every question.
TRIO = {
    name: [str(n) if n % 3 == place else "0" for n in range(1, 61)] for place, name in enumerate(["ada", "bo", "cy"])
}
NOISE = {"dee": [f"dee{n}" for n in range(60)]}
ACE = {"ace": ["0"] * 57 + ["9", "8", "7"]}


def test_the_best_of_each_size_is_found() -> None:
    found = planted({"ada": 0.8, "bo": 0.3, "cy": 0.7, "dee": 0.6}, 300)
    made = best_committees(found)
    assert [committee.agents for committee in made] == [
        ("ada",),
        ("ada", "cy"),
        ("ada", "cy", "dee"),
        ("ada", "bo", "cy", "dee"),
    ]
    assert [committee.calls for committee in made] == [1, 2, 3, 4] and made[0].weights == {"ada": 1.0}
    assert made[2].scores.mean() > made[0].scores.mean() + 0.03


def test_who_only_repeats_another_is_left_out() -> None:
    found = planted({"ada": 0.70, "bo": 0.69, "cy": 0.62, "dee": 0.62}, 300)
    table = np.column_stack([found.answers, found.answers[:, 0]])
    made = best_committees(type(found)(["ada", "bo", "cy", "dee", "eve"], table, (table == 0).astype(float)))
    assert not {"ada", "eve"} <= set(made[2].agents)


def test_more_than_eight_agents_are_searched_too() -> None:
    accuracies = {name: 0.9 - 0.06 * place for place, name in enumerate("abcdefghij")}
    made = best_committees(planted(accuracies, 300))
    assert [committee.calls for committee in made] == [*range(1, 11)]
    assert (made[0].agents, made[2].agents) == (("a",), ("a", "b", "c"))


def test_only_what_is_affordable_is_taken() -> None:
    found = planted({"ada": 0.8, "bo": 0.7, "cy": 0.6}, 200)
    made = best_committees(found, affordable=lambda agents, samples: "ada" not in agents and samples == 1)
    assert [committee.agents for committee in made] == [("bo",), ("bo", "cy")]


def test_scores_are_those_of_the_votes_less_one_number() -> None:
    found = planted({"ada": 0.62, "bo": 0.6, "cy": 0.6, "dee": 0.6}, 100)
    for made in best_committees(found):
        flattered = vote_scores(found, found.weights(made.weights))[0] - made.scores
        assert flattered.std() == pytest.approx(0.0)
        # The best of four equal ones looks better than it is, all four together do not.
        assert flattered.mean() > 0.03 if made.calls == 1 else made.calls < 4 or abs(flattered.mean()) < 0.015


def test_other_questions_are_judged_as_they_are() -> None:
    found, other = (
        planted({"ada": 0.8, "bo": 0.7, "cy": 0.6}, 200),
        planted({"ada": 0.1, "bo": 0.9, "cy": 0.9}, 50, seed=1),
    )
    [single, _, trio] = best_committees(found, judged=other)
    assert single.scores.tolist() == other.scores[:, 0].tolist()
    assert trio.scores.tolist() == vote_scores(other, other.weights(trio.weights))[0].tolist()


def test_optimism_is_what_a_choice_gains_on_its_own_questions() -> None:
    def learned_by_heart_or_known(drawn: Any) -> Any:
        return np.stack([np.isin(np.arange(200), drawn), np.arange(200) % 2]).astype(float)

    by_heart, known = optimism(200, learned_by_heart_or_known, resamples=300)
    assert by_heart == pytest.approx((1 - 1 / 200) ** 200, abs=0.01)  # the share that is not drawn
    assert known == pytest.approx(0.0, abs=0.01)


def test_the_one_standard_error_rule() -> None:
    better = [1.0] * 60 + [0.0] * 40
    worse = [1.0] * 58 + [0.0] * 41 + [1.0]  # 2 lost, 1 won: 0.01 less, with a standard error of 0.0171
    assert pick([worse, better], [1, 5], 0.0) == 1
    assert pick([worse, better], [1, 5], 0.5) == 1
    assert pick([worse, better], [1, 5], 1.0) == 0
    assert pick([better, better, worse], [5, 3, 1], 0.0) == 1


def test_between_one_and_all_only_evidence_counts() -> None:
    one, all_of_them = [1.0] * 50 + [0.0] * 50, [1.0] * 52 + [0.0] * 48
    lucky = [0.0] * 2 + [1.0] * 50 + [0.0] * 45 + [1.0] * 3  # 0.01 more than all, with a standard error of 0.022
    better = [1.0] * 60 + [0.0] * 40
    assert pick([one, lucky, all_of_them], [1, 3, 5]) == 2
    assert pick([one, lucky, all_of_them], [1, 3, 5], 0.0) == 1
    assert pick([one, better, all_of_them], [1, 3, 5]) == 1
    assert pick([one, one, one], [1, 3, 5]) == 0
    assert pick([all_of_them, lucky, one], [1, 3, 5]) == 0
    assert pick([one, all_of_them, all_of_them], [1, 3, 5]) == 1


def test_a_committee_is_chosen_where_it_pays() -> None:
    moa, lms = voters({**NOISE, **TRIO}, strategy=Voting(tolerance=0.25))
    optimizer = SelectCommittee("exact")
    chosen = optimizer.compile(moa, trainset=examples(GOLD))
    report: Any = optimizer.report
    assert chosen.panels[0].names == ["ada", "bo", "cy"] and moa.panels[0].names == ["dee", "ada", "bo", "cy"]
    strategy: Any = chosen.strategy
    assert list(strategy.weights) == ["ada", "bo", "cy"] and strategy.tolerance == 0.25
    before = calls(lms)
    assert chosen(question="q7").answer == "0"
    assert {name: count - before[name] for name, count in calls(lms).items()} == {"dee": 0, "ada": 1, "bo": 1, "cy": 1}
    assert (report.chosen.calls, report.chosen.score, report.usage.calls) == (3, 1.0, 240)
    assert report.reason.startswith("Voting of ada, bo and cy, 3 calls per question: 1.000 on 60 examples")
    assert json.loads(json.dumps(report.to_dict()))["chosen"]["agents"] == ["ada", "bo", "cy"]


def test_one_model_alone_is_chosen_where_it_is_best(tmp_path: Path) -> None:
    moa, lms = voters({**TRIO, **ACE, **NOISE}, aggregator=FakeLM("judge", []), strategy="synthesis")
    optimizer = SelectCommittee("exact", max_calls=2)
    chosen = optimizer.compile(moa, trainset=examples(GOLD))
    report: Any = optimizer.report
    assert (chosen.panels[0].names, chosen.strategy.name, chosen.aggregator.lm) == (["ace"], "voting", None)
    before = sum(calls(lms).values())
    assert chosen(question="q5").answer == "0" and sum(calls(lms).values()) == before + 1
    assert report.chosen.is_single and report.reason.startswith("Use ace alone: it scores 0.9")


def test_what_is_chosen_can_be_saved(tmp_path: Path) -> None:
    names = ["simulated/alice", "simulated/bob", "simulated/carol"]
    moa = MoA("question -> answer", names, "simulated/judge", num_proposals_per_model=2)
    trainset = [dspy.Example(question=f"What is {n} + 4?", answer=str(n + 4)).with_inputs("question") for n in range(6)]
    chosen = SelectCommittee(max_calls=1).compile(moa, trainset=trainset)
    chosen.save(tmp_path / "moa.json")
    loaded = MoA.from_file(tmp_path / "moa.json")
    assert (loaded.panels[0].names, loaded.panels[0].samples, loaded.strategy.name) == (
        chosen.panels[0].names,
        1,
        "voting",
    )
    assert loaded(question="What is 2 + 4?").metadata.usage.calls == 1


def test_prompts_and_demos_stay() -> None:
    moa, _ = voters({**TRIO, **ACE}, use_specialized_prompts=True)
    panel: Any = moa.panels[0]
    panel.ace.program.predict.demos = [dspy.Example(question="q", answer="a")]
    chosen = SelectCommittee(max_calls=1).compile(moa, trainset=examples(GOLD))
    assert [name for name, _ in chosen.named_predictors() if name.startswith("proposers")] == [
        "proposers.ace.program.predict"
    ]
    panel = chosen.panels[0]
    assert len(panel.ace.program.predict.demos) == 1


def test_samples_are_chosen_too() -> None:
    said = iter(range(10**6))
    lm = FakeLM("ada", lambda prompt: {"reasoning": "so", "answer": "0" if next(said) % 3 else "1"})
    moa = MoA("question -> answer", [Agent(lm, name="ada")], strategy="voting", num_proposals_per_model=3)
    optimizer = SelectCommittee(concurrency=1)
    chosen = optimizer.compile(moa, trainset=examples(GOLD))
    report: Any = optimizer.report
    assert [candidate.calls for candidate in report.candidates] == [1, 2, 3]
    assert (chosen.panels[0].samples, str(report.chosen)) == (3, "voting of ada 3 times")


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
    budget = optimizer.budget(moa, 60)
    chosen = optimizer.compile(moa, trainset=examples(GOLD))
    report: Any = optimizer.report
    assert (chosen.strategy.name, report.chosen.score) == ("selection", 1.0) and report.chosen.calls <= 4
    assert calls(lms) == dict.fromkeys(lms, 60) and referee.calls <= 120
    assert report.usage.calls == 180 + referee.calls <= budget.calls == 300
    assert "so" in referee.prompts[0] and chosen(question="q7").answer == "0"


def test_a_budget_counts_the_aggregators_call() -> None:
    referee = FakeLM("judge", judge)
    moa, _ = voters(TRIO, aggregator=referee, strategy="selection")
    optimizer = SelectCommittee(strategies=[Selection(rotations=2)], max_calls=4)
    optimizer.compile(moa, trainset=examples(GOLD))
    report: Any = optimizer.report
    assert {len(candidate.agents) for candidate in report.candidates} == {1, 2}


def test_fewer_calls_within_one_standard_error() -> None:
    nearly = {"ada": ["0"] * 50 + ["1"] * 10, "bo": ["0"] * 49 + ["1"] * 11, "cy": ["0"] * 49 + ["2"] * 2 + ["0"] * 9}
    moa, _ = voters(nearly)
    best, thrifty = SelectCommittee(), SelectCommittee(standard_errors=5.0)
    recorded = evaluate(moa, examples(GOLD), strategies=(), aggregator_alone=False)
    best.compile(moa, trainset=examples(GOLD), recorded=recorded)
    thrifty.compile(moa, trainset=examples(GOLD), recorded=recorded)
    assert thrifty.report is not None and thrifty.report.chosen.is_single
    assert best.report is not None and best.report.chosen.score >= thrifty.report.chosen.score


def priced(moa: MoA, prices: dict[str, float]) -> Comparison:
    """What was recorded of it, had it cost this much."""

    def paid(name: str, answer: Answer) -> Answer:
        assert answer.spent is not None
        return replace(answer, spent=replace(answer.spent, cost_usd=prices[name]))

    found = evaluate(moa, examples(GOLD), strategies=(), aggregator_alone=False)
    records = [
        replace(record, proposals={name: paid(name, answer) for name, answer in record.proposals.items()})
        for record in found.records
    ]
    return replace(found, records=records)


def test_a_budget_in_dollars_leaves_out_who_is_too_dear() -> None:
    moa, _ = voters({**TRIO, **ACE, **NOISE})
    recorded = priced(moa, {"ada": 0.001, "bo": 0.001, "cy": 0.001, "ace": 0.01, "dee": 0.0001})
    optimizer = SelectCommittee(max_usd=0.0035)
    chosen = optimizer.compile(moa, trainset=examples(GOLD), recorded=recorded)
    report: Any = optimizer.report
    assert chosen.panels[0].names == ["ada", "bo", "cy"] and report.chosen.cost_usd == pytest.approx(0.003)
    assert {name for candidate in report.candidates for name in candidate.agents} == {"ada", "bo", "cy", "dee"}
    with pytest.raises(BudgetTooSmall, match=r"cheapest proposal costs 0\.0001 USD") as caught:
        SelectCommittee(max_usd=0.00001).compile(moa, trainset=examples(GOLD), recorded=recorded)
    assert len(caught.value.comparison.records) == 60


def test_prices_that_are_not_known_are_no_budget() -> None:
    moa, lms = voters(TRIO)
    with pytest.raises(BudgetTooSmall, match=r"What ada, bo, cy cost is not known.*max_calls") as caught:
        SelectCommittee(max_usd=1.0).compile(moa, trainset=examples(GOLD))
    SelectCommittee().compile(moa, trainset=examples(GOLD), recorded=caught.value.comparison)
    assert calls(lms) == dict.fromkeys(lms, 60)


def test_a_valset_judges() -> None:
    moa, _ = voters({**TRIO, **NOISE})
    optimizer = SelectCommittee()
    optimizer.compile(moa, trainset=examples(GOLD)[:40], valset=examples(GOLD)[40:])
    report: Any = optimizer.report
    assert report.questions == 20 and "on 20 examples of the valset" in report.reason
    assert report.chosen.score == 1.0 and len(report.chosen.agents) >= 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategies": ["nope"]}, "There is no strategy 'nope'"),
        ({"strategies": []}, "names none"),
        ({"strategies": "voting"}, "names none"),
        ({"max_calls": 0}, "max_calls=0 leaves nobody to ask"),
        ({"max_usd": 0.0}, "pays for no call"),
        ({"standard_errors": -1.0}, "give 0 for the best score"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelectCommittee(**settings)


def test_bad_input_is_refused_before_anything_is_asked() -> None:
    moa, lms = voters(TRIO, limits=Limits(min_proposals=2))
    with pytest.raises(ValueError, match="trainset is empty"):
        SelectCommittee().compile(moa, trainset=[])
    with pytest.raises(ValueError, match=r"max_calls=1 is too little.*min_proposals=2"):
        SelectCommittee(max_calls=1).compile(moa, trainset=examples(GOLD))
    with pytest.raises(ValueError, match="needs an aggregator"):
        SelectCommittee(strategies=["synthesis"]).compile(moa, trainset=examples(GOLD))
    with pytest.raises(TypeError, match="a Predict has none of its own"):
        SelectCommittee().compile(dspy.Predict("question -> answer"), trainset=examples(GOLD))
    assert calls(lms) == dict.fromkeys(lms, 0)


def test_a_quorum_is_kept() -> None:
    moa, _ = voters({**ACE, **TRIO}, limits=Limits(min_proposals=2))
    assert len(SelectCommittee().compile(moa, trainset=examples(GOLD)).panels[0].names) >= 2


def test_an_aggregator_whose_answers_cannot_be_scored_loses_no_proposals() -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        return "bad" if prediction.answer == "written" else True

    referee = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "written"})
    moa, lms = voters(TRIO, aggregator=referee, strategy="synthesis")
    with pytest.raises(MetricError) as caught:
        SelectCommittee(metric, strategies=["voting", "synthesis"]).compile(moa, trainset=examples(GOLD))
    kept = caught.value.comparison
    assert kept is not None and len(kept.records) == 60
    SelectCommittee(metric).compile(moa, trainset=examples(GOLD), recorded=kept)
    assert calls(lms) == dict.fromkeys(lms, 60)


def test_one_example_is_enough_to_run() -> None:
    chosen = SelectCommittee().compile(voters(TRIO)[0], trainset=examples(["0"]))
    assert len(chosen.panels[0].names) == 1


def test_scores_beyond_one_are_refused() -> None:
    with pytest.raises(MetricError, match="scores from 0 to 5"):
        best_committees(type(m := matrix({"ada": [0, 1]}))(m.agents, m.answers, m.scores * 5))


def test_a_vote_is_counted_as_it_was_asked_for() -> None:
    shouting = {"ada": ["YES"], "bo": ["yes"], "cy": ["no"]}
    moa, _ = voters(
        {name: said * 9 for name, said in shouting.items()}, aggregator=FakeLM("judge", []), strategy="fusion"
    )
    chosen: Any = SelectCommittee(strategies=[Voting(exact_text=True)]).compile(moa, trainset=examples(["YES"] * 9))
    assert (chosen.panels[0].names, chosen.strategy.exact_text) == (["ada"], True)
