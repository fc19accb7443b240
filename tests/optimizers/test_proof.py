"""What the proof says of planted voters, of whom it is known."""

from importlib import import_module
from typing import Any

import pytest
from support.voters import planted

from moa_dspy import evaluate
from moa_dspy.optimizers import prove

prove_votes: Any = import_module("moa_dspy.optimizers.proof").prove_votes
Votes: Any = import_module("moa_dspy.optimizers.votes").Votes
FIVE = {"ada": 0.8, "bo": 0.75, "cy": 0.7, "dan": 0.7, "eve": 0.7}


def proven(**settings: Any) -> Any:
    moa, _, recording = planted(FIVE, questions=400, alternatives=3)
    return prove(moa, evaluate(moa, recording, strategies=[]), splits=10, **settings)


def test_what_is_won_and_what_it_takes() -> None:
    rows = {row.name: row for row in proven().rows}
    assert list(rows) == [
        "best single",
        "plurality",
        "committee",
        *(f"cascade, loss <= {loss}%" for loss in (0, 1, 2)),
        "calibrated at 5%",
        "calibrated at 10%",
    ]
    vote, lossless, calibrated = (rows[name] for name in ("plurality", "cascade, loss <= 0%", "calibrated at 10%"))
    assert vote.right > rows["best single"].right + 0.05 and vote.calls == 5
    assert lossless.gain[0] == 0 and lossless.right == vote.right and 3 <= lossless.calls < 5
    assert calibrated.kept[0] >= 0.9 and calibrated.right > 0.9 and calibrated.answered > 0.5
    assert calibrated.gain is None and vote.kept is None


def test_routes_by_a_field_that_says_nothing_win_nothing() -> None:
    moa, asked, recording = planted(FIVE, questions=200, alternatives=3)
    votes = Votes.of_comparison(moa, evaluate(moa, recording, strategies=[]))
    rows = {row.name: row for row in prove_votes(votes, keys=[str(n % 3) for n in range(200)], splits=10).rows}
    assert abs(rows["route"].gain[0]) < 0.03 and len(asked) == 200


def test_it_says_what_it_cannot_judge() -> None:
    with pytest.raises(ValueError, match="too little to learn from"):
        proven(share=0.01)
    moa, _, recording = planted(FIVE, questions=200)
    half = evaluate(moa, recording, lambda example, pred, trace=None: 0.5, strategies=[])
    with pytest.raises(ValueError, match="scores that say right"):
        prove(moa, half)
