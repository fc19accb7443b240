import json
import math
from pathlib import Path
from typing import Any, Literal, cast

import dspy
import numpy as np
import pytest
from support.mixtures import calls
from support.voters import examples, matrix, planted, voters

from moa_dspy import MoA, Voting
from moa_dspy.evaluation import EvaluationInterrupted
from moa_dspy.evaluation.metrics import MetricError
from moa_dspy.optimizers import (
    FitVoteWeights,
    ProposersUnreachable,
    VoteMatrix,
    dawid_skene,
    fit_log_odds,
    log_odds,
    shrunk,
    vote_scores,
)

# Ada is right five times as often as the two that repeat each other.
ADA, BO = [0] * 40, ([1] * 9 + [0]) * 4
GOLD = ["0"] * 40
PANEL = {"bo": [str(n) for n in BO], "cy": [str(n) for n in BO], "ada": [str(n) for n in ADA]}


def counted(report: Any) -> list[tuple[str, float, int]]:
    return [(row.agent, row.right, row.votes) for row in report.agents]


def test_the_weights_of_known_accuracies() -> None:
    assert log_odds([0.9, 0.5, 0.4], 1.0).tolist() == pytest.approx([math.log(9), 0.0, 0.0])
    assert log_odds([0.9, 0.5, 0.05], 9.0).tolist() == pytest.approx([math.log(81), math.log(9), 0.0])


def test_accuracies_are_drawn_to_their_mean() -> None:
    mean = (150 + 1) / (200 + 2)
    assert shrunk([90, 60], [100, 100], 10).tolist() == pytest.approx([(90 + 10 * mean) / 110, (60 + 10 * mean) / 110])
    assert shrunk([90, 0], [100, 0], 10)[1] == pytest.approx(91 / 102)  # who never voted is as good as the panel
    assert shrunk([0, 3], [8, 3], 0).tolist() == [1 / 10, 4 / 5]  # Laplace


def test_weights_of_known_counts() -> None:
    found = matrix({"ada": [0, 0, 0, 0, 0, 0, 0, 1], "bo": [0, 0, 0, 0, 2, 2, 2, -2]})
    fitted = fit_log_odds(found, alternatives=9.0, prior=10.0)
    assert (fitted.right, fitted.votes) == ({"ada": 7, "bo": 4}, {"ada": 8, "bo": 7})
    mean = (11 + 1) / (15 + 2)
    p = {"ada": (7 + 10 * mean) / 18, "bo": (4 + 10 * mean) / 17}
    assert fitted.weights == pytest.approx({name: math.log(9 * p[name] / (1 - p[name])) for name in p})


def test_sampled_agents_are_counted_over_their_samples() -> None:
    table = np.array([[0, 0, 1, 0], [0, 1, 1, 1]])
    fitted = fit_log_odds(VoteMatrix(["ada", "ada", "bo", "bo"], table, (table == 0).astype(float)))
    assert (fitted.right, fitted.votes) == ({"ada": 3, "bo": 1}, {"ada": 4, "bo": 4})


def test_alternatives_follow_the_votes() -> None:
    two = fit_log_odds(planted({"ada": 0.9, "bo": 0.6, "cy": 0.6}, 500, alternatives=1))
    many = fit_log_odds(planted({"ada": 0.5, "bo": 0.4, "cy": 0.3}, 500, alternatives=50))
    assert two.alternatives < 3 < many.alternatives
    assert two.weights["ada"] > two.weights["bo"] + two.weights["cy"] and min(many.weights.values()) > 0


def test_open_answers_are_not_damaged_where_most_are_wrong() -> None:
    found = planted({name: 0.4 + 0.02 * n for n, name in enumerate("abcdefg")}, 1000, alternatives=20)
    fitted, plain = fit_log_odds(found), fit_log_odds(found, alternatives=1.0)
    scores = vote_scores(found, [found.weights(fitted.weights), np.ones(7), found.weights(plain.weights)]).mean(axis=1)
    assert scores[0] > scores[1] - 0.005 and scores[0] > scores[2] + 0.2


@pytest.mark.parametrize("alternatives", [1, 9])
def test_dawid_skene_finds_planted_accuracies(alternatives: int) -> None:
    accuracies = {"ada": 0.9, "bo": 0.75, "cy": 0.7, "dee": 0.6}
    fitted = dawid_skene(planted(accuracies, 4000, alternatives), alternatives=alternatives)
    assert fitted.accuracy == pytest.approx(accuracies, abs=0.03)


def test_dawid_skene_looks_at_no_score_and_gives_the_same_every_time() -> None:
    found = planted({"ada": 0.8, "bo": 0.6, "cy": 0.4}, 300)
    blind = VoteMatrix(found.agents, found.answers, np.zeros_like(found.scores))
    assert dawid_skene(found) == dawid_skene(blind)


def test_dawid_skene_lets_all_be_wrong() -> None:
    # One vote of accuracy p, against nine answers that nobody gave, is right with p: p = (p + 1) / 3.
    fitted = dawid_skene(matrix({"ada": [0]}), alternatives=9.0, prior=1e9)
    assert fitted.accuracy == pytest.approx({"ada": 0.5}) and fitted.right == pytest.approx({"ada": 0.5})


def test_without_votes_there_is_no_agreement() -> None:
    with pytest.raises(ValueError, match="All proposals abstain or failed"):
        dawid_skene(matrix({"ada": [-3], "bo": [-2]}))


def test_weights_overrule_a_lobby() -> None:
    moa, lms = voters(PANEL, strategy=Voting(early_stop=False, tolerance=0.5))
    optimizer = FitVoteWeights("exact")
    compiled = optimizer.compile(moa, trainset=examples(GOLD))
    assert (moa(question="q0").answer, compiled(question="q0").answer) == ("1", "0")
    strategy: Any = compiled.strategy
    report = optimizer.report
    assert report is not None and strategy.tolerance == 0.5 and moa.strategy.weights == {}
    assert strategy.weights == {row.agent: row.weight for row in report.agents}
    assert counted(report) == [("bo", 4, 40), ("cy", 4, 40), ("ada", 40, 40)]
    assert (report.method, report.before, report.after, report.kept) == ("log-odds", 0.1, 1.0, True)
    assert report.usage.calls == 120 and calls(lms) == dict.fromkeys(lms, 42)
    assert "the vote scores 1.000 with them and 0.100" in report.reason
    assert json.loads(json.dumps(report.to_dict()))["agents"][2]["agent"] == "ada"


def test_weights_are_saved_with_the_program(tmp_path: Path) -> None:
    names = ["simulated/alice", "simulated/bob", "simulated/carol"]
    moa = MoA("question -> answer", names, strategy="voting")
    question = dspy.Example(question="What is 2 + 3?").with_inputs("question")
    compiled = FitVoteWeights(None).compile(moa, trainset=[question])
    compiled.save(tmp_path / "moa.json")
    strategy, loaded = compiled.strategy, MoA.from_file(tmp_path / "moa.json").strategy
    assert isinstance(strategy, Voting) and isinstance(loaded, Voting)
    assert loaded.weights == strategy.weights != {}


def test_weights_that_make_it_worse_are_not_kept() -> None:
    moa, _ = voters(PANEL, strategy=Voting(weights={"ada": 3.0}))
    optimizer = FitVoteWeights("exact")
    wrong = [dspy.Example(question=f"q{n}", answer=str(BO[n])).with_inputs("question") for n in range(40)]
    compiled = optimizer.compile(moa, trainset=wrong, valset=examples(GOLD))
    report: Any = optimizer.report
    assert (report.before, report.after, report.kept) == (1.0, 0.1, False)
    assert cast(Any, compiled.strategy).weights == {"ada": 3.0}


def test_without_labels_agreement_decides() -> None:
    answers = {"ada": ["1", "2", "3", "4"], "bo": ["1", "2", "3", "9"], "cy": ["7", "8", "3", "4"]}
    moa, _ = voters(answers)
    trainset = [dspy.Example(question=f"q{n}").with_inputs("question") for n in range(4)]
    optimizer = FitVoteWeights(None)
    weights: Any = cast(Any, optimizer.compile(moa, trainset=trainset).strategy).weights
    report: Any = optimizer.report
    assert weights["ada"] > weights["bo"] > weights["cy"] > 0
    assert (report.method, report.alternatives, report.before) == ("dawid-skene", 9.0, None)
    assert "Without a metric it cannot be said" in report.reason


@pytest.mark.parametrize(("kind", "alternatives"), [(bool, 1.0), (Literal["a", "b", "c"], 2.0), (int, 9.0)])
def test_the_type_says_how_many_wrong_answers_there_are(kind: Any, alternatives: float) -> None:
    task = dspy.make_signature({"question": (str, dspy.InputField()), "answer": (kind, dspy.OutputField())})
    said = {bool: ["True"], int: ["7"]}.get(kind, ["a"])
    moa, _ = voters({"ada": said, "bo": said}, task)
    optimizer = FitVoteWeights(None)
    optimizer.compile(moa, trainset=[dspy.Example(question="q0").with_inputs("question")])
    assert optimizer.report is not None and optimizer.report.alternatives == alternatives


def test_agents_worse_than_chance_count_nothing_and_say_so() -> None:
    moa, _ = voters({"ada": ["0"] * 30, "bo": ["1"] * 30})
    optimizer = FitVoteWeights("exact", alternatives=1.0, prior=0.0)
    optimizer.compile(moa, trainset=examples(["0"] * 30))
    report: Any = optimizer.report
    assert report.agents[1].weight == 0.0 and report.agents[1].note.startswith("clipped to 0")


def test_a_mixture_that_does_not_vote_is_refused() -> None:
    moa, lms = voters({"ada": ["0"]}, aggregator="simulated/judge", strategy="fusion")
    with pytest.raises(ValueError, match=r"strategy is fusion, which counts no votes.*strategy=Voting"):
        FitVoteWeights().compile(moa, trainset=examples(["0"]))
    with pytest.raises(TypeError, match="a Predict has none of its own"):
        FitVoteWeights().compile(dspy.Predict("question -> answer"), trainset=examples(["0"]))
    assert calls(lms) == {"ada": 0}


def test_bad_input_is_refused_before_anything_is_asked() -> None:
    moa, lms = voters({"ada": ["0"], "bo": ["0"]})
    with pytest.raises(ValueError, match="trainset is empty"):
        FitVoteWeights().compile(moa, trainset=[])
    with pytest.raises(ValueError, match="input question is missing"):
        FitVoteWeights().compile(moa, trainset=[dspy.Example(query="x", answer="y").with_inputs("query")])
    with pytest.raises(ValueError, match="no metric 'nope'"):
        FitVoteWeights("nope").compile(moa, trainset=examples(["0"]))
    with pytest.raises(ValueError, match="layer 2 have seen others' proposals"):
        FitVoteWeights().compile(voters({"ada": ["0"]}, layers=2)[0], trainset=examples(["0"]))
    with pytest.raises(ValueError, match="at least one wrong answer"):
        FitVoteWeights(alternatives=0.5)
    with pytest.raises(ValueError, match="no number of votes"):
        FitVoteWeights(prior=-1)
    assert calls(lms) == {"ada": 0, "bo": 0}


@pytest.mark.parametrize("bad", ["yes", float("nan"), 7.0, ZeroDivisionError()])
def test_what_was_paid_for_survives_a_bad_metric(bad: Any) -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        if example.question == "q2" and prediction.answer == "2":
            if isinstance(bad, Exception):
                raise bad
            return bad
        return True

    moa, lms = voters({"ada": ["0", "0", "2"], "bo": ["0", "0", "1"]})
    trainset = [dspy.Example(question=f"q{n}", answer="0").with_inputs("question") for n in range(3)]
    with pytest.raises(MetricError) as caught:
        FitVoteWeights(metric, concurrency=1).compile(moa, trainset=trainset)
    kept = caught.value.comparison
    assert kept is not None and len(kept.records) == (3 if bad == 7.0 else 2)
    FitVoteWeights().compile(moa, trainset=trainset, recorded=kept)
    assert calls(lms) == dict.fromkeys(lms, 3 if bad == 7.0 else 4)  # only what was cut short is asked again


def test_a_proposer_that_dies_stops_it_and_it_goes_on_from_there() -> None:
    down = [dspy.lm15.RateLimitError("slow down")]
    said: Any = ["0"] * 30 + down * 70
    moa, lms = voters({"ada": said, "bo": ["0"] * 100, "cy": ["1"] * 100})
    trainset = examples(["0"] * 100)
    with pytest.raises(
        ProposersUnreachable, match=r"ada could not be reached for 34 of 64 .*slow down.*recorded="
    ) as caught:
        FitVoteWeights().compile(moa, trainset=trainset)
    assert len(caught.value.comparison.records) == 64 and calls(lms)["bo"] == 64
    said[:] = ["0"] * 100
    optimizer = FitVoteWeights()
    optimizer.compile(moa, trainset=trainset, recorded=caught.value.comparison)
    report: Any = optimizer.report
    assert counted(report) == [
        ("ada", 100, 100),
        ("bo", 100, 100),
        ("cy", 0, 100),
    ]
    assert calls(lms)["bo"] == 64 + 70


def test_outages_that_are_to_be_expected_are_abstentions() -> None:
    said: Any = ["0", dspy.lm15.ServerError("oops")] * 5
    moa, _ = voters({"ada": said, "bo": ["0"] * 10})
    optimizer = FitVoteWeights(max_outages=0.5)
    optimizer.compile(moa, trainset=examples(["0"] * 10))
    report: Any = optimizer.report
    assert counted(report) == [("ada", 5, 5), ("bo", 10, 10)]
    assert report.agents[0].note.startswith("few votes")


def test_ctrl_c_keeps_what_was_answered() -> None:
    def stop(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        if example.question == "q2":
            raise KeyboardInterrupt
        return True

    moa, _ = voters({"ada": ["0"] * 4, "bo": ["1"] * 4})
    with pytest.raises(EvaluationInterrupted) as caught:
        FitVoteWeights(stop, concurrency=1).compile(moa, trainset=examples(["0"] * 4))
    assert [record.number for record in caught.value.comparison.records] == [1, 2]


def test_recordings_of_another_panel_are_refused() -> None:
    two, _ = voters({"ada": ["0"], "bo": ["0"]})
    three, _ = voters({"ada": ["0"], "bo": ["0"], "cy": ["0"]})
    with pytest.raises(MetricError) as caught:
        FitVoteWeights(lambda *_: 2.0).compile(two, trainset=examples(["0"]))
    with pytest.raises(ValueError, match=r"proposals of ada, bo, and this mixture asks for those of ada, bo, cy"):
        FitVoteWeights().compile(three, trainset=examples(["0"]), recorded=caught.value.comparison)
