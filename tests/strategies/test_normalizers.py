import re

import pytest
from support.cases import answers, case_of, decide

from moa_dspy import Voting
from moa_dspy.strategies.equality import normalise, same
from moa_dspy.strategies.normalizers import NORMALIZERS

# For each convention, lines of texts that are the same; the lines are not.
TABLES = {
    "number": """
        1000 | $1,000 | 1 000.00 | 1'000 | 1e3 | 1 x 10^3 | +1000. | 1,000 €
        -1000 | -$1,000 | $-1000 | \u22121000
        0.5 | 1/2 | ½ | .5 | 50% | 50 % | 5e-1
        1.5 | 1½ | 1 1/2 | 3/2
        50 | 50.
        11/2 | 5.5
        1,00
        1000 km
        1e999999999
        1/0
        Paris | PARIS
        (5)
    """,
    "choice": r"""
        B | b | (B) | B) | B. | [B] | **B** | Answer: B | The answer is (B). | Option B | B) Paris | \boxed{B}
        A | The correct answer is: A. Rome
        1 | (1) | 1. | 1)
        1.5
        10
        Both
        A dog
    """,
    "latex": r"""
        4 | $4$ | \boxed{4} | So it is \boxed{4}. | \[4\] | \text{4}
        -4 | \boxed{-4}
        1/2 | \frac{1}{2} | \dfrac12 | 0.5 | 50\% | \boxed{\frac{1}{2}}
        2 | \frac{2}{1}
        \sqrt2 | \sqrt{2}
        1000 | 1{,}000
        (x, y) | \left( x,\,y \right)
        (X, y)
        x^{2}+1 | \boxed{x^{2} + 1}
    """,
    "date": """
        2024-05-01 | 2024/5/1 | 1 May 2024 | May 1st, 2024 | 1st of May 2024 | Wednesday, 1 May 2024 | 01.05.2024
        2023-12-25 | 25/12/2023 | 12/25/2023 | Dec. 25, 2023
        2024-05-05 | 05/05/2024
        2024-06-05
        05/06/2024
        31 Feb 2024
        May 2024
    """,
}


def rows(name: str) -> list[list[str]]:
    lines = [line.strip() for line in TABLES[name].strip().splitlines()]
    return [line.split(" | ") for line in lines]


@pytest.mark.parametrize("name", NORMALIZERS)
def test_the_table_of_what_is_the_same_and_what_is_not(name: str) -> None:
    forms = {text: normalise(text, str, convention=NORMALIZERS[name]) for row in rows(name) for text in row}
    for row in rows(name):
        alike = [text for text, form in forms.items() if same(form, forms[row[0]])]
        assert alike == row


@pytest.mark.parametrize("name", NORMALIZERS)
def test_what_is_no_text_is_left_and_abstentions_stay(name: str) -> None:
    convention = NORMALIZERS[name]
    assert convention({"a": 1}) == {"a": 1}
    assert normalise(None, convention=convention) is normalise("", convention=convention)
    assert normalise("9" * 5000, convention=convention) == normalise(" " + "9" * 5000, convention=convention)


def test_a_vote_by_convention_returns_an_answer_as_it_was_given() -> None:
    case = case_of("question -> answer", *answers("7", "$1,000", "1000"))
    assert decide(Voting(normalize="number"), case).outputs == {"answer": "$1,000"}
    lists = case_of("question -> answer: list[str]", *answers(["7"], ["(B)", "c"], ["b", "C."]))
    assert decide(Voting(normalize="choice"), lists).outputs == {"answer": ["(B)", "c"]}


def test_a_convention_of_ones_own() -> None:
    def last_word(answer: str) -> str | None:
        return (re.findall(r"\w+", answer) or [None])[-1]

    case = case_of("question -> answer", *answers("...", "It is Paris.", "paris Paris"))
    verdict = decide(Voting(normalize=last_word), case)
    assert (verdict.outputs, verdict.tally and verdict.tally.abstained) == ({"answer": "It is Paris."}, ("a",))


def test_what_is_no_convention_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no normalizer 'numbers'.*Choose one of: number, choice, latex, date"):
        Voting(normalize="numbers")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"normalize=3 is neither"):
        Voting(normalize=3)  # type: ignore[arg-type]
