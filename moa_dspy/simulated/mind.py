"""What a simulated model makes of a prompt: what it knows, how it errs, whom it believes, what it advises."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import TypeVar

from moa_dspy.simulated.models import JUDGEMENT, SIMULATED_MODELS, SimulatedModel, mentions
from moa_dspy.simulated.prompts import Prompt, Shown, group, read_proposals
from moa_dspy.simulated.questions import KINDS, Question, find_questions, recognize

__all__ = ["Belief", "believe", "improve"]

T = TypeVar("T")

# A vote counts it as an abstention.
UNKNOWN = "I'm sorry, but I can't answer that: a simulated model knows its bundled questions, arithmetic and capitals."

# The difficulty of a question is this share of what decides whether a model knows it; the rest is the model's own.
SHARED_DIFFICULTY = 0.2
# Of many seeds, the one by which the named models score close to their declared skills on the bundled questions.
EDITION = 11553
# How often a mistake is the most popular one: two models that err then agree in about 6 of 10 cases.
POPULAR = 0.75
# How many kinds of questions one proposed instruction gives a hint on.
HINTS = 3


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
    question = _question_in(prompt)
    if question is None:
        return _follow(proposals) if proposals else Belief(UNKNOWN, UNKNOWN, 0.0)
    sure = not question.mistakes
    key = _key(model, question, sample)
    demos = sum(_kind_taught(*demo) == question.kind for demo in prompt.demos)
    skill = 1.0 if sure else model.skill(question.kind, prompt.instructions, demos)
    knows = sure or _difficulty(question, key) < skill
    if not proposals:
        answer = question.answer if knows else _mistake(question, key)
        return Belief(answer, f"A question of {question.kind}: working through it gives {answer}", skill)
    judges = sure or _uniform(*key, "judges") < model.skill(JUDGEMENT, prompt.instructions, demos)
    right = next((shown for shown in proposals if shown.gives(question.answer)), None)
    kept = right if right and judges else group(proposals)[0][0]
    answer = question.answer if knows and judges else kept.answer
    reasoning = f"A question of {question.kind}: I compared {len(proposals)} proposals and come to {answer}"
    return Belief(answer, reasoning, skill, proposals, kept)


def improve(instruction: str, evidence: str, sample: str = "") -> str:
    r"""Return the instruction with hints on the questions that were answered wrongly, or on any.

    The hints are phrases that the named models declare. The model does not know which of them will read the
    instruction: so an optimizer has something to find out, and something to gain from the right prompt.

    Args:
        instruction: The present instruction; hints that it has already are not repeated.
        evidence: Examples of questions, with the answers that were given.
        sample: Which of its proposals is asked for.

    Example:
        >>> improve("Answer.", "# Example 1\nWhat is 15 degrees Celsius in degrees Fahrenheit?\n### answer\n9")
        'Answer.\nFor units: convert to the smallest unit.'
    """
    key = (instruction, evidence, sample)
    hints = []
    for kind in _shuffle(_weak_kinds(evidence), *key)[:HINTS]:
        fresh = [phrase for phrase in _helpful_phrases(kind) if not mentions(instruction, phrase)]
        if fresh:
            hints.append(f"For {kind}: {_pick(fresh, *key, kind)}.")
    return "\n".join(filter(None, [instruction, *hints]))


def _question_in(prompt: Prompt) -> Question | None:
    """Return the one question that the inputs ask, or None if they ask none or several."""
    texts = [text for text in prompt.inputs.values() if not read_proposals(text)]
    whole = next(filter(None, map(recognize, texts)), None)
    return whole or next(filter(None, map(_only_question, texts)), None)


@lru_cache(maxsize=512)
def _only_question(text: str) -> Question | None:
    found = find_questions(text)
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=4096)
def _kind_taught(asked: str, answered: str) -> str | None:
    """Return the kind of question that a demo teaches: one it asks and answers correctly."""
    return next((question.kind for question in find_questions(asked) if _holds(answered, question.answer)), None)


def _follow(proposals: tuple[Shown, ...]) -> Belief:
    """Go with the most supported of the proposals that answer at all."""
    answering = [shown for shown in proposals if shown.answer != UNKNOWN]
    kept = group(answering or proposals)[0][0]
    return Belief(kept.answer, f"{kept.label} has the most support", 0.0, proposals, kept)


def _key(model: SimulatedModel, question: Question, sample: str) -> tuple[object, ...]:
    """Return what the model's draws about a question depend on."""
    text = question.text.casefold()
    steady = sample and _uniform(EDITION, model.name, text, sample, "steady") < model.steadiness
    return EDITION, model.name, text, "" if steady else sample


def _difficulty(question: Question, key: tuple[object, ...]) -> float:
    """Return how hard the model finds the question, uniform between 0 and 1; it knows what is below its skill."""
    shared, own = _uniform(EDITION, question.text.casefold(), "difficulty"), _uniform(*key, "knows")
    normal = NormalDist()
    return normal.cdf(
        SHARED_DIFFICULTY**0.5 * normal.inv_cdf(shared) + (1 - SHARED_DIFFICULTY) ** 0.5 * normal.inv_cdf(own)
    )


def _mistake(question: Question, key: tuple[object, ...]) -> str:
    """Return the wrong answer that the model gives."""
    popular, *others = question.mistakes
    if not others or _uniform(*key, "popular") < POPULAR:
        return popular
    return _pick(others[:3], *key, "mistake")


def _weak_kinds(evidence: str) -> Sequence[str]:
    """Return the kinds that most need a hint."""
    missed: Counter[str] = Counter()
    for example in re.split(r"^# Example \d+$", evidence, flags=re.MULTILINE)[1:]:
        # The feedback is left out: it may name the right answer.
        answer = example.partition("## Generated Outputs")[2].partition("## Feedback")[0] or example
        missed.update(question.kind for question in find_questions(example)[:1] if not _holds(answer, question.answer))
    judged = [JUDGEMENT] if re.search(r"^Proposal \w+[^\n]*:\s*«««", evidence, re.MULTILINE) else []
    if missed:
        return [*judged, *(kind for kind, _ in missed.most_common(2))]
    return [*judged, *(dict.fromkeys(question.kind for question in find_questions(evidence)) or KINDS)]


def _helpful_phrases(kind: str) -> list[str]:
    hints = [model.hints.get(kind, {}) for model in SIMULATED_MODELS.values()]
    return sorted({phrase for changes in hints for phrase, change in changes.items() if change > 0})


def _holds(text: str, answer: str) -> bool:
    """Whether the text has the answer in a place of its own, as adapters and optimizers write field values."""
    return bool(re.search(rf"(?:^|: |>)\"?{re.escape(answer)}\"?,?\s*(?:$|<)", text, re.MULTILINE | re.IGNORECASE))


def _uniform(*key: object) -> float:
    """Return a number strictly between 0 and 1, the same for a key in every process and Python version."""
    digest = hashlib.blake2b("\x1f".join(map(str, key)).encode(errors="replace"), digest_size=8).digest()
    # 52 bits and a half step: exact in a float, and never 0.0 or 1.0, which an inverse normal cannot take.
    return ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52


def _pick(options: Sequence[T], *key: object) -> T:
    """Return one of the options, chosen by the key."""
    return options[int(_uniform(*key) * len(options))]


def _shuffle(options: Sequence[T], *key: object) -> list[T]:
    """Return the options in an order chosen by the key."""
    return sorted(options, key=lambda option: _uniform(*key, option))
