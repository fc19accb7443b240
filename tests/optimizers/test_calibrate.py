"""A mixture's confidence, its promise, and what becomes of them."""

import copy
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, every_way
from support.voters import examples, planted, voters

from moa_dspy import Agent, Cascade, Limits, MoA, Proposal, Recording, Selection, Synthesis, Voting, record, replay
from moa_dspy.certainty import MEASURES, Calibration, weigh_evidence
from moa_dspy.evaluation import MetricError
from moa_dspy.optimizers import Calibrate, CompileInterrupted, SelectCommittee
from moa_dspy.signatures import task_signature
from moa_dspy.strategies import Case

GOLD = ["0"] * 60
# Ada is right, bo is right on every other question, and cy says something of his own.
ADA, BO, CY = ["0"] * 48 + ["9"] * 12, ["0", "1"] * 24 + ["8"] * 12, [f"c{n}" for n in range(60)]
PANEL = {"ada": ADA, "bo": BO, "cy": CY}
FIVE = {"ada": 0.7, "bo": 0.6, "cy": 0.4, "dan": 0.3, "eve": 0.3}


@cache
def calibrated(**settings: Any) -> tuple[Any, Any]:
    """Five planted voters, calibrated on 400 rows; and the report."""
    moa, asked, recording = planted(FIVE, questions=400, alternatives=3)
    optimizer = Calibrate("exact", **settings)
    return optimizer.compile(moa, trainset=asked, recorded=recording), optimizer.report


def weigh(answers: dict[str, Any], answer: Any, strategy: Any = None, **beside: Any) -> list[float]:
    proposals = [Proposal(id=a, agent=a.partition("#")[0], outputs={"answer": v}) for a, v in answers.items() if v]
    case = Case(task_signature(QA), {"question": "q"}, proposals, {id: id.partition("#")[0] for id in answers})
    evidence = weigh_evidence(case, {"answer": answer}, strategy or Synthesis(), ["a", "b"], **beside)
    return [round(number, 3) for number in evidence]


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (weigh({"a": "x", "b": "X", "c": "y", "d": None}, "x"), [1, 0.5, 0.25, 0.25, 0, 0, 1, 1]),
        (weigh({"a": "x", "b": "y"}, "z"), [1, 0, 0.5, 0, 0, 0, 0, 0]),
        (weigh({"a": "x", "a#2": "y", "b": "x"}, "x"), [1, 0.667, 0.333, 0, 0, 0, 0.5, 1]),
        (weigh({"a": "x", "b": "y"}, "x", Voting(weights={"a": 3, "b": 1})), [1, 0.75, 0.25, 0, 0, 0, 1, 0]),
        (weigh({"a": "x", "b": "x"}, "x", flip_rate=0.5, fallback_used=True), [1, 1, 0, 0, 0.5, 1, 1, 1]),
        (weigh({"a": None, "b": None}, "x"), [1, 0, 0, 1, 0, 0, 0, 0]),
    ],
)
def test_what_speaks_for_an_answer(row: list[float], wanted: list[float]) -> None:
    assert row == pytest.approx(wanted, abs=1e-3)


def test_without_a_calibration_there_is_no_confidence() -> None:
    account = voters(PANEL)[0](question="q0").metadata
    assert (account.confidence, account.abstained) == (None, False)


def test_confidence_is_the_share_that_is_right() -> None:
    moa, report = calibrated()
    assert len(report.confidences) == 400 and report.calibration == moa.calibration
    assert report.ece < 0.08 and report.ece_interval.low <= report.ece <= report.ece_interval.high
    assert report.auroc > 0.8 and report.brier < 0.16 and report.area < 0.12
    assert sum(one.answers for one in report.bins) == 400
    # What was learned says as much of answers that nobody has seen.
    seen = report.check(planted(FIVE, questions=600, alternatives=3, seed=1)[2])
    assert seen.holds and seen.answers == 600 and abs(seen.expected - seen.observed) < 0.05, seen.reason


def test_who_is_right_more_often_adds_more() -> None:
    agents = calibrated()[0].calibration.agents
    assert sorted(agents, key=lambda name: -agents[name])[:2] == ["ada", "bo"]


@every_way
def test_below_the_promise_nothing_is_answered(ask: Any) -> None:
    moa, lms = voters({name: ["0", "0", "1"] for name in ("ada", "bo")} | {"cy": ["0", "1", "2"]})
    sums = dict.fromkeys(MEASURES, 0.0) | {"support": 9.0, "constant": -6.0}
    said = Calibration(measures=sums, agents=dict.fromkeys(lms, 0.0), questions=50, accuracy=0.5, threshold=0.9)
    moa.calibration = said
    sure, unsure = ask(moa, question="q0"), ask(moa, question="q1")
    assert (sure.answer, sure.metadata.confidence, sure.metadata.abstained) == ("0", 1 / (1 + math.exp(-3)), False)
    assert (unsure.answer, unsure.metadata.confidence, unsure.metadata.abstained) == (None, 0.5, True)
    assert unsure.metadata.votes[0].answer == {"answer": "0"} and unsure.metadata.usage.calls == 3
    moa.calibration = said.model_copy(update={"on_unsure": "flag"})
    assert (ask(moa, question="q1").answer, ask(moa, question="q1").metadata.abstained) == ("0", True)


def test_a_promise_sets_a_threshold_that_keeps_it() -> None:
    moa, report = calibrated(max_error=0.1)
    said = moa.calibration
    assert said.max_error == 0.1 and 0.8 < said.threshold < 0.9 and 0.3 < report.coverage < 0.5
    given = report.confidences >= said.threshold - 1e-9
    assert (report.right[given] < 1).mean() <= 0.1 < (report.right < 1).mean()
    assert "and 10% were promised" in report.reason
    seen = report.check(planted(FIVE, questions=600, alternatives=3, seed=1)[2])
    assert seen.holds and seen.wrong / seen.answered <= 0.1 and 150 < seen.answered < 350


@every_way
def test_a_limit_promises_what_the_calibration_bears(ask: Any, tmp_path: Path) -> None:
    moa, lms = voters(PANEL, limits=Limits(max_error=0.15))
    with pytest.raises(ValueError, match=r"Limits\(max_error=0\.15\) promises .* Calibrate it: Calibrate"):
        ask(moa, question="q0")
    with pytest.raises(ValueError, match="Calibrate it: Calibrate"):
        record(moa, examples(GOLD))
    assert lms["ada"].calls == 0
    limited: Any = Calibrate("exact").compile(moa, trainset=examples(GOLD))
    promised: Any = Calibrate("exact", max_error=0.15).compile(voters(PANEL)[0], trainset=examples(GOLD))
    assert limited.certainty == promised.certainty and limited.certainty.max_error == 0.15
    plain: Any = Calibrate("exact", on_unsure="flag").compile(voters(PANEL)[0], trainset=examples(GOLD))
    plain.save(tmp_path / "moa.json")
    fresh: Any = voters(PANEL)[0]
    fresh.load(tmp_path / "moa.json")
    assert not ask(fresh, question="q59").metadata.abstained
    fresh.limits = Limits(max_error=0.15)
    assert fresh.certainty.threshold == promised.certainty.threshold
    assert [(one.answer, one.metadata.abstained) for n in (0, 59) if (one := ask(fresh, question=f"q{n}"))] == [
        ("0", False),
        ("9", True),
    ]
    fresh.limits = Limits(max_error=0.01)
    with pytest.raises(ValueError, match=r"The 60 rows .* at most 1\.0% of .*; the least that they bear is \d+%"):
        ask(fresh, question="q0")


def test_answers_on_the_threshold_are_given() -> None:
    moa, asked, recording = planted({"ada": 0.7, "bo": 0.6, "cy": 0.5, "dan": 0.6}, 400, alternatives=3, seed=3)
    sure: Any = Calibrate("exact", max_error=0.15).compile(moa, trainset=asked, recorded=recording)
    said = [replay(sure, recording)(question=f"q{number}").metadata for number in range(60)]
    on_it = [one.abstained for one in said if abs(one.confidence - sure.calibration.threshold) < 1e-4]
    assert len(on_it) > 2 and not any(on_it)


def test_a_shift_is_told() -> None:
    report = calibrated(max_error=0.1)[1]
    worse = planted(dict.fromkeys(FIVE, 0.35), questions=300, alternatives=1)
    told = report.check(worse[2])
    assert not told.holds and "of the answers were to be right" in told.reason and told.observed < told.expected
    lobby = planted(dict.fromkeys(FIVE, 0.05), questions=100, alternatives=1)[2]
    assert re.search(r"(\d+) of \1 answers given are wrong, and 10% were promised", report.check(lobby).reason)
    unlabelled = Recording([row.model_copy(update={"gold": {}}) for row in worse[2]])
    told = report.check(unlabelled)
    assert not told.holds and "the mean confidence was" in told.reason and told.observed is None
    same = Recording(
        [row.model_copy(update={"gold": {}}) for row in planted(FIVE, questions=300, alternatives=3, seed=2)[2]]
    )
    assert report.check(same).holds
    with pytest.raises(ValueError, match="holds no answer of this mixture"):
        report.check(Recording())


def test_any_strategy_is_calibrated_by_the_support_of_what_it_wrote() -> None:
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "0", "choice": "P1"})
    moa, lms = voters(PANEL, aggregator=judge, strategy="synthesis")
    optimizer = Calibrate(lambda example, pred, trace=None: example.question not in {f"q{n}" for n in range(48, 60)})
    compiled: Any = optimizer.compile(moa, trainset=examples(GOLD))
    assert judge.calls == 60 and all(lm.calls == 60 for lm in lms.values())
    # The judge always writes 0; where nobody said so, it is wrong.
    agreed, alone = (compiled(question=f"q{n}").metadata.confidence for n in (0, 50))
    assert agreed > 0.9 > 0.2 > alone


def test_flips_of_a_selection_are_recorded_and_count() -> None:
    turned = iter(range(10**6))
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "choice": f"P{1 + next(turned) % 2}"})
    moa, _ = voters({"ada": ADA, "bo": ["7"] * 60}, aggregator=judge, strategy=Selection(rotations=2))
    optimizer = Calibrate("exact")
    compiled: Any = optimizer.compile(moa, trainset=examples(GOLD))
    assert compiled.calibration.measures["flips"] != 0
    recording = record(moa, examples(GOLD)[:1], strategies=["selection"])
    recording[0].verdicts["selection"].flip_rate = 0.25
    assert replay(moa, recording)(question="q0").metadata.flip_rate == 0.25


def test_it_is_saved_and_copied_with_the_mixture(tmp_path: Path) -> None:
    moa, _ = voters(PANEL)
    compiled: Any = Calibrate("exact", max_error=0.4).compile(moa, trainset=examples(GOLD))
    assert moa.calibration is None and compiled.calibration.max_error == 0.4
    compiled.save(tmp_path / "moa.json")
    compiled.save(tmp_path / "plain.pkl")
    for path in ("moa.json", "plain.pkl"):
        fresh, _ = voters(PANEL)
        fresh.load(tmp_path / path, allow_pickle=True)
        assert fresh.calibration == compiled.calibration
    assert [copied.calibration for copied in (compiled.deepcopy(), copy.deepcopy(compiled), compiled.reset_copy())] == [
        compiled.calibration
    ] * 3
    moa.save(tmp_path / "none.json")
    fresh.load(tmp_path / "none.json")
    assert fresh.calibration is None and "calibration" not in (tmp_path / "none.json").read_text(encoding="utf-8")


def test_it_survives_an_optimizer_and_ends_with_another_panel() -> None:
    moa, _ = voters(PANEL)
    compiled: Any = Calibrate("exact").compile(moa, trainset=examples(GOLD))
    tuned = dspy.LabeledFewShot(k=2).compile(compiled, trainset=examples(GOLD))
    assert tuned.calibration == compiled.calibration
    chosen = SelectCommittee("exact", max_calls=1).compile(compiled, trainset=examples(GOLD))
    assert chosen.calibration is None


def test_whoever_is_to_be_asked_instead_gives_a_cascade() -> None:
    moa, _ = voters(PANEL)
    strong = FakeLM("strong", lambda prompt: {"reasoning": "so", "answer": "S"})
    optimizer = Calibrate("exact", max_error=0.15, on_unsure=Agent(strong))
    cascade: Any = optimizer.compile(moa, trainset=examples(GOLD))
    assert isinstance(cascade, Cascade)
    sure, unsure = cascade(question="q0"), cascade(question="q59")
    assert (sure.answer, sure.metadata.stage, strong.calls) == ("0", 1, 1)
    assert (unsure.answer, unsure.metadata.stage, unsure.metadata.usage.calls) == ("S", 2, 4)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"max_error": 0}, "max_error=0: no number of rows shows that answers are never wrong"),
        ({"max_error": 1}, "that all may be wrong is no promise"),
        ({"max_error": 0.1, "on_unsure": "guess"}, "on_unsure='guess' is nothing to be done"),
        ({"on_unsure": dspy.Predict(QA)}, "Without max_error no answer is unsure"),
        ({"concurrency": 0}, "concurrency=0 leaves nobody to ask"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        Calibrate(**settings)


@pytest.mark.parametrize(
    ("panel", "gold", "settings", "problem"),
    [
        (PANEL, GOLD[:10], {}, "10 answers with a gold value are too few to calibrate on. Give 30, better 200."),
        (PANEL, ["5"] * 60, {}, "All 60 answers are wrong"),
        ({"ada": GOLD, "bo": GOLD}, GOLD, {}, "All 60 answers are right"),
        ({"ada": ADA, "bo": ADA}, GOLD, {}, "Nothing differs among the 60 rows"),
        (PANEL, GOLD, {"max_error": 0.01}, "About 575 labelled rows like these would, or promise less."),
        (PANEL, ["0", "0", "5", "5"] * 15, {"max_error": 0.1}, "even the surest answers are wrong too often"),
    ],
)
def test_what_the_rows_do_not_bear_is_refused_and_nothing_is_lost(
    panel: Any, gold: list[str], settings: Any, problem: str
) -> None:
    moa, _ = voters(panel)
    with pytest.raises(CompileInterrupted, match=re.escape(problem)) as refused:
        Calibrate("exact", **settings).compile(moa, trainset=examples(gold))
    kept: Any = refused.value.recording
    assert len(kept) == len(gold) and kept.usage.calls == len(gold) * len(panel)
    program = refused.value.program
    assert (program is not None and program.calibration is not None) == ("max_error" in settings)


def test_rows_without_gold_and_of_another_task_and_a_share_of_right() -> None:
    moa, asked, recording = planted(FIVE, questions=60)
    with pytest.raises(ValueError, match="no gold value for answer"):
        Calibrate("exact").compile(moa, trainset=[dspy.Example(question="q").with_inputs("question")])
    other = MoA("text -> label", [Agent(FakeLM(name, []), name=name) for name in FIVE], strategy="voting")
    rows = [dspy.Example(text=f"q{n}", label="0").with_inputs("text") for n in range(60)]
    same_inputs = Recording([row.model_copy(update={"inputs": {"text": row.inputs["question"]}}) for row in recording])
    with pytest.raises(ValueError, match="The recording is of another task: its outputs lack label"):
        Calibrate("exact").compile(other, trainset=rows, recorded=same_inputs)
    with pytest.raises(MetricError, match="says neither right") as error:
        Calibrate(lambda example, pred, trace=None: 0.5).compile(moa, trainset=asked, recorded=recording)
    assert len(error.value.recording or []) == 60
    with pytest.raises(TypeError, match="Calibrate works on the agents of a MoA"):
        Calibrate().compile(dspy.Predict(QA), trainset=asked)


def test_the_report_is_data_a_table_and_a_plot(tmp_path: Path) -> None:
    report = calibrated(max_error=0.1)[1]
    data = json.loads(json.dumps(report.to_dict()))
    assert data["calibration"]["max_error"] == 0.1 and data["reason"] == report.reason and len(data["bins"]) > 2
    assert report.table().row_count == len(report.bins)
    page = report.plot(tmp_path / "reliability.html").read_text(encoding="utf-8")
    assert "rows that were not learned from" in page and "as it should be" in page
