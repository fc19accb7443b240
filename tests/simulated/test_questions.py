from collections import Counter

import pytest

from moa_dspy.simulated.questions import (
    KINDS,
    bundled_questions,
    find_questions,
    held_back_questions,
    recognize,
    same_answer,
)


def test_the_bundled_questions_are_120_of_six_kinds_in_turns() -> None:
    examples = bundled_questions()
    assert [example.kind for example in examples] == list(KINDS) * 20
    assert len({example.question for example in examples}) == 120
    assert {tuple(example.inputs().keys()) for example in examples} == {("question",)}


def test_the_held_back_questions_are_others() -> None:
    examples = held_back_questions()
    assert Counter(example.kind for example in examples) == dict(
        arithmetic=48, dates=36, units=35, strings=33, ordering=12
    )
    assert not {example.question for example in examples} & {example.question for example in bundled_questions()}


def test_the_questions_of_the_file_are_found_and_can_be_got_wrong() -> None:
    for example in [*bundled_questions(), *held_back_questions()]:
        (found,) = find_questions(f"Q: {example.question.upper()}\nA:")
        assert (found.kind, found.answer) == (example.kind, example.answer)
        assert found.mistakes and found.answer not in found.mistakes


def test_questions_are_found_in_the_order_of_a_text() -> None:
    text = (
        "1. What is the capital of Syria?\n2. How many grams are there in 9 kilograms? 3. What is the capital of India?"
    )
    assert [question.answer for question in find_questions(text)] == ["Damascus", "9000", "New Delhi"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("17 x 23", "391"),
        ("17\u00d723", "391"),
        ("What is 17 * 23?", "391"),
        ("12 + 30", "42"),
        ("100 / 4", "25"),
        ("2^10", "1024"),
        ("compute 15% of 80", "12"),
        ("what's 20 percent of 50?", "10"),
        ("2 + 3 times 4 =", "14"),
        ("-(3 - 5) * 2", "4"),
        ("0.1 + 0.2", "0.3"),
        ("1,000 / 3", "333.3333333"),
        ("what is the\ncapital of FRANCE?", "Paris"),
        ("capital of the U.S.A.", "Washington, D.C."),
        ("Which city is the capital of C\u00f4te d'Ivoire?", "Yamoussoukro"),
        ("St. Lucia's capital?", "Castries"),
    ],
)
def test_what_every_model_knows(question: str, answer: str) -> None:
    known = recognize(question)
    assert known is not None
    assert (known.answer, known.mistakes) == (answer, ())


def test_a_bundled_capital_stays_one_in_other_words() -> None:
    known = recognize("capital of turkey")
    assert known is not None
    assert (known.answer, known.mistakes) == ("Ankara", ("Istanbul", "Izmir", "Bursa"))


@pytest.mark.parametrize(
    "text",
    [
        *("Why is the sky blue?", "What is the capital of Atlantis?", "What is the area of the capital of France?"),
        *("1/0", "7 // 2", "9**9**9", "What is 42?", "What is 2024-11-20?", "__import__('os')", "", "1 + 1 " * 400),
    ],
)
def test_what_has_no_answer_is_not_recognized(text: str) -> None:
    assert recognize(text) is None


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
