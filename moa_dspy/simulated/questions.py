"""The bundled questions, with computed answers, and what recognises a question in a text."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import chain, zip_longest

import dspy

from moa_dspy.simulated.question_arithmetic import read_arithmetic
from moa_dspy.simulated.question_bank import TEMPLATES
from moa_dspy.simulated.question_template import Question

__all__ = ["KINDS", "Question", "bundled_questions", "find_questions", "recognize", "same_answer"]

KINDS: tuple[str, ...] = tuple(dict.fromkeys(template.kind for template in TEMPLATES))


def bundled_questions() -> list[dspy.Example]:
    """Return 120 questions of six kinds, 20 of each, in an order that takes turns between the kinds.

    The answers are short strings, computed (the capitals: looked up). They are the same in every process.

    Returns:
        Examples with `question` (the input), `answer` and `kind`.

    Example:
        >>> example = bundled_questions()[5]
        >>> example.question, example.answer, example.kind
        ('What is the capital of New Zealand?', 'Wellington', 'geography')
    """
    return [
        dspy.Example(question=question.text, answer=question.answer, kind=question.kind).with_inputs("question")
        for question in _bundled().values()
    ]


def recognize(text: str) -> Question | None:
    """Return what is known of a question: a bundled one, one of a bundled wording, or plain arithmetic.

    Args:
        text: The question and nothing else; spacing and case do not matter.

    Example:
        >>> recognize("how many minutes are there in 7 hours?").answer
        '420'
    """
    # Documents are no questions, and would fill the memory that the cache may take.
    return _recognized(" ".join(text.split())) if len(text) < 1000 else None


def find_questions(text: str) -> list[Question]:
    """Return the questions of bundled wordings inside a longer text, in the order they stand in.

    Example:
        >>> [question.answer for question in find_questions("Q: What is the capital of India? A: ?")]
        ['New Delhi']
    """
    text = " ".join(text.split())
    found = chain.from_iterable(template.find(text) for template in TEMPLATES)
    return [question for _, question in sorted(found, key=lambda place: place[0])]


def same_answer(one: str, other: str) -> bool:
    """Whether two answers differ at most in case, spacing, closing punctuation or the writing of a number.

    Example:
        >>> same_answer("1,200.0", "1200"), same_answer("Bern.", "bern"), same_answer("5", "-5")
        (True, True, False)
    """
    return _canonical(one) == _canonical(other)


@lru_cache(maxsize=4096)
def _recognized(text: str) -> Question | None:
    if known := _bundled().get(text.casefold()):
        return known
    return next(filter(None, (template.read(text) for template in TEMPLATES)), None) or read_arithmetic(text)


def _canonical(answer: str) -> str | float:
    text = " ".join(answer.split()).casefold().rstrip(".!?;, ")
    number = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    return float(number) if re.fullmatch(r"[-+]?\d+(\.\d+)?", number) else text


@lru_cache(maxsize=1)
def _bundled() -> dict[str, Question]:
    of_kind = [[q for template in TEMPLATES if template.kind == kind for q in template.generate()] for kind in KINDS]
    turns = chain.from_iterable(zip_longest(*of_kind))
    return {question.text.casefold(): question for question in turns if question is not None}
