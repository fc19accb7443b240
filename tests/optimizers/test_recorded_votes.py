"""Weights, committees and advice on recorded answers of real models, where the recordings are at hand."""

from collections.abc import Mapping
from typing import Any

import dspy
import numpy as np
import pytest
from support.openai_server import OpenAIServer
from support.recorded import load, question_of, recorded_answers, recordings_dir

from moa_dspy import Agent, MoA
from moa_dspy.evaluation import evaluate
from moa_dspy.optimizers import (
    MISSING,
    FitVoteWeights,
    VoteMatrix,
    best_committees,
    dawid_skene,
    fit_log_odds,
    pick,
    recommend,
    vote_scores,
)

pytestmark = pytest.mark.skipif(recordings_dir() is None, reason="the recordings (../shared/recordings) are not here")


def recorded(task: str, *models: str) -> VoteMatrix:
    """What is recorded, without asking for it: these models, by the beginnings of their names, or all."""
    rows = load(task)
    names = [name for name in rows[0]["outputs"] if not models or name.startswith(models)]
    keys = [[row["outputs"][name].get("key", row["outputs"][name]["answer"]) for name in names] for row in rows]
    answers = [[MISSING if key is None else line.index(key) for key in line] for line in keys]
    scores = [[row["outputs"][name]["correct"] for name in names] for row in rows]
    return VoteMatrix(names, np.array(answers), np.array(scores, dtype=float))


def score(found: VoteMatrix, weights: Mapping[str, float]) -> float:
    return float(vote_scores(found, found.weights(weights)).mean())


def halves(found: VoteMatrix, learn: int) -> tuple[VoteMatrix, VoteMatrix]:
    order = np.random.default_rng(0).permutation(len(found))
    return found.rows(order[:learn]), found.rows(order[learn:])


def test_the_plurality_is_that_of_the_recordings() -> None:
    # Of the recordings' README; there ties go to the strongest.
    for task, share in {"gsm": 0.964, "math-l5": 0.596, "crux": 0.787}.items():
        found = recorded(task)
        strongest = 1 + 1e-6 * found.solo.mean(axis=0)
        assert round(float(vote_scores(found, strongest).mean()), 3) == pytest.approx(share, abs=0.002)


def test_weights_spare_open_answers_where_plain_log_odds_do_not() -> None:
    learn, judge = halves(recorded("math-l5"), 144)
    plurality = score(judge, dict.fromkeys(judge.names, 1.0))
    assert score(judge, fit_log_odds(learn).weights) > plurality - 0.01
    assert score(judge, fit_log_odds(learn, alternatives=9.0).weights) > plurality - 0.01
    assert score(judge, dawid_skene(learn).weights) > plurality - 0.01
    assert score(judge, fit_log_odds(learn, alternatives=1.0).weights) < plurality - 0.05


def test_a_committee_beats_the_best_model_where_many_are_nearly_as_good() -> None:
    learn, judge = halves(recorded("math-l5"), 144)
    committees = best_committees(learn)
    chosen = committees[pick([made.scores for made in committees], [made.calls for made in committees])]
    single = judge.solo[:, learn.solo.mean(axis=0).argmax()].mean()
    assert chosen.calls >= 4 and score(judge, chosen.weights) > single + 0.05


def test_one_model_is_taken_where_the_others_are_weak() -> None:
    learn, _ = halves(recorded("crux", "gpt-4o-mini", "Qwen2", "gemini", "gemma"), 400)
    committees = best_committees(learn)
    chosen = committees[pick([made.scores for made in committees], [made.calls for made in committees], 1.0)]
    assert chosen.agents == ("gpt-4o-mini-2024-07-18",)
    mixtures = {"vote": vote_scores(learn, np.ones(4))[0]}
    advice = recommend(
        dict(zip(learn.names, learn.solo.T, strict=True)), mixtures, {**dict.fromkeys(learn.names, 1), "vote": 4}
    )
    assert (advice.verdict, advice.system) == ("single", "gpt-4o-mini-2024-07-18")


def test_what_comes_over_http_is_what_is_recorded() -> None:
    rows = load("math-l5")[:25]
    with OpenAIServer(recorded_answers(rows)) as server:
        at: Any = {"api_base": server.url, "api_key": "none", "cache": False}
        proposers = [Agent(dspy.LM(f"openai/{name}", **at)) for name in rows[0]["outputs"]]
        moa = MoA("question -> answer", proposers, strategy="voting")
        examples = [dspy.Example(question=question_of(row), answer=row["gold_key"]) for row in rows]
        trainset = [example.with_inputs("question") for example in examples]
        comparison = evaluate(moa, trainset, strategies=(), aggregator_alone=False)
        asked, optimizer = len(server.requests), FitVoteWeights()
        optimizer.compile(moa, trainset=trainset, recorded=comparison)
        assert len(server.requests) == asked
    served, direct = VoteMatrix.of(comparison.records, moa), recorded("math-l5").rows(slice(None, 25))
    assert (served.scores == direct.scores).all() and ((served.answers < 0) == (direct.answers < 0)).all()
    same = served.answers[:, :, None] == served.answers[:, None, :]
    assert (same == (direct.answers[:, :, None] == direct.answers[:, None, :])).all()
    report: Any = optimizer.report
    assert [row.weight for row in report.agents] == pytest.approx(list(fit_log_odds(direct).weights.values()))
