"""A budget of a run: estimated before it starts, kept while it goes, raised by the next call."""

from pathlib import Path
from typing import Any

import pytest
from support.fake_lm import FakeLM
from support.mixtures import QA, cast, echo, mixture

from moa_dspy import MoA, Recording, record
from moa_dspy.models import Prices
from moa_dspy.recording import RecordingStopped, estimate

ROWS = [{"id": n, "question": f"question {n}"} for n in range(12)]


def priced(*names: str, delay: float = 0.0) -> tuple[MoA, list[FakeLM]]:
    """A vote of models whose every call costs 2 USD: 10 tokens in, 5 out."""
    lms: list[Any] = [FakeLM(name, echo, delay=delay) for name in names]
    for lm in lms:
        vars(lm)["prices"] = Prices(input=100_000, output=200_000)
    return MoA(QA, list(lms), strategy="voting"), lms


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize(
    ("limit", "calls"), [({"max_calls": 7}, 6), ({"max_cost_usd": 190.0}, 24), ({"max_calls": 99}, 24)]
)
def test_no_question_is_begun_that_would_go_beyond(tmp_path: Path, concurrency: int, limit: Any, calls: int) -> None:
    moa, lms = priced("a", "b", delay=0.01)
    out = tmp_path / "answers.jsonl"
    try:
        record(moa, ROWS, out, concurrency=concurrency, **limit)
    except RecordingStopped as stop:
        assert stop.reason == "The budget is used up: 6 of 7 calls are spent, and the next question may take 2."
        assert (stop.summary.answered, stop.summary.left) == (calls // 2, 12 - calls // 2)
    assert sum(lm.calls for lm in lms) == calls == Recording.load(out).usage.calls
    assert len(record(moa, ROWS, out)) == 12 and sum(lm.calls for lm in lms) == 24


def test_what_it_costs_is_learned_from_what_it_did() -> None:
    moa, lms = priced("a", "b")
    with pytest.raises(RecordingStopped, match=r"budget is used up: \$0.0000 of \$9 are spent.* may take \$1\d\d\."):
        record(moa, ROWS, max_cost_usd=9)
    assert lms[0].calls == 0
    with pytest.raises(RecordingStopped, match=r"\$172.0000 of \$175 are spent, and the next question may take \$4.00"):
        record(moa, [{"question": str(n)} for n in range(50)], max_cost_usd=175)
    assert lms[0].calls == 43


def test_a_repair_that_would_be_one_call_too_many_is_not_asked_for() -> None:
    lm = FakeLM("a", lambda prompt: "no field")
    with pytest.raises(RecordingStopped, match="budget is used up"):
        record(MoA(QA, [lm], strategy="voting"), ROWS, max_calls=5, concurrency=4)
    assert lm.calls <= 5


def test_unknown_prices_and_senseless_limits_are_refused_at_once() -> None:
    lms = cast("a", "judge")
    with pytest.raises(ValueError, match=r"no price is known of a, judge\. State it as prices="):
        record(mixture(lms), ROWS, max_cost_usd=1)
    with pytest.raises(ValueError, match="max_calls=0 leaves nothing to ask"):
        record(mixture(lms), ROWS, max_calls=0)
    assert lms["a"].calls == 0


def test_the_estimate_counts_what_is_not_recorded_yet(tmp_path: Path) -> None:
    moa, _ = priced("a", "b")
    whole = estimate(moa, ROWS, tmp_path / "answers.jsonl")
    record(moa, ROWS[:9], tmp_path / "answers.jsonl")
    rest = estimate(moa, ROWS, tmp_path / "answers.jsonl")
    assert (whole.questions, whole.calls, rest.questions, rest.calls) == (12, 24, 3, 6)
    assert whole.cost_usd is not None and rest.cost_usd is not None and whole.cost_usd > 3 * rest.cost_usd > 0
    assert str(rest).startswith("3 questions, 6 LM calls, cost about $")
    judged = estimate(mixture(cast("a", "judge")), ROWS, strategies=["synthesis", "voting"], others={"x": moa})
    assert (judged.calls, judged.cost_usd) == (12 * 5, None)
