import math
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.teleprompt import Teleprompter
from support.voters import examples, voters

from moa_dspy.optimizers import Bagging, Boosting


class Notes(Teleprompter):
    """Writes down what it is given to learn from, and puts the number of the proposer into its prompt."""

    def __init__(self, note: Callable[[list[str]], int]) -> None:
        super().__init__()
        self.note = note  # a function: each stage has a copy of the optimizer

    def compile(self, student: dspy.Module, *, trainset: list[dspy.Example], **others: Any) -> dspy.Module:
        number = self.note([example.question for example in trainset])
        predictors: list[Any] = student.predictors()
        for predictor in predictors:
            predictor.signature = predictor.signature.with_instructions(f"Prompt {number}.")
        return student


GOLD = ["a", "b", "c", "d"]


def compiled(kind: type[Bagging]) -> tuple[Any, list[list[str]], Any]:
    moa, _ = voters({"ada": ["a", "b", "c", "x"]})
    seen: list[list[str]] = []

    def note(drawn: list[str]) -> int:
        seen.append(drawn)
        return len(seen)

    optimizer = kind("exact", proposers=3, optimizer=Notes(note))
    return optimizer.compile(moa, trainset=examples(GOLD)), seen, optimizer


def test_bagging_draws_anew_for_each_proposer() -> None:
    tuned, seen, optimizer = compiled(Bagging)
    assert [agent.name for agent in tuned.panels[0].agents] == ["ada_1", "ada_2", "ada_3"]
    assert [part.signature.instructions for part in tuned.predictors()] == ["Prompt 1.", "Prompt 2.", "Prompt 3."]
    assert all(len(drawn) == 4 for drawn in seen) and len({tuple(drawn) for drawn in seen}) == 3
    assert seen == compiled(Bagging)[1] and tuned.strategy.weights == {}
    assert [stage.name for stage in optimizer.report.stages] == ["ada_1", "ada_2", "ada_3"]
    assert optimizer.report.judged_on == optimizer.report.to_dict()["judged_on"] == "trainset"  # there was no valset


def test_boosting_draws_what_is_got_wrong_and_weighs_the_votes() -> None:
    tuned, seen, _ = compiled(Boosting)
    first = (0.25 * 4 + 0.5) / 5
    assert tuned.strategy.weights["ada_1"] == pytest.approx(math.log((1 - first) / first) + math.log(9))
    assert seen[2].count("q3") > seen[0].count("q3")  # the one that is always wrong


def test_several_proposers_are_refused() -> None:
    moa, _ = voters({"ada": [], "bo": []})
    with pytest.raises(ValueError, match=r"several proposers of one .* has ada, bo"):
        Bagging("exact").compile(moa, trainset=examples(GOLD))
