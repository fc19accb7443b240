from pathlib import Path
from typing import Any

import pytest
from support.cases import mixture_of, told
from support.fake_lm import FakeLM
from support.mixtures import Ask, both_ways

from moa_dspy import MoA, Revision, Selection, Voting

QA = "question -> answer"
SAME: list[dict[str, Any]] = [{"answer": "x"}, {"answer": "x"}]
MENDED = {"critique": "too short", "answer": "xx"}


@both_ways
def test_a_draft_is_criticised_and_written_anew(ask: Ask) -> None:
    judge = FakeLM("judge", [MENDED])
    pred = ask(mixture_of(QA, SAME, judge, strategy=Revision(["Be long."], Voting())), question="why?")
    assert (pred.answer, pred.reasoning, pred.metadata.strategy) == ("xx", "too short", "revision")
    assert (pred.metadata.selected, pred.metadata.usage.calls, pred.metadata.fallback_used) == (None, 3, False)
    assert "- Be long." in judge.prompts[0] and "x" in told(judge)["proposals"]


def test_a_revision_that_fails_falls_back_to_the_vote() -> None:
    judge = FakeLM("judge", ["no reply", "none", "none", "none"])
    pred = mixture_of(QA, SAME, judge, strategy=Revision(draft=Voting()))(question="why?")
    assert (pred.answer, pred.metadata.fallback_used, pred.metadata.answered_by) == ("x", True, "voting")


def test_it_is_saved_with_its_draft_and_its_principles(tmp_path: Path) -> None:
    def made(*given: Any) -> MoA:
        return MoA(QA, ["simulated/alice", "simulated/bob"], "simulated/judge", Revision(*given))

    made(["Be long."], Selection(rotations=3)).save(tmp_path / "moa.json")
    other = made(["Be short."], Selection())
    other.load(tmp_path / "moa.json")
    for moa in (MoA.from_file(tmp_path / "moa.json"), other):
        strategy: Any = moa.strategy
        assert (strategy.principles, strategy.draft.rotations) == (["Be long."], 3)
    with pytest.raises(ValueError, match="revision of selection in the file and revision of synthesis here"):
        made().load(tmp_path / "moa.json")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"principles": []}, "against no sentence"),
        ({"principles": "Be brief."}, "against no sentence"),
        ({"draft": "voting"}, "no Strategy"),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError), match=error):
        Revision(**given)
