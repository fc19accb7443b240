"""The bundled questions with their answers, and what every simulated model knows beside them."""

from __future__ import annotations

import ast
import json
import operator
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from importlib.resources import files
from typing import Any

import dspy

__all__ = [
    "KINDS",
    "Question",
    "bundled_questions",
    "find_questions",
    "held_back_questions",
    "read_number",
    "recognize",
    "same_answer",
]

KINDS: tuple[str, ...] = ("arithmetic", "ordering", "units", "dates", "strings", "geography")


@dataclass(frozen=True)
class Question:
    """A question of one of the `KINDS` with its right answer and plausible wrong ones, the most popular first."""

    text: str
    answer: str
    kind: str
    mistakes: tuple[str, ...] = ()


def bundled_questions() -> list[dspy.Example]:
    """120 questions of six kinds, 20 of each, in an order that takes turns between the kinds.

    Returns:
        Examples with `question` (the input), `answer` (a short string) and `kind`.

    Examples:
        >>> example = bundled_questions()[5]
        >>> example.question, example.answer, example.kind
        ('What is the capital of New Zealand?', 'Wellington', 'geography')
    """
    return _examples("bundled")


def held_back_questions() -> list[dspy.Example]:
    """164 more questions, worded as the bundled ones, to measure what was learned from those.

    There are none of geography: the capitals that are got wrong are all bundled.
    """
    return _examples("held_back")


def recognize(text: str) -> Question | None:
    """What is known of a question: one of the file, plain arithmetic, or a country's capital.

    Examples:
        >>> recognize("what is 17 x 23").answer, recognize("capital of France?").answer
        ('391', 'Paris')
    """
    # Documents are no questions, and would fill the memory that the cache may take.
    return _recognize(" ".join(text.split())) if len(text) < 1000 else None


def find_questions(text: str) -> list[Question]:
    """The questions of the file that stand in a longer text, in the order they stand in."""
    text = " ".join(text.casefold().split())
    places = ((text.find(known), question) for known, question in _known().items())
    return [question for place, question in sorted(places, key=lambda found: found[0]) if place >= 0]


def same_answer(one: str, other: str) -> bool:
    """Whether two answers differ at most in case, spacing, closing punctuation or the writing of a number.

    Examples:
        >>> same_answer("1,200.0", "1200"), same_answer("Bern.", "bern"), same_answer("5", "-5")
        (True, True, False)
    """
    texts = [" ".join(text.split()).casefold().rstrip(".!?;, ") for text in (one, other)]
    numbers = [read_number(text) for text in texts]
    return texts[0] == texts[1] if None in numbers else numbers[0] == numbers[1]


def read_number(text: str) -> Fraction | None:
    """The decimal number that the text is, such as `1,200.5`; None if it is none."""
    text = _THOUSANDS.sub("", text.strip())
    return Fraction(text) if re.fullmatch(r"[-+]?\d+(\.\d+)?", text) else None


def _examples(part: str) -> list[dspy.Example]:
    known = [question for where, question in _questions() if where == part]
    return [dspy.Example(question=q.text, answer=q.answer, kind=q.kind).with_inputs("question") for q in known]


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    return json.loads(files("moa_dspy.simulated").joinpath("questions.json").read_text("utf-8"))


@lru_cache(maxsize=1)
def _questions() -> list[tuple[str, Question]]:
    rows = [(part, row) for part in ("bundled", "held_back") for row in _file()[part]]
    return [(part, Question(text, answer, kind, tuple(wrong))) for part, (kind, text, answer, *wrong) in rows]


@lru_cache(maxsize=1)
def _known() -> dict[str, Question]:
    return {question.text.casefold(): question for _, question in _questions()}


@lru_cache(maxsize=4096)
def _recognize(text: str) -> Question | None:
    return _known().get(text.casefold()) or _arithmetic(text) or _capital(text)


def _capital(text: str) -> Question | None:
    match = re.fullmatch(r"(?:(?:what|which city) is )?(?:the )?capital of (.+?)[\s?.!]*", text, re.IGNORECASE)
    if match is None:
        return None
    country = _fold(match[1])
    capitals = {_fold(name): capital for name, capital in _file()["capitals"].items()}
    known = Question(text, capitals[country], "geography") if country in capitals else None
    # In whatever words, a bundled question stays one that models may get wrong.
    return _known().get(f"what is the capital of {country}?", known)


def _fold(country: str) -> str:
    """A country's name as it is looked up: without accents, points and the article."""
    letters = unicodedata.normalize("NFKD", country.casefold().replace("-", " "))
    return re.sub(r"[^a-z ]", "", letters).removeprefix("the ")


def _arithmetic(text: str) -> Question | None:
    match = _ARITHMETIC.fullmatch(text)
    if match is None:
        return None
    source = _THOUSANDS.sub("", match[1]).translate(str.maketrans("xX\u00d7\u00f7", "***/"))
    if read_number(source) is not None:  # a lone number asks for nothing
        return None
    try:
        value = _calculate(ast.parse(source.strip(), mode="eval").body)
    except (ArithmeticError, SyntaxError, ValueError):
        return None
    return Question(text, str(value) if value.denominator == 1 else f"{float(value):.10g}", "arithmetic")


def _calculate(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_calculate(operand)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_calculate(left), _calculate(right))
    raise ValueError("not simple arithmetic")


_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
# A date such as 2024-11-20 is no subtraction.
_ARITHMETIC = re.compile(
    r"(?:what is|what's|how much is|compute)?\s*(?!\d{4}-\d\d-\d\d)([\d\s.,()+*/x\u00d7\u00f7-]{3,200}?)[\s=?.!]*",
    re.IGNORECASE,
)
