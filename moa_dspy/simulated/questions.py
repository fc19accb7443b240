"""The bundled questions with their answers, and what every simulated model knows beside them."""

from __future__ import annotations

import ast
import json
import operator
import re
import unicodedata
from collections.abc import Callable, Mapping
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
    """A question with its right answer and the wrong ones that models plausibly give.

    Attributes:
        text: The question, with single spaces.
        answer: The right answer.
        kind: One of `KINDS`.
        mistakes: Wrong answers, the most popular first; none where no model errs.
    """

    text: str
    answer: str
    kind: str
    mistakes: tuple[str, ...] = ()


def bundled_questions() -> list[dspy.Example]:
    """Return 120 questions of six kinds, 20 of each, in an order that takes turns between the kinds.

    Returns:
        Examples with `question` (the input), `answer` (a short string) and `kind`.

    Example:
        >>> example = bundled_questions()[5]
        >>> example.question, example.answer, example.kind
        ('What is the capital of New Zealand?', 'Wellington', 'geography')
    """
    return _examples("bundled")


def held_back_questions() -> list[dspy.Example]:
    """Return 164 more questions, worded as the bundled ones, to measure what was learned from those.

    There are none of geography: the capitals that are got wrong are all bundled.
    """
    return _examples("held_back")


def recognize(text: str) -> Question | None:
    """Return what is known of a question: one of the file, plain arithmetic, or a country's capital.

    Args:
        text: The question and nothing else; spacing and case do not matter.

    Example:
        >>> recognize("what is 17 x 23").answer, recognize("capital of France?").answer
        ('391', 'Paris')
    """
    # Documents are no questions, and would fill the memory that the cache may take.
    return _recognize(" ".join(text.split())) if len(text) < 1000 else None


def find_questions(text: str) -> list[Question]:
    """Return the questions of the file that stand in a longer text, in the order they stand in."""
    text = " ".join(text.casefold().split())
    places = ((text.find(known), question) for known, question in _known().items())
    return [question for place, question in sorted(places, key=lambda found: found[0]) if place >= 0]


def same_answer(one: str, other: str) -> bool:
    """Whether two answers differ at most in case, spacing, closing punctuation or the writing of a number.

    Example:
        >>> same_answer("1,200.0", "1200"), same_answer("Bern.", "bern"), same_answer("5", "-5")
        (True, True, False)
    """
    texts = [" ".join(text.split()).casefold().rstrip(".!?;, ") for text in (one, other)]
    numbers = [read_number(text) for text in texts]
    return texts[0] == texts[1] if None in numbers else numbers[0] == numbers[1]


def read_number(text: str) -> Fraction | None:
    """Return the decimal number that the text is; None if it is none.

    Example:
        >>> read_number("1,200.50"), read_number("1,2")
        (Fraction(2401, 2), None)
    """
    text = _THOUSANDS.sub("", text.strip())
    return Fraction(text) if re.fullmatch(r"[-+]?\d+(\.\d+)?", text) else None


_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    return json.loads(files("moa_dspy.simulated").joinpath("questions.json").read_text("utf-8"))


def _questions(part: str) -> list[Question]:
    return [Question(text, answer, kind, tuple(mistakes)) for kind, text, answer, *mistakes in _file()[part]]


def _examples(part: str) -> list[dspy.Example]:
    return [
        dspy.Example(question=question.text, answer=question.answer, kind=question.kind).with_inputs("question")
        for question in _questions(part)
    ]


@lru_cache(maxsize=1)
def _known() -> dict[str, Question]:
    return {question.text.casefold(): question for part in ("bundled", "held_back") for question in _questions(part)}


@lru_cache(maxsize=4096)
def _recognize(text: str) -> Question | None:
    return _known().get(text.casefold()) or _arithmetic(text) or _capital(text)


def _capital(text: str) -> Question | None:
    match = _CAPITAL_OF.fullmatch(text)
    if match is None:
        return None
    country = _fold(match["country"] or match["owner"])
    capital = _capitals().get(country)
    # In whatever words, a bundled question stays one that models may get wrong.
    bundled = _known().get(f"what is the capital of {country}?")
    return bundled or (Question(text, capital, "geography") if capital else None)


_CAPITAL_OF = re.compile(
    r"(?:tell me |name )?(?:(?:what|which)(?:'s| is| city is)? )?"
    r"(?:(?:the )?capital(?: city)? of (?P<country>.+?)|(?P<owner>.+?)'s capital(?: city)?)[\s?.!]*",
    re.IGNORECASE,
)


@lru_cache(maxsize=1)
def _capitals() -> dict[str, str]:
    return {_fold(country): capital for country, capital in _file()["capitals"].items()}


def _fold(country: str) -> str:
    """Return a country's name as it is looked up: without accents, points and articles."""
    ascii_ = unicodedata.normalize("NFKD", country.casefold()).encode("ascii", "ignore").decode()
    text = re.sub(r"[^a-z ]", "", ascii_.replace("-", " ").replace("&", "and"))
    return re.sub(r"^st ", "saint ", text.removeprefix("the "))


def _arithmetic(text: str) -> Question | None:
    match = _ASKED.fullmatch(text)
    if match is None:
        return None
    source = _THOUSANDS.sub("", match["expression"].lower())
    for words, symbol in _WORDS.items():
        source = re.sub(words, symbol, source)
    try:
        expression = ast.parse(source.strip(), mode="eval").body
        # A lone number asks for nothing.
        return None if isinstance(expression, ast.Constant) else Question(text, _written(expression), "arithmetic")
    except (ArithmeticError, SyntaxError, ValueError):
        return None


_WORDS: Mapping[str, str] = {
    r"(?:%|percent) of": "/100*",
    r"plus": "+",
    r"minus|\u2212": "-",
    r"times|multiplied by|\u00d7|\u00b7|x": "*",
    r"divided by|\u00f7": "/",
    r"to the power of|\^": "**",
}
_ASKED = re.compile(
    r"(?:please |tell me )*(?:what is|what's|how much is|calculate|compute|evaluate|solve)?:?\s*"
    # A date such as 2024-11-20 is no subtraction.
    r"(?!\s*\d{4}-\d\d-\d\d\b)"
    rf"(?P<expression>(?:[\d\s.,()+*/%-]|{'|'.join(_WORDS)}){{3,200}}?)\s*[=?.!]*",
    re.IGNORECASE,
)
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


def _written(expression: ast.expr) -> str:
    value = _value(expression)
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int() | float() as number):
            return Fraction(str(number))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            base, exponent = _value(left), _value(right)
            # Without the bound, 9**9**9 would run for ever.
            if exponent.denominator != 1 or abs(exponent) > 64 or abs(base) > 10**6:
                raise ValueError("the power is too large")
            return Fraction(base ** int(exponent))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left), _value(right))
    raise ValueError("not simple arithmetic")
