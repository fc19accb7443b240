"""Mixtures of fakes that give planted answers to numbered questions, and recordings of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import dspy
import numpy as np

from moa_dspy import Agent, MoA, Recording

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


def planted(
    accuracies: Mapping[str, float], questions: int = 300, alternatives: int = 9, seed: int = 0
) -> tuple[MoA, list[dspy.Example], Recording]:
    """A recording of independent voters of these accuracies, whose errors spread evenly over so many wrong answers.

    Right is 0. Nobody can be asked.
    """
    random = np.random.default_rng(seed)
    wrong = random.integers(1, alternatives + 1, size=(questions, len(accuracies)))
    table = np.where(random.random(wrong.shape) < list(accuracies.values()), 0, wrong).astype(str)
    asked = examples(["0"] * questions)
    answers = {name: column.tolist() for name, column in zip(accuracies, table.T, strict=True)}
    moa = MoA(QA, [Agent(FakeLM(name, []), name=name) for name in accuracies], strategy="voting")
    return moa, asked, Recording.from_answers(answers, asked, QA)


def _says(given: Sequence[Any]) -> Any:
    def answer(prompt: str) -> Any:
        said = given[int(question(prompt).removeprefix("q"))]
        return said if isinstance(said, BaseException) else {"reasoning": "so", "answer": said}

    return answer
