import subprocess
import sys
from collections import Counter

import pytest

from moa_dspy.simulated.questions import KINDS, bundled_questions, find_questions, recognize, same_answer


def test_the_bundled_questions_are_120_of_six_kinds_in_turns() -> None:
    examples = bundled_questions()
    assert KINDS == ("arithmetic", "ordering", "units", "dates", "strings", "geography")
    assert [example.kind for example in examples] == list(KINDS) * 20
    assert len({example.question for example in examples}) == 120
    assert {tuple(example.inputs().keys()) for example in examples} == {("question",)}


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (
            "Eva buys 5 pens at 7 dollars each and pays with a 50 dollar note. "
            "How many dollars of change does Eva get?",
            "15",
        ),
        (
            "A train goes 80 km per hour for 5 hours and then 50 km per hour for 3 hours. "
            "How many km does it go in total?",
            "550",
        ),
        ("8 boxes hold 12 eggs each. 15 of the eggs are broken. How many eggs are whole?", "81"),
        ("A coat costs 80 dollars. Its price falls by 25 percent. How many dollars does it cost now?", "60"),
        ("Ana is taller than Dan. Eva is taller than Finn. Dan is taller than Eva. Who is the shortest?", "Finn"),
        ("Ana is older than Dan. Eva is older than Finn. Dan is older than Eva. Who is the second oldest?", "Dan"),
        ("How many minutes are there in 7 hours?", "420"),
        ("How many weeks do 336 hours make?", "2"),
        ("What is 100 degrees Celsius in degrees Fahrenheit?", "212"),
        ("Which date is 15 days after 2024-02-15?", "2024-03-01"),
        ("How many days are there from 2023-02-28 to 2023-03-01?", "1"),
        ("Today is Sunday. Which day of the week is it in 8 days?", "Monday"),
        ("How often does the letter r occur in the word strawberry?", "3"),
        ("Which word do you get when you write banana backwards?", "ananab"),
        ("What is letter number 4 of the word elephant?", "p"),
        ("What is the capital of Australia?", "Canberra"),
        ("What is 17*23?", "391"),
        ("compute 15% of 80", "12"),
        ("2 + 3 times 4 =", "14"),
        ("-(3 - 5) * 2", "4"),
        ("1,000 / 3", "333.3333333"),
    ],
)
def test_questions_are_answered_rightly(question: str, answer: str) -> None:
    known = recognize(question)
    assert known is not None
    assert known.answer == answer
    assert known.mistakes and answer not in known.mistakes


def test_the_bundled_answers_are_those_that_reading_the_questions_gives() -> None:
    for example in bundled_questions():
        (found,) = find_questions(example.question)
        assert (found.kind, found.answer) == (example.kind, example.answer)
        assert found.mistakes


@pytest.mark.parametrize(
    "text",
    [
        "Why is the sky blue?",
        "What is the capital of Atlantis?",
        "Ana is taller than Ben. Ben is taller than Ana. Eva is taller than Dan. Who is the tallest?",
        "A coat costs 99 dollars. Its price falls by 5 percent. How many dollars does it cost now?",
        "How many days are there from 2023-02-30 to 2023-03-01?",
        "How many hours do 100 minutes make?",
        "What is 7 degrees Celsius in degrees Fahrenheit?",
        "What is letter number 9 of the word banana?",
        "1/0",
        "7 // 2",
        "9**9**9",
        "2024-11-20",
        "__import__('os')",
        "",
    ],
)
def test_what_has_no_answer_is_not_recognized(text: str) -> None:
    assert recognize(text) is None


def test_spacing_and_case_do_not_matter() -> None:
    known = recognize("  what is the\ncapital of NEW zealand? ")
    assert known is not None
    assert known.answer == "Wellington"


def test_questions_are_found_in_a_text_in_their_order() -> None:
    text = (
        "1. What is the capital of Syria?\n2. Which date is 1 days after 2024-02-28?\n3. What is the capital of India?"
    )
    assert [question.answer for question in find_questions(text)] == ["Damascus", "2024-02-29", "New Delhi"]


def test_the_popular_mistake_comes_first() -> None:
    known = recognize("What is the capital of Turkey?")
    assert known is not None
    assert known.mistakes == ("Istanbul", "Izmir", "Bursa")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Bern", " bern. ", True),
        ("42", "42.0", True),
        ("1,200", "1200", True),
        ("-5", "5", False),
        ("1,2", "12", False),
        ("Bern", "Basel", False),
    ],
)
def test_answers_are_compared_as_people_do(one: str, other: str, same: bool) -> None:
    assert same_answer(one, other) is same


def test_another_process_bundles_the_same_questions() -> None:
    code = (
        "from moa_dspy.simulated.questions import bundled_questions as b; print([(e.question, e.answer) for e in b()])"
    )
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()
    assert shown == str([(example.question, example.answer) for example in bundled_questions()])


def test_most_questions_have_several_mistakes_to_make() -> None:
    known = [recognize(example.question) for example in bundled_questions()]
    counts = Counter(len(question.mistakes) for question in known if question is not None)
    assert min(counts) >= 2
