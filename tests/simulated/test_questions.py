from collections import Counter

import pytest

from moa_dspy.simulated.questions import (
    KINDS,
    bundled_questions,
    find_questions,
    held_back_questions,
    recognize,
)


def test_the_bundled_questions_take_turns_and_the_held_back_ones_are_others() -> None:
    bundled, held = bundled_questions(), held_back_questions()
    assert [example.kind for example in bundled] == list(KINDS) * 20
    assert Counter(e.kind for e in held) == dict(arithmetic=48, dates=36, units=35, strings=33, ordering=12)
    assert len({example.question for example in [*bundled, *held]}) == 284


def test_the_questions_of_the_file_are_found_in_a_text_and_can_be_got_wrong() -> None:
    for example in [*bundled_questions(), *held_back_questions()]:
        (found,) = find_questions(f"Q: {example.question.upper()}\nA:")
        assert (found.kind, found.answer) == (example.kind, example.answer)
        assert found.mistakes and found.answer not in found.mistakes


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("17 x 23", "391"),
        ("What is 17 * 23?", "391"),
        ("100 \u00f7 8 =", "12.5"),
        ("-(3 - 5) * 2", "4"),
        ("0.1 + 0.2", "0.3"),
        ("1,000 / 3", "333.3333333"),
        ("what is the\ncapital of FRANCE?", "Paris"),
        ("capital of the U.S.A.", "Washington, D.C."),
        ("Which city is the capital of C\u00f4te d'Ivoire?", "Yamoussoukro"),
    ],
)
def test_what_every_model_knows(question: str, answer: str) -> None:
    known = recognize(question)
    assert known and (known.answer, known.mistakes) == (answer, ())


def test_a_bundled_capital_stays_one_in_other_words() -> None:
    known = recognize("capital of turkey")
    assert known and (known.answer, known.mistakes) == ("Ankara", ("Istanbul", "Izmir", "Bursa"))


@pytest.mark.parametrize(
    "text",
    ["Why?", "What is the capital of Atlantis?", "1/0", "9**9**9", "What is 42?", "2024-11-20", "", "1 + 1 " * 400],
)
def test_what_has_no_answer_is_not_recognized(text: str) -> None:
    assert recognize(text) is None
