import io
import json
import math
import os
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import pytest
from rich.console import Console
from support.fake_engine import current_rollout
from support.fake_lm import FakeLM
from support.mixtures import calls, question
from support.voters import examples, planted, voters

from moa_dspy import Agent, MoA, Recording, Selection, evaluate
from moa_dspy.evaluation import wilson
from moa_dspy.optimizers import ProposersUnreachable, diagnose, diagnosis_budget
from moa_dspy.recording import RecordingInterrupted

recommend: Any = import_module("moa_dspy.optimizers.diagnose").recommend

GOLD = ["0"] * 60
TRIO = {name: [str(n) if n % 3 == at else "0" for n in range(1, 61)] for at, name in enumerate(["ada", "bo", "cy"])}


def diversity(answers: dict[str, list[Any]]) -> Any:
    """How these answers fail together; right is 0."""
    asked = examples(["0"] * len(next(iter(answers.values()))))
    moa, _ = voters({name: [] for name in answers})
    recording = Recording.from_answers(answers, asked)
    return diagnose(moa, asked, strategies=["voting"], self_moa=False, recorded=recording).diversity


def test_the_correlation_of_errors_is_the_phi_coefficient() -> None:
    # Both right 4 times, only one 1 and 2 times, neither 3 times.
    one, other = ["0"] * 5 + ["1"] * 5, ["0"] * 4 + ["1"] + ["0"] * 2 + ["1"] * 3
    phi = (4 * 3 - 1 * 2) / math.sqrt(5 * 5 * 6 * 4)
    found = diversity({"ada": one, "bo": other, "cy": ["0"] * 10})
    assert found.correlation == [
        [pytest.approx(1.0), pytest.approx(phi), None],
        [pytest.approx(phi), pytest.approx(1.0), None],
        [None] * 3,
    ]
    assert found.effective == pytest.approx(3 / (1 + 2 * phi))


def test_identical_voters_are_one_and_independent_ones_are_many() -> None:
    moa, asked, recording = planted({"ada": 0.6, "bo": 0.7, "cy": 0.8}, 150)
    apart = diagnose(moa, asked, strategies=[], self_moa=False, recorded=recording).diversity
    assert apart.effective == pytest.approx(3.0, abs=0.25)
    alone = [row.proposals[0].outputs["answer"] for row in recording]
    assert diversity({"ada": alone, "bo": alone, "cy": alone}).effective == pytest.approx(1.0)


def test_what_proposals_share() -> None:
    answers: Any = {"ada": list("01110"), "bo": ["0", "1", "2", "", "1"], "cy": ["0", "2", "2", None, "0"]}
    found = diversity(answers)
    assert (found.all_fail, found.all_fail_interval) == (0.6, wilson(3, 5))
    assert (found.same_error[0][1], found.same_error[1][2], found.same_error[0][2]) == (0.5, 0.5, 0.0)


def test_what_is_ahead_is_used_and_said_whether_it_is_proven() -> None:
    single, none = np.tile([1.0, 0.0], 100), np.zeros(200)
    vote = np.tile([1.0, 0.0, 1.0, 1.0], 50)
    shown = recommend({"a": single, "b": none}, {"vote": vote}, {"a": 1, "b": 1, "vote": 3})
    assert (shown.verdict, shown.system, shown.calls, shown.gain) == ("mix", "vote", 3, 0.25)
    assert shown.interval.low > 0 and shown.reason.startswith("Use vote: +0.250")
    equal = recommend({"a": single}, {"vote": single}, {"a": 1, "vote": 3}, percent=True)
    assert (equal.verdict, equal.system, equal.calls) == ("single", "a", 1)
    assert equal.reason.startswith("Ask a alone: the best mixture, vote, gains nothing, +0.0 points")
    ahead = single.copy()
    ahead[1] = 1.0  # one question of 200
    maybe = recommend({"a": single}, {"vote": ahead}, {"a": 1, "vote": 3})
    assert (maybe.verdict, maybe.system) == ("unclear", "vote") and "may be chance" in maybe.reason


def test_of_equal_systems_the_cheaper_one_is_meant_and_one_alone_is_no_mixture() -> None:
    right, wrong = np.ones(50), np.zeros(50)
    assert recommend({"a": wrong}, {"dear": right, "cheap": right}, {"a": 1, "dear": 9, "cheap": 2}).system == "cheap"
    assert recommend({"a": right}, {}, {"a": 1}).reason == "Ask a alone: there is no mixture to compare it with."


def sampled(name: str, says: Any) -> FakeLM:
    """A model whose further samples differ."""

    def answer(prompt: str) -> Any:
        return {"reasoning": "so", "answer": says(int(question(prompt)[1:]), current_rollout.get())}

    return FakeLM(name, answer)


def test_a_diagnosis() -> None:
    moa, lms = voters(TRIO)
    found: Any = diagnose(moa, examples(GOLD), strategies=["voting"])
    systems = ["ada", "bo", "cy", "plain vote", "voting", "Self-MoA of ada", "oracle"]
    assert [row.name for row in found.comparison.rows] == systems
    assert (found.recommendation.verdict, found.recommendation.system) == ("mix", "plain vote")
    assert found.diversity.mean_correlation == pytest.approx(-0.5) and found.diversity.effective == 3.0
    assert [(made.calls, made.agents) for made in found.committees][2] == (3, ("ada", "bo", "cy"))
    assert found.control == "Self-MoA: ada, the best proposer, asked 3 times per question, as often as the panel."
    assert calls(lms) == {"ada": 60 + 180, "bo": 60, "cy": 60} and found.comparison.usage.calls == 360


def test_self_moa_is_the_control() -> None:
    ada = sampled("ada", lambda n, rollout: "0" if rollout or n % 2 else "1")
    bo = sampled("bo", lambda n, rollout: "0" if n % 3 == 1 else "2")
    proposers = [Agent(ada, name="ada"), Agent(bo, name="bo")]
    moa = MoA("question -> answer", proposers, strategy="voting", num_proposals_per_model=2)
    settings: Any = {"strategies": ["voting"], "self_moa": True}
    found: Any = diagnose(moa, examples(GOLD[:20]), **settings)
    control = found.comparison.row("Self-MoA of ada")
    assert (control.kind, control.score, control.calls) == ("other", 1.0, 4)
    assert found.recommendation.system == "Self-MoA of ada"
    assert found.reasons[-1].startswith("Self-MoA: ada") and "plain vote, gains -0.350" in found.reasons[-1]
    assert ada.calls + bo.calls == found.comparison.usage.calls == diagnosis_budget(moa, 20, **settings).calls == 160


def test_ctrl_c_during_the_control_loses_no_proposal() -> None:
    def interrupts(n: int, rollout: Any) -> str:
        if rollout and n == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return "0"

    proposers = [Agent(sampled(name, interrupts), name=name) for name in ("ada", "bo")]
    with pytest.raises(RecordingInterrupted) as caught:
        diagnose(MoA("question -> answer", proposers, strategy="voting"), examples(GOLD[:20]), strategies=[])
    assert len(caught.value.recording) == 20


def test_the_control_is_judged_by_the_mixtures_own_strategy() -> None:
    ada = sampled("ada", lambda n, rollout: str(rollout or 0))
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "0", "choice": "P1"})
    moa = MoA("question -> answer", [Agent(ada, name="ada"), Agent(sampled("bo", lambda n, r: "9"), name="bo")], judge)
    found: Any = diagnose(moa, examples(GOLD[:4]), strategies=["synthesis"])
    assert found.comparison.row("Self-MoA of ada").calls == 3
    asked, again = judge.calls, diagnose(moa, examples(GOLD[:4]), strategies=["synthesis"], self_moa=False,
                                         recorded=found.comparison.recording)  # fmt: skip
    assert judge.calls == asked and again.comparison.row("synthesis").score == 1.0


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda lm: MoA("question -> answer", [Agent(lm, name="ada")], strategy="voting"), "asks one model only"),
        (lambda lm: voters({"ada": GOLD, "bo": GOLD}, layers=2, strategy="voting")[0], "several layers"),
        (
            lambda lm: MoA("question -> answer", [lm, FakeLM("bo", lm._fake.answers)], strategy="voting"),
            "temperature 0",
        ),
    ],
)
def test_where_there_is_no_control_it_says_so(build: Any, why: str) -> None:
    moa = build(FakeLM("ada", lambda prompt: {"reasoning": "so", "answer": "0"}, temperature=0.0))
    found: Any = diagnose(moa, examples(GOLD[:3]), strategies=["voting"])
    assert found.control.startswith("No Self-MoA: ") and why in found.control


def test_what_is_shown(tmp_path: Path) -> None:
    moa, _ = voters(TRIO)
    found: Any = diagnose(moa, examples(GOLD), strategies=["voting"], self_moa=False)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(found.table(80))
    shown = console.export_text()
    text = " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80
    assert "1 ada -0.50 -0.50" in text and "voting of ada, bo, cy 3 100.0%" in text
    assert "worth 3.0 independent ones" in text
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["diversity"]["correlation"][0][1] == pytest.approx(-0.5)
    assert plain["diversity"]["same_error"][0] == [1.0, None, None]
    assert plain["recommendation"]["system"] == "plain vote" and plain["committees"][2]["calls"] == 3
    assert found.plot(tmp_path / "plot.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_a_weak_aggregator_is_named() -> None:
    judge = FakeLM("judge", lambda prompt: {"reasoning": "so", "answer": "7"})
    moa, _ = voters(TRIO, aggregator=judge, strategy="synthesis")
    found: Any = diagnose(moa, examples(GOLD[:6]), strategies=["synthesis"], self_moa=False)
    assert found.reasons[2] == (
        "The aggregator's model, judge, is weaker alone (0.0%) than the best proposer, ada (66.7%)."
    )


def test_an_earlier_recording_is_not_paid_for_again() -> None:
    moa, lms = voters(TRIO)
    whole = evaluate(moa, examples(GOLD), strategies=["voting"]).recording
    before = calls(lms)
    found: Any = diagnose(moa, examples(GOLD), "contains", strategies=["voting"], self_moa=False, recorded=whole)
    assert calls(lms) == before and len(found.comparison.recording) == 60
    diagnose(moa, [*examples(GOLD), *examples(["0"] * 3)], strategies=[], self_moa=False, recorded=whole[:20])
    assert {name: count - before[name] for name, count in calls(lms).items()} == dict.fromkeys(lms, 40)


def test_a_metric_without_bounds_gives_no_committees() -> None:
    moa, _ = voters(TRIO)
    found: Any = diagnose(
        moa, examples(GOLD), lambda e, p, t=None: 5.0 * (p.answer == "0"), strategies=[], self_moa=False
    )
    assert found.committees == [] and found.recommendation.system == "plain vote"


def test_bad_input() -> None:
    down = dspy.lm15.ServerError("down")
    moa, lms = voters({"ada": ["0"] * 9, "bo": ["0"] * 3 + [down] * 6})
    with pytest.raises(ValueError, match="no strategy 'nope'"):
        diagnose(moa, examples(GOLD[:9]), strategies=["nope"])
    assert calls(lms) == {"ada": 0, "bo": 0}
    with pytest.raises(ProposersUnreachable, match="bo could not be reached for 6 of 9") as caught:
        diagnose(moa, examples(GOLD[:9]), strategies=["voting"])
    assert caught.value.recording is not None and len(caught.value.recording) == 9


def test_the_budget_is_known_beforehand() -> None:
    moa, _ = voters(TRIO, aggregator=FakeLM("judge", []), strategy=Selection(rotations=2))
    assert diagnosis_budget(moa, 10).calls == 10 * (3 + (1 + 2 + 1 + 1 + 1) + (3 + 2))
    assert diagnosis_budget(moa, 10, strategies=["selection"], self_moa=False).calls == 10 * (3 + 2 + 1)
