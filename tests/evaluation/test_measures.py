"""Several measures of the same answers: metrics, robustness, calibration, cost and latency."""

from pathlib import Path
from typing import Any

import dspy
import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, question
from support.voters import examples, planted, voters

from moa_dspy import Limits, MoA, evaluate, replay
from moa_dspy.certainty import MEASURES, Calibration
from moa_dspy.evaluation import MetricError, mean_interval, perturb_text, wilson
from moa_dspy.optimizers import Calibrate

GOLD = {"Where is Lima?": "Peru", "Where is Oslo?": "Norway"}
EXAMPLES = [dspy.Example(question=asked, answer=gold).with_inputs("question") for asked, gold in GOLD.items()]


def knows(prompt: str) -> dict[str, str]:
    """Lima however it is written, Oslo only as it is."""
    asked = question(prompt)
    return {"reasoning": "so", "answer": "Peru" if "lima" in asked.lower() else GOLD.get(asked, "Sweden")}


def starts_alike(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return bool(example.answer[0] == prediction.answer[0])


def shout(example: dspy.Example) -> list[dspy.Example]:
    return [example.copy(question=example.question.upper())]


def test_each_system_by_every_measure_also_of_a_recording(tmp_path: Path) -> None:
    moa, path = MoA(QA, [FakeLM("a", knows)], strategy="voting"), tmp_path / "answers.jsonl"
    settings: Any = {"metrics": {"right": "exact", "start": starts_alike}}
    found = evaluate(moa, EXAMPLES, **settings, perturb=shout, path=path)
    assert [(one.name, one.value, one.questions) for one in found.measures if one.system == "a"][:4] == [
        ("right", 1.0, 2),
        ("start", 1.0, 2),
        ("robustness", 0.5, 2),
        ("tokens", 15.0, 2),
    ]
    assert [one.interval for one in found.measures[:4]] == [wilson(2, 2), wilson(2, 2), wilson(1, 2), (15, 15)]
    assert (found.metric, len(found.questions), found.planned, found.usage.calls) == ("right", 2, 2, 4)
    assert {row.name: row.score for row in found.rows} == {"a": 1, "plain vote": 1, "voting": 1, "oracle": 1}
    seconds = [question.answers["a"].seconds for question in found.questions]
    assert found.measures[4].interval == mean_interval(seconds, resamples=1000)
    again = evaluate(moa, path, **settings)
    assert again.to_dict() == found.to_dict() and len(again.to_dict()["measures"]) == len(found.measures)
    assert evaluate(moa, EXAMPLES, path=path, perturb=shout).usage.calls == 4  # nobody was asked again
    table = found.measures_table()
    assert [str(column.header) for column in table.columns] == ["", "right", "start", "robustness", "tokens", "seconds"]


def test_a_calibrated_mixture_is_measured_by_what_it_said_itself() -> None:
    moa, asked, recording = planted({"ada": 0.7, "bo": 0.6, "cy": 0.4}, alternatives=3)
    optimizer = Calibrate("exact")
    sure: Any = optimizer.compile(moa, trainset=asked, recorded=recording)
    found = evaluate(sure, recording, metrics={"exact": "exact"})
    [ece] = [one for one in found.measures if one.name == "ECE"]
    assert ece.system == "voting" and ece.questions == 300 and ece.interval.low <= ece.value < 0.08
    said = found.questions[0].answers["voting"].confidence
    assert said == replay(sure, recording)(question="q0").metadata.confidence
    sure.limits = Limits(max_error=0.2)
    given = next(one for one in evaluate(sure, recording).measures if one.name == "ECE")
    assert 0 < given.questions < 300


def test_other_systems_are_measured_by_what_they_said() -> None:
    moa, _ = voters({"ada": ["0", "0"], "bo": ["0", "1"]})
    sure = moa.deepcopy()
    sums = dict.fromkeys(MEASURES, 0.0) | {"constant": 1.0}
    sure.calibration = Calibration(measures=sums, agents={"ada": 0, "bo": 0}, questions=50, accuracy=1)
    found = evaluate(moa, examples(["0", "0"]), others={"sure": sure})
    [ece] = [one for one in found.measures if one.name == "ECE"]
    assert (ece.system, round(ece.value, 4)) == ("sure", 0.2689)


def test_a_calibration_says_nothing_of_another_strategy() -> None:
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "0"})
    moa, _ = voters({"ada": ["0", "0"], "bo": ["0", "0"]}, aggregator=judge)
    sums = dict.fromkeys(MEASURES, 0.0) | {"constant": 0.0}
    moa.calibration = Calibration(measures=sums, agents={"ada": 0, "bo": 0}, questions=50, accuracy=1, threshold=0.9)
    found = evaluate(moa, examples(["0", "0"]), strategies=["synthesis", "voting"], aggregator_alone=False)
    assert [found.scores(name).tolist() for name in ("synthesis", "voting")] == [[1, 1], [0, 0]]


def test_a_recording_without_other_wordings_says_so(caplog: pytest.LogCaptureFixture) -> None:
    moa, _, recording = planted({"ada": 0.7}, questions=3)
    assert "robustness" not in {one.name for one in evaluate(moa, recording, perturb=True).measures}
    assert "holds no question in other words" in caplog.text


def test_a_part_of_the_questions_is_measured_by_itself() -> None:
    asked = [one.copy(kind=kind) for one, kind in zip(EXAMPLES, "xy", strict=True)]
    moa = MoA(QA, [FakeLM("a", knows)], strategy="voting")
    found = evaluate(moa, asked, metrics={"right": "exact", "start": starts_alike}, perturb=shout)
    assert {kind: [one.value for one in part.measures[:3]] for kind, part in found.split("kind").items()} == {
        "x": [1.0, 1.0, 1.0],
        "y": [1.0, 1.0, 0.0],
    }


def test_what_cannot_be_measured_costs_nothing() -> None:
    moa = MoA(QA, [FakeLM("a", [])], strategy="voting")
    words: Any = lambda example: ["WHERE"]  # noqa: E731
    with pytest.raises(TypeError, match="perturb gave 'WHERE', no Example"):
        evaluate(moa, EXAMPLES, perturb=words)
    with pytest.raises(MetricError, match="gave 'no', which is no score"):
        evaluate(moa, EXAMPLES, metrics={"right": "exact", "odd": lambda example, prediction: "no"})


def test_texts_alone_are_changed_and_always_in_the_same_way() -> None:
    example = dspy.Example(question="Where is Lima?", number=7, answer="Peru").with_inputs("question", "number")
    first, again = perturb_text(example), perturb_text(example)
    assert (
        [one.question for one in first]
        == [one.question for one in again]
        == [
            "Where is Lmia?",
            "where is lima?",
            "  Where is Lima?",
        ]
    )
    assert {(one.number, one.answer) for one in first} == {(7, "Peru")}
    assert perturb_text(dspy.Example(question="17").with_inputs("question"))[0].question == " 17"
