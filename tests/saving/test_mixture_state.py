"""A mixture's settings in files, its own and those of a program around it."""

from pathlib import Path
from typing import Any

import dspy
import pytest
from support.mixtures import QA
from support.saved import real, rewritten, state_in

from moa_dspy import Agent, MoA, Strategy, Verdict

SECRET = "planted-" + "s3cret"


class Remote(Strategy):
    """A strategy of somebody's own, with what must not be told."""

    name = "remote"

    def __init__(self, api_key: str = "", url: str = "", limit: float = 1.0, rounds: int = 1) -> None:
        super().__init__()
        self.api_key, self.url, self.limit, self.rounds = api_key, url, limit, rounds

    def decide(self, case: Any) -> Verdict:
        return Verdict(case.proposals[0].outputs)


class Own(dspy.Module):
    """A program that brings its LM."""

    def __init__(self, lm: dspy.BaseLM) -> None:
        super().__init__()
        self.answer = dspy.Predict(QA)
        self.answer.set_lm(lm)


class Outer(dspy.Module):
    """A program around a mixture."""

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.inner = moa


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "moa.json"


def test_a_strategys_secrets_are_in_no_file_and_stay_where_they_are(file: Path) -> None:
    real("a", strategy=Remote(SECRET, f"https://me:{SECRET}@host", float("inf"), rounds=3)).save(file)
    assert SECRET not in file.read_text()
    assert state_in(file)["moa_dspy"]["strategy"]["options"] == {"rounds": 3}
    moa: Any = real("a", strategy=Remote("mine", "https://host", 2.0))
    moa.load(file)
    assert vars(moa.strategy).items() >= {"api_key": "mine", "url": "https://host", "limit": 2.0, "rounds": 3}.items()


@pytest.mark.parametrize("name", ["decide", "history", "self", "__class__"])
def test_only_options_are_taken_from_a_file(file: Path, name: str) -> None:
    moa = real("a", strategy=Remote())
    moa.save(file)
    block = state_in(file)["moa_dspy"]
    block["strategy"]["options"][name] = 5
    rewritten(file, {"moa_dspy": block})
    with pytest.raises(ValueError, match=rf"moa\.json: The file has options that remote does not know: {name}\."):
        moa.load(file)


def test_synthesis_has_no_options(file: Path) -> None:
    real("a").save(file)
    assert state_in(file)["moa_dspy"]["strategy"] == {"name": "synthesis"}


class TestInAnotherProgram:
    @pytest.mark.parametrize("name", ["moa.json", "moa.pkl"])
    def test_lms_with_secrets_on_predictors_are_refused(self, tmp_path: Path, name: str) -> None:
        outer = Outer(MoA(QA, [Own(dspy.LM("openai/a", extra_headers={"X": SECRET}))], "openai/judge"))
        words = r"LM of proposers\.own\.program\.answer as it is, with extra_headers\. Give the LM to the agent"
        with pytest.raises(ValueError, match=words):
            outer.save(tmp_path / name)
        assert [*tmp_path.iterdir()] == []

    def test_keys_are_no_obstacle(self, file: Path) -> None:
        lm = dspy.LM("openai/a", api_key=SECRET)
        Outer(MoA(QA, [Own(lm), Agent("openai/b", extra_headers={"X": SECRET})], lm)).save(file)
        assert SECRET not in file.read_text()

    def test_the_mixtures_own_save_leaves_them_out(self, file: Path) -> None:
        inner = MoA(QA, [Own(dspy.LM("openai/a", extra_headers={"X": SECRET}))], "openai/judge")
        MoA(QA, [Agent(program=inner, name="inner")], "openai/judge").save(file)
        assert SECRET not in file.read_text()
