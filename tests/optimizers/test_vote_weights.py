import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, calls, question
from support.voters import examples, planted, voters

from moa_dspy import Agent, MoA, Recording, Voting, record
from moa_dspy.evaluation import MetricError
from moa_dspy.optimizers import CompileInterrupted, FitVoteWeights, ProposersUnreachable
from moa_dspy.recording import RecordingInterrupted

GOLD = ["0"] * 40
# Bo and cy are right on the last four only, and there ada is right too.
BO = ["1"] * 36 + ["0"] * 4
PANEL = {"bo": BO, "cy": BO, "ada": GOLD}


def weights_of(moa: MoA) -> dict[str, float]:
    strategy: Any = moa.strategy
    return dict(strategy.weights)


def fitted(accuracies: dict[str, float], optimizer: FitVoteWeights, **settings: Any) -> Any:
    """The report on planted voters; nobody is asked."""
    moa, asked, recording = planted(accuracies, **settings)
    optimizer.compile(moa, trainset=asked, recorded=recording)
    return optimizer.report


def test_weights_overrule_a_lobby() -> None:
    moa, lms = voters(PANEL, strategy=Voting(early_stop=False, tolerance=0.5))
    optimizer = FitVoteWeights("exact")
    compiled = optimizer.compile(moa, trainset=examples(GOLD))
    assert (moa(question="q0").answer, compiled(question="q0").answer) == ("1", "0")
    report: Any = optimizer.report
    assert [(row.agent, row.right, row.votes) for row in report.agents] == [
        ("bo", 4, 40),
        ("cy", 4, 40),
        ("ada", 40, 40),
    ]
    assert weights_of(compiled) == {row.agent: row.weight for row in report.agents} and weights_of(moa) == {}
    assert (report.before, report.after, report.kept) == (0.1, 1.0, True)
    assert report.usage.calls == 120 and calls(lms) == dict.fromkeys(lms, 42)
    assert "On examples held out the answer scores 1.000 with them and 0.100" in report.reason
    assert json.loads(json.dumps(report.to_dict()))["agents"][2]["agent"] == "ada"


def test_weights_are_smoothed_log_odds() -> None:
    moa, _ = voters(PANEL)
    optimizer = FitVoteWeights("exact", alternatives=9.0)
    optimizer.compile(moa, trainset=examples(GOLD))
    mean = (48 + 1) / (120 + 2)
    p = {"bo": (4 + 10 * mean) / 50, "cy": (4 + 10 * mean) / 50, "ada": (40 + 10 * mean) / 50}
    assert {row.agent: row.accuracy for row in optimizer.report.agents} == pytest.approx(p)  # type: ignore[union-attr]
    expected = {name: max(0.0, math.log(9 * p[name] / (1 - p[name]))) for name in p}
    assert {row.agent: row.weight for row in optimizer.report.agents} == pytest.approx(expected)  # type: ignore[union-attr]


def test_alternatives_follow_the_votes() -> None:
    two = fitted({"ada": 0.9, "bo": 0.6, "cy": 0.6}, FitVoteWeights(), alternatives=1)
    many = fitted({"ada": 0.5, "bo": 0.4, "cy": 0.3}, FitVoteWeights(), alternatives=50)
    assert (two.alternatives, many.alternatives) == (1.0, 9.0)
    one, *others = (row.weight for row in two.agents)
    assert one > sum(others) and all(row.weight > 0 for row in many.agents)


def test_weights_are_saved_with_the_program(tmp_path: Path) -> None:
    names = ["simulated/alice", "simulated/bob", "simulated/carol"]
    moa = MoA("question -> answer", names, strategy="voting")
    question = dspy.Example(question="What is 2 + 3?", answer="5").with_inputs("question")
    compiled = FitVoteWeights().compile(moa, trainset=[question])
    compiled.save(tmp_path / "moa.json")
    assert weights_of(MoA.from_file(tmp_path / "moa.json")) == weights_of(compiled) != {}


def test_a_mixture_that_does_not_vote_and_bad_settings_are_refused() -> None:
    moa, lms = voters({"ada": ["0"]}, aggregator="simulated/judge", strategy="fusion")
    with pytest.raises(ValueError, match=r"strategy is fusion, which counts no votes.*strategy=Voting"):
        FitVoteWeights().compile(moa, trainset=examples(["0"]))
    with pytest.raises(ValueError, match="layer 2 have seen others' proposals"):
        FitVoteWeights().compile(voters({"ada": ["0"]}, layers=2)[0], trainset=examples(["0"]))
    with pytest.raises(ValueError, match="at least one wrong answer"):
        FitVoteWeights(alternatives=0.5)
    assert calls(lms) == {"ada": 0}


@pytest.mark.parametrize("bad", ["yes", float("nan"), 7.0, ZeroDivisionError()])
def test_what_was_paid_for_survives_a_bad_metric(bad: Any) -> None:
    def metric(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> Any:
        if prediction.answer != "2":
            return True
        if isinstance(bad, Exception):
            raise bad
        return bad

    moa, lms = voters({"ada": ["0", "0", "2"], "bo": ["0", "0", "1"]})
    with pytest.raises(MetricError) as caught:
        FitVoteWeights(metric, concurrency=1).compile(moa, trainset=examples(["0"] * 3))
    kept = caught.value.recording
    assert kept is not None and len(kept) == 3
    FitVoteWeights().compile(moa, trainset=examples(["0"] * 3), recorded=kept)
    assert calls(lms) == dict.fromkeys(lms, 3)


def test_a_metric_is_tried_on_gold_before_anything_is_asked() -> None:
    moa, lms = voters({"ada": ["0"], "bo": ["0"]})
    with pytest.raises(MetricError, match="gave 'good', which is no score"):
        FitVoteWeights(lambda example, prediction: "good").compile(moa, trainset=examples(["0"]))
    assert calls(lms) == {"ada": 0, "bo": 0}


def test_a_proposer_that_dies_stops_it_and_it_goes_on_from_there() -> None:
    said: Any = ["0"] * 30 + [dspy.lm15.RateLimitError("slow down")] * 70
    moa, lms = voters({"ada": said, "bo": ["0"] * 100, "cy": ["1"] * 100})
    trainset = examples(["0"] * 100)
    with pytest.raises(
        ProposersUnreachable, match=r"ada could not be reached for 34 of 64 .*slow down.*recorded="
    ) as stop:
        FitVoteWeights(concurrency=1).compile(moa, trainset=trainset)
    assert isinstance(stop.value, CompileInterrupted) and stop.value.recording is not None
    assert len(stop.value.recording) == 64
    said[:] = ["0"] * 100
    optimizer = FitVoteWeights()
    optimizer.compile(moa, trainset=trainset, recorded=stop.value.recording)
    report: Any = optimizer.report
    assert [(row.right, row.votes) for row in report.agents] == [(100, 100), (100, 100), (0, 100)]
    assert calls(lms)["bo"] in (64 + 70, 65 + 70)  # one was under way


def test_nobody_who_answers_the_first_question_ends_it() -> None:
    down = [dspy.lm15.ServerError("down")] * 50
    moa, lms = voters({"ada": down, "bo": down})
    with pytest.raises(ProposersUnreachable, match="The first example got no answer"):
        FitVoteWeights().compile(moa, trainset=examples(["0"] * 50))
    assert calls(lms) == {"ada": 1, "bo": 1}


def test_nothing_is_asked_twice_whatever_the_ids() -> None:
    moa, lms = voters({"ada": ["0"] * 4, "bo": ["1"] * 4})
    named = [dspy.Example(question=f"q{n}", answer="0", id=n).with_inputs("question") for n in range(4)]
    recording = record(moa, named[:3], strategies=[])
    optimizer = FitVoteWeights()
    optimizer.compile(moa, trainset=[*named, *examples(["0"] * 4)], recorded=recording)
    report: Any = optimizer.report
    assert calls(lms) == {"ada": 4, "bo": 4} and "Fitted on 8 examples" in report.reason and report.usage.calls == 8


def test_fields_may_have_any_name() -> None:
    task = "question, base -> self, completions"
    gold = [dspy.Example({"question": "q0", "base": "x", "self": "a", "completions": "b"})]
    answers = {"ada": [{"self": "a", "completions": "b"}], "bo": [{"self": "a", "completions": "c"}]}
    moa, _ = voters({"ada": [], "bo": []}, task)
    optimizer = FitVoteWeights()
    optimizer.compile(moa, trainset=gold, recorded=Recording.from_answers(answers, gold, task))
    report: Any = optimizer.report
    assert [row.right for row in report.agents] == [1, 0]


def test_ctrl_c_keeps_what_was_answered() -> None:
    def interrupts(prompt: str) -> Any:
        if question(prompt) == "q2":
            os.kill(os.getpid(), signal.SIGINT)
        return {"reasoning": "so", "answer": "0"}

    moa = MoA(QA, [Agent(FakeLM("ada", interrupts), name="ada")], strategy="voting")
    with pytest.raises(RecordingInterrupted) as caught:
        FitVoteWeights(concurrency=1).compile(moa, trainset=examples(["0"] * 9))
    assert 2 <= len(caught.value.recording) < 9


def test_recordings_of_another_panel_are_refused() -> None:
    two, _ = voters({"ada": ["0"], "bo": ["0"]})
    three, lms = voters({"ada": ["0"], "bo": ["0"], "cy": ["0"]})
    recording = record(two, examples(["0"]), strategies=[])
    with pytest.raises(ValueError, match=r"proposals of ada, bo, and this mixture asks for those of ada, bo, cy"):
        FitVoteWeights().compile(three, trainset=examples(["0"]), recorded=recording)
    assert calls(lms) == dict.fromkeys(lms, 0)
