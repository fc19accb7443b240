from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest

from moa_dspy.evaluation import as_metric, prediction_of, score
from moa_dspy.signatures import task_signature

QA = task_signature("question -> answer")


def gives(metric: str, gold: Any, answer: Any, kind: Any = str) -> float:
    task = task_signature("question -> answer").with_updated_fields("answer", type_=kind)
    example = dspy.Example(question="?", answer=gold).with_inputs("question")
    return score(as_metric(metric, task), example, dspy.Prediction(answer=answer))


@pytest.mark.parametrize(
    ("gold", "answer", "kind", "expected"),
    [
        ("the end", "end", str, 0),
        ("yes", True, bool, 1),
        (["a", "b"], ["A", "b"], list[str], 1),
        (None, None, str | None, 1),
        (None, "I'm sorry, but I can't help with that.", str | None, 0),
        ("5", None, str, 0),
    ],
)
def test_exact_compares_as_votes_do(gold: Any, answer: Any, kind: Any, expected: float) -> None:
    assert gives("exact", gold, answer, kind) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("5", "It is 5.", 1),
        ("5", "It is -5", 0),
        ("5", "It is 15", 0),
        ("-5", "It is -5.", 1),
        ("1,000", "about $1,000 a day", 1),
        ("a.b", "axb", 0),
        ("", "anything", 0),
        ("北京", "答案是北京。", 1),
        ("東京", "それは東京です", 1),
        ("กรุงเทพ", "เมืองหลวงคือกรุงเทพครับ", 1),
        ("서울", "수도는 서울입니다", 1),
        ("5", "答案是5个", 1),
        ("5", "答案是15个", 0),
        ("5", "答案是5.5个", 0),
        ("Bern", "首都是Bern市", 1),
        ("Bern", "首都是Bernard", 0),
        ("दिल", "दिल्ली", 0),
        ("दिल्ली", "राजधानी दिल्ली है", 1),
        ("上海", "答案是北京。", 0),
    ],
)
def test_contains_looks_for_whole_words(gold: str, answer: str, expected: float) -> None:
    assert gives("contains", gold, answer) == expected


@pytest.mark.parametrize(("gold", "answer", "expected"), [("$1,000", "1000", 1), ("1,000", "1001", 0), ("1", None, 0)])
def test_exact_takes_a_convention_by_name(gold: str, answer: str | None, expected: float) -> None:
    assert gives("exact:number", gold, answer) == expected
    with pytest.raises(ValueError, match="nope"):
        as_metric("exact:nope", QA)


def test_fields_may_have_any_name() -> None:
    task = task_signature("question -> base, self, completions, items")
    gold = {"base": "1", "self": "2", "completions": "3", "items": "4"}
    example = dspy.Example({"question": "?", **gold}).with_inputs("question")
    assert score(as_metric("exact", task), example, prediction_of(gold)) == 1
    assert score(as_metric("exact", task), example, prediction_of({**gold, "self": "x"})) == 0


def test_all_outputs_that_have_a_gold_value_must_be_right() -> None:
    metric = as_metric("exact", task_signature("question -> label: bool, city, why"))
    example = dspy.Example(question="?", label=True, city="Bern").with_inputs("question")
    assert score(metric, example, dspy.Prediction(label=True, city="bern", why="so")) == 1
    assert score(metric, example, dspy.Prediction(label=False, city="bern", why="so")) == 0


def test_a_metric_is_imported_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text("def half(example, pred, trace=None):\n    return 0.5\n\nnumber = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["elsewhere"])
    assert score(as_metric("mine:half", QA), dspy.Example(), dspy.Prediction()) == 0.5
    with pytest.raises(TypeError, match="'mine:number' is no function but int"):
        as_metric("mine:number", QA)
    for missing in ("mine:nope", "not_there:half"):
        with pytest.raises(ValueError, match=f"'{missing}' cannot be imported"):
            as_metric(missing, QA)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, 1.0), (0.25, 0.25), (2, 2.0), (np.float32(0.5), 0.5), (np.bool_(True), 1.0)],
)
def test_numbers_and_bools_are_scores(value: Any, expected: float) -> None:
    assert score(lambda example, pred: value, dspy.Example(), dspy.Prediction()) == expected


def test_what_is_no_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="Choose exact or contains, or name a function"):
        as_metric("nope", QA)
    with pytest.raises(TypeError, match="a name or a function, not int"):
        as_metric(1, QA)  # type: ignore[arg-type]
