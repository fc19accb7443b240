"""Mixtures of fakes that give planted answers to numbered questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import dspy
import numpy as np

from moa_dspy import Agent, MoA
from moa_dspy.optimizers import VoteMatrix

from .fake_lm import FakeLM
from .mixtures import QA, question


def examples(gold: Sequence[Any]) -> list[dspy.Example]:
    """Question `q0`, `q1`, ... with these gold answers."""
    return [dspy.Example(question=f"q{n}", answer=answer).with_inputs("question") for n, answer in enumerate(gold)]


def voters(answers: Mapping[str, Sequence[Any]], signature: Any = QA, **options: Any) -> tuple[MoA, dict[str, FakeLM]]:
    """A vote of models that give these answers to `q0`, `q1`, ...; an exception among them is raised."""
    lms = {name: FakeLM(name, _says(given)) for name, given in answers.items()}
    proposers = [Agent(lm, name=name) for name, lm in lms.items()]
    return MoA(signature, proposers, **{"strategy": "voting", **options}), lms


def matrix(answers: Mapping[str, Sequence[int]], gold: Sequence[int] | None = None) -> VoteMatrix:
    """A matrix of these answers; right is 0, or what `gold` says."""
    table = np.array(list(answers.values())).T
    right = np.zeros(len(table)) if gold is None else np.array(gold)
    return VoteMatrix(list(answers), table, (table == right[:, None]).astype(float))


def planted(accuracies: Mapping[str, float], questions: int = 2000, alternatives: int = 9, seed: int = 0) -> VoteMatrix:
    """Independent voters of these accuracies, whose errors spread evenly over so many wrong answers."""
    random = np.random.default_rng(seed)
    wrong = random.integers(1, alternatives + 1, size=(questions, len(accuracies)))
    table = np.where(random.random(wrong.shape) < list(accuracies.values()), 0, wrong)
    return VoteMatrix(list(accuracies), table, (table == 0).astype(float))


def _says(given: Sequence[Any]) -> Any:
    def answer(prompt: str) -> Any:
        said = given[int(question(prompt).removeprefix("q"))]
        return said if isinstance(said, BaseException) else {"reasoning": "so", "answer": said}

    return answer
