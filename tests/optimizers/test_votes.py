"""Votes in numbers are the votes of `Voting`, on answers that hypothesis thinks of."""

from importlib import import_module
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_lm import FakeLM
from support.mixtures import QA
from support.voters import examples

from moa_dspy import Agent, MoA, MoAError, Recording, Voting, replay

numbers: Any = import_module("moa_dspy.optimizers.votes")
weights_room: Any = import_module("moa_dspy.optimizers.vote_weights")
Scored: Any = import_module("moa_dspy.optimizers.scoring").Scored
AGENTS = ("ada", "bo", "cy", "dee")


def panel(weights: dict[str, float] | None = None) -> MoA:
    return MoA(QA, [Agent(FakeLM(name, []), name=name) for name in AGENTS], strategy=Voting(weights=weights))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(["0", "1", "2", "", None]), min_size=4, max_size=4), min_size=1, max_size=5),
    st.lists(st.sampled_from([1.0, 0.5, 2.0, 3.0]), min_size=4, max_size=4),
)
def test_a_weighted_vote_scores_as_voting_answers(rows: list[list[Any]], weights: list[float]) -> None:
    asked = examples(["0"] * len(rows))
    answers: Any = dict(zip(AGENTS, map(list, zip(*rows, strict=True)), strict=True))
    recording = Recording.from_answers(answers, asked, QA)
    voting = replay(panel(dict(zip(AGENTS, weights, strict=True))), recording)
    expected = []
    for example in asked:
        try:
            expected.append(float(voting(question=example.question).answer == "0"))
        except MoAError:
            expected.append(0.0)
    votes = numbers.Votes.of(panel(), recording, asked, Scored("exact", voting.signature))
    assert votes.score(weights).tolist() == expected


def test_weights_of_zero_ask_nobody() -> None:
    asked = examples(["0"])
    recording = Recording.from_answers({"ada": ["1"], "bo": ["1"], "cy": ["0"], "dee": [None]}, asked, QA)
    votes = numbers.Votes.of(panel(), recording, asked, Scored("exact", panel().signature))
    assert [votes.score(weights).item() for weights in ([1, 1, 1, 1], [0, 0, 1, 0], [0, 0, 0, 1])] == [0.0, 1.0, 0.0]
    assert votes.alone.tolist() == [[0.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize(
    ("accuracy", "alternatives", "weights"),
    [([0.5, 0.9], 1.0, [0.0, 2.197]), ([0.1, 0.05, 0.5], 9.0, [0.0, 0.0, 2.197])],
)
def test_log_odds(accuracy: list[float], alternatives: float, weights: list[float]) -> None:
    assert weights_room.log_odds(accuracy, alternatives).round(3).tolist() == weights


def test_what_is_held_out_is_not_learned_from() -> None:
    # Who is right on one question only has no weight to win it with.
    table = np.array([[0, 1, 1]] + [[1, 0, 0]] * 19)
    found = numbers.Votes(["ada", "bo", "cy"], table, (table == 0).astype(float))
    fitted = weights_room.Weights(found, 9.0)
    assert fitted.score_held_out().tolist() == [0.0] + [1.0] * 19
    assert found.score(fitted.of()).tolist() == [0.0] + [1.0] * 19
    assert fitted.of(1).tolist() == [0.0, 1.0, 0.0]
