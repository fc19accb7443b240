from typing import Any

import pytest

from moa_dspy import Proposal
from moa_dspy.rendering import group_identical, render


def proposals(*answers: Any, reasoning: str | None = None) -> list[Proposal]:
    return [
        Proposal(id=f"m{place}", agent=f"m{place}", outputs={"answer": answer}, reasoning=reasoning)
        for place, answer in enumerate(answers)
    ]


def test_labels_lead_back_to_all_who_say_so() -> None:
    shown = render(proposals("a", "b", "a"), seed=3)
    assert sorted([p.id for p in group] for group in shown.labels.values()) == [["m0", "m2"], ["m1"]]


def test_what_is_alike_in_its_text_only_is_not_identical() -> None:
    assert len(group_identical(proposals("1", 1, 1.0, True))) == 4


@pytest.mark.parametrize(
    ("limit", "lost"),
    [(None, {}), (10_000, {}), (1_200, {"m0": 300, "m1": 300})],
)
def test_what_does_not_fit_is_shortened_reasoning_first(limit: int | None, lost: dict[str, int]) -> None:
    shown = render(proposals("a" * 300, "b" * 300, reasoning="r" * 600), seed=0, limit=limit)
    assert {id: count // 100 * 100 for id, count in shown.shortened.items()} == lost
    assert ("characters left out" in shown.text) == bool(lost) and "a" * 300 in shown.text
