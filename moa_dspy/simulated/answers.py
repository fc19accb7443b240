"""What a simulated model makes of a prompt: whether it knows the answer, what it says instead, whom it believes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

from moa_dspy.simulated.draws import pick, uniform
from moa_dspy.simulated.models import JUDGEMENT, SimulatedModel
from moa_dspy.simulated.prompts import Prompt
from moa_dspy.simulated.proposals import Shown, group, read_proposals
from moa_dspy.simulated.questions import Question, find_questions, recognize

UNKNOWN = "I am a simulated model: I know the bundled questions, others worded like them, and simple arithmetic."
"""The answer to anything else."""

# The difficulty of a question is this share of what decides whether a model knows it; the rest is the model's own.
SHARED_DIFFICULTY = 0.2
# Of many seeds, the one by which the named models score close to their declared skills on the bundled questions.
EDITION = 11553
# How often a mistake is the most popular one: two models that err then agree in about 6 of 10 cases.
POPULAR = 0.75


@dataclass(frozen=True)
class Belief:
    """What a model thinks after reading a prompt.

    Attributes:
        answer: What it would answer.
        reasoning: One sentence on how it got there.
        confidence: Its probability of being right, 0 when it does not know the question.
        proposals: The proposals it was shown.
        kept: The proposal it goes with, if it was shown any.
    """

    answer: str
    reasoning: str
    confidence: float
    proposals: tuple[Shown, ...] = ()
    kept: Shown | None = None


def believe(model: SimulatedModel, prompt: Prompt, sample: str = "") -> Belief:
    """Return what the model makes of the prompt.

    Args:
        model: Who reads.
        prompt: What it reads.
        sample: Which of its answers is asked for; `""` is the one it gives at temperature 0.
    """
    proposals = tuple(shown for text in prompt.inputs.values() for shown in read_proposals(text))
    question = question_in(prompt)
    if question is None:
        return _agree(proposals) if proposals else Belief(UNKNOWN, UNKNOWN, 0.0)
    mind = _Mind(model, question, sample)
    demos = sum(lesson(*demo) == question.kind for demo in prompt.demos)
    skill = model.skill(question.kind, prompt.instructions, demos)
    knows = mind.knowledge < skill
    if not proposals:
        answer = question.answer if knows else mind.mistake()
        return Belief(answer, f"A question of {question.kind}: working through it gives {answer}", skill)
    judges = uniform(*mind.key, "judges") < model.skill(JUDGEMENT, prompt.instructions, demos)
    right = next((shown for shown in proposals if shown.gives(question.answer)), None)
    kept = right if right and judges else group(proposals)[0][0]
    answer = question.answer if knows and judges else kept.answer
    reasoning = f"A question of {question.kind}: I compared {len(proposals)} proposals and come to {answer}"
    return Belief(answer, reasoning, skill, proposals, kept)


def question_in(prompt: Prompt) -> Question | None:
    """Return the one question that the inputs ask, or None if they ask none or several."""
    texts = [text for text in prompt.inputs.values() if not read_proposals(text)]
    whole = next(filter(None, map(recognize, texts)), None)
    return whole or next(filter(None, map(_only_question, texts)), None)


@lru_cache(maxsize=4096)
def lesson(asked: str, answered: str) -> str | None:
    """Return the kind of question that a demo teaches: one it asks and answers correctly."""
    return next((question.kind for question in find_questions(asked) if holds(answered, question.answer)), None)


def holds(text: str, answer: str) -> bool:
    """Whether the text has the answer in a place of its own, as adapters and optimizers write field values."""
    return bool(re.search(rf"(?:^|: |>)\"?{re.escape(answer)}\"?,?\s*(?:$|<)", text, re.MULTILINE | re.IGNORECASE))


@lru_cache(maxsize=512)
def _only_question(text: str) -> Question | None:
    found = find_questions(text)
    return found[0] if len(found) == 1 else None


def _agree(proposals: tuple[Shown, ...]) -> Belief:
    kept = group(proposals)[0][0]
    return Belief(kept.answer, f"{kept.label} has the most support", 0.0, proposals, kept)


class _Mind:
    """The draws of one model about one question."""

    def __init__(self, model: SimulatedModel, question: Question, sample: str) -> None:
        text = question.text.casefold()
        steady = sample and uniform(EDITION, model.name, text, sample, "steady") < model.steadiness
        self.question = question
        self.key = (EDITION, model.name, text, "" if steady else sample)

    @property
    def knowledge(self) -> float:
        """How hard the model finds the question, uniform between 0 and 1; it knows what is below its skill."""
        shared, own = uniform(EDITION, self.question.text.casefold(), "difficulty"), uniform(*self.key, "knows")
        normal = NormalDist()
        return normal.cdf(
            SHARED_DIFFICULTY**0.5 * normal.inv_cdf(shared) + (1 - SHARED_DIFFICULTY) ** 0.5 * normal.inv_cdf(own)
        )

    def mistake(self) -> str:
        """Return the wrong answer that the model gives."""
        popular, *others = self.question.mistakes
        if not others or uniform(*self.key, "popular") < POPULAR:
            return popular
        return pick(others[:3], *self.key, "mistake")
