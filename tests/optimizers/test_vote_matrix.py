import random
from typing import Any

import numpy as np
import pytest
from support.voters import examples, matrix, voters

from moa_dspy import Voting
from moa_dspy.evaluation import evaluate
from moa_dspy.optimizers import MISSING, REFUSED, SAYS_NONE, VoteMatrix, log_likelihood, vote_scores
from moa_dspy.results import Proposal
from moa_dspy.signatures import task_signature
from moa_dspy.strategies import Case, Unusable

REFUSAL = "I'm sorry, but I can't help with that."


def test_a_comparison_becomes_numbers() -> None:
    answers: dict[str, list[Any]] = {"ada": [4, 5, None], "bo": ["04", 5, 3], "cy": ["4.0", RuntimeError("down"), 2]}
    moa, _ = voters(answers, "question -> answer: int | None")
    found = VoteMatrix.of(evaluate(moa, examples([4, 5, 3])).records, moa)
    assert found.agents == ["ada", "bo", "cy"]
    assert found.answers.tolist() in ([[0, 0, 0], [0, 0, MISSING], [SAYS_NONE, first, 1 - first]] for first in (0, 1))
    assert found.scores.tolist() == [[1, 1, 1], [1, 1, 0], [0, 1, 0]]


def test_a_refusal_is_no_vote_and_can_be_no_answer() -> None:
    moa, _ = voters({"ada": [REFUSAL], "bo": ["4"]})
    found = VoteMatrix.of(evaluate(moa, examples(["4"])).records, moa)
    assert found.answers.tolist() == [[REFUSED, 0]]
    assert vote_scores(found, [[1, 0], [1, 1]]).tolist() == [[0.0], [1.0]]


def test_the_mixtures_own_vote_says_what_is_the_same() -> None:
    moa, _ = voters({"ada": ["Yes"], "bo": ["yes"]}, strategy=Voting(exact_text=True, weights={"bo": 5.0}))
    assert VoteMatrix.of(evaluate(moa, examples(["yes"])).records, moa).answers.tolist() in ([[0, 1]], [[1, 0]])


def test_samples_are_columns_of_one_agent() -> None:
    moa, _ = voters({"ada": ["1", "2"], "bo": ["1", "3"]}, num_proposals_per_model=2)
    found = VoteMatrix.of(evaluate(moa, examples(["1", "2"])).records, moa)
    assert (found.agents, found.names, found.samples) == (["ada", "ada", "bo", "bo"], ["ada", "bo"], 2)
    assert found.solo.tolist() == [[1, 1], [1, 0]]
    assert found.of_agents(["bo"], samples=1).scores.tolist() == [[1], [0]]
    assert found.weights({"bo": 2.0}).tolist() == [0, 0, 2, 2]


def test_without_records_there_is_nothing_to_count() -> None:
    with pytest.raises(ValueError, match="no recorded proposals"):
        VoteMatrix.of([], voters({"ada": ["1"]})[0])


def drawn(seed: int) -> tuple[VoteMatrix, dict[str, float]]:
    draw = random.Random(seed)
    columns = [f"a{n}" for n in range(draw.randint(1, 4)) for _ in range(2)]
    codes = [0, 1, 2, SAYS_NONE, REFUSED, MISSING]
    answers = [[draw.choice(codes) for _ in columns] for _ in range(20)]
    scores = [[0.0 if code == MISSING else draw.random() for code in row] for row in answers]
    return VoteMatrix(columns, np.array(answers), np.array(scores)), {
        name: draw.choice([0.5, 1.0, 1.5, 2.0]) for name in columns
    }


def voted(found: VoteMatrix, row: int, weights: dict[str, float]) -> float:
    """The score of what `Voting` answers, asked for real."""
    said: dict[int, Any] = {SAYS_NONE: None, REFUSED: REFUSAL}
    ids = [f"{agent}#{column}" for column, agent in enumerate(found.agents)]
    proposals = [
        Proposal(id=id, agent=agent, outputs={"answer": said.get(code, str(code))})
        for id, agent, code in zip(ids, found.agents, found.answers[row].tolist(), strict=True)
        if code != MISSING
    ]
    case = Case(
        task_signature("question -> answer: str | None"), {}, proposals, dict(zip(ids, found.agents, strict=True))
    )
    voting = Voting(weights=weights)
    try:
        selected = voting.verdict(case, voting.count(case)).selected if proposals else None
    except Unusable:
        return 0.0
    return 0.0 if selected is None else float(found.scores[row, ids.index(selected)])


@pytest.mark.parametrize("seed", range(30))
def test_it_counts_as_voting_does(seed: int) -> None:
    found, weights = drawn(seed)
    scores = vote_scores(found, [found.weights(weights), np.ones(len(found.agents))])
    assert scores[0].tolist() == [voted(found, row, weights) for row in range(len(found))]
    assert scores[1].tolist() == [voted(found, row, {}) for row in range(len(found))]


def test_blocks_only_save_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = drawn(1)
    weights = np.random.default_rng(0).random((50, len(found.agents)))
    whole, fits = vote_scores(found, weights), log_likelihood(found, weights)
    monkeypatch.setattr("moa_dspy.optimizers.vote_counting._BLOCK", 1000)
    assert (vote_scores(found, weights) == whole).all()
    assert log_likelihood(found, weights) == pytest.approx(fits)


def test_the_likelihood_is_the_share_of_the_right_answer() -> None:
    found = matrix({"ada": [0, 1, 1, 0], "bo": [1, 1, 2, 0], "cy": [1, 0, 1, 0]})
    e = np.exp(1)
    assert np.exp(log_likelihood(found, [1, 1, 1])[0]) == pytest.approx([e / (e + e**2), e / (e + e**2), 1, 1])
    assert np.exp(log_likelihood(found, [2, 1, 0])[0])[0] == pytest.approx(e**2 / (e**2 + e))
