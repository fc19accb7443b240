"""Arithmetic that is written out, such as "What is 17*23?", evaluated without `eval`."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction

from moa_dspy.simulated.question_template import Question


def read_arithmetic(text: str) -> Question | None:
    """Return the solved question if the text asks for the value of an expression, else None.

    Example:
        >>> read_arithmetic("What is 17*23?").answer
        '391'
    """
    match = _ASKED.fullmatch(text.strip())
    if match is None:
        return None
    source = _THOUSANDS.sub("", match["expression"].lower())
    for words, symbol in _WORDS.items():
        source = re.sub(words, symbol, source)
    try:
        value = _value(ast.parse(source.strip(), mode="eval").body)
    except (ArithmeticError, SyntaxError, ValueError):
        return None
    errors = (0, 10, -10, 1) if abs(value) >= 100 else (0, 1, -1, 2)
    return Question.of(text, "arithmetic", [_written(value + error) for error in errors])


_ASKED = re.compile(
    # A date such as 2024-11-20 is no subtraction.
    r"(?!\d{4}-\d\d-\d\d$)(?:what is|what's|how much is|calculate|compute|evaluate)?:?\s*"
    r"(?P<expression>[-(]*\s*\d"
    r"(?:[\d\s.,()+*/%^\u00d7\u00f7x-]|plus|minus|times|percent of|% of|divided by|multiplied by){2,200})\s*[=?.]*",
    re.IGNORECASE,
)
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")
_WORDS = {
    r"(?:%|percent) of": "/100*",
    r"plus": "+",
    r"minus": "-",
    r"times|multiplied by|\u00d7|x": "*",
    r"divided by|\u00f7": "/",
    r"\^": "**",
}
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
}


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


def _written(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.10g}"
