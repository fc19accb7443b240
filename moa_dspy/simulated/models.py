"""Who the simulated models are: their declared skills, what raises them, and what lowers them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import field
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, TypeAlias

from pydantic import Field
from pydantic.dataclasses import dataclass

from moa_dspy.simulated.questions import KINDS

__all__ = ["JUDGEMENT", "SIMULATED_MODELS", "SimulatedModel", "mentions"]

JUDGEMENT = "judgement"
"""What `hints` call the ability to tell a right proposal from a wrong one."""
Probability: TypeAlias = Annotated[float, Field(ge=0, le=1)]
USD: TypeAlias = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class SimulatedModel:
    """A model made up of numbers, for running programs without a key, a network or a cost.

    It simulates what matters to a mixture and its optimizers: models are good at different kinds of questions, find the
    same ones hard, make the same popular mistakes, follow instructions differently, learn from demos, and judge answers
    better than they find them. It knows the questions of `moa_dspy.simulated.questions`, and abstains from any other.

    Attributes:
        name: What it is called, without `simulated/`; also the seed of everything it draws.
        skills: Kind of question -> probability (0 to 1) of answering it correctly.
        hints: Kind of question (or `"judgement"`) -> phrase -> by how much the phrase in the instructions raises or
            lowers that probability.
        other_skill: The probability for kinds that `skills` leaves out.
        judgement: Probability of judging proposals on their merits: it answers what it knows itself, or else recognizes
            a right proposal. Otherwise it goes with the proposal that most support.
        demo_gain: By how much each demo of the same kind, with a right answer, raises the probability.
        demo_limit: How many demos of a kind it learns from.
        steadiness: Probability that another sample at a temperature above 0 thinks as the first one did.
        price: What it pretends to cost, in USD per million prompt tokens and completion tokens; None: no price.

    Raises:
        ValueError: If a number is out of its range or a kind is not one of the questions' kinds.

    Examples:
        >>> tutor = SimulatedModel("tutor", {"dates": 0.9}, hints={"dates": {"count month by month": 0.05}})
        >>> tutor.skill("dates"), tutor.skill("dates", "Please count, month by month."), tutor.skill("units")
        (0.9, 0.95, 0.6)
    """

    name: str
    skills: Mapping[str, Probability] = field(default_factory=dict)
    hints: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    other_skill: Probability = 0.6
    judgement: Probability = 0.3
    demo_gain: float = 0.04
    demo_limit: int = 3
    steadiness: Probability = 0.5
    price: tuple[USD, USD] | None = None

    def __post_init__(self) -> None:
        unknown = sorted({*self.skills, *self.hints} - {*KINDS, JUDGEMENT})
        if unknown:
            raise ValueError(f"No question is of the kind {', '.join(unknown)}; the kinds are {', '.join(KINDS)}.")

    def skill(self, kind: str, instructions: str = "", demos: int = 0) -> float:
        """The probability of answering a question of this kind (or a `"judgement"`) correctly.

        Instructions and right demos of the kind count; phrases however they are cased and punctuated.
        """
        base = self.judgement if kind == JUDGEMENT else self.skills.get(kind, self.other_skill)
        effect = sum(change for phrase, change in self.hints.get(kind, {}).items() if mentions(instructions, phrase))
        skill = base + effect + min(demos, self.demo_limit) * self.demo_gain
        # No prompt makes a model perfect or hopeless, but numbers declared beyond the bounds stand.
        return round(min(max(skill, min(base, 0.02)), max(base, 0.98)), 6)


def mentions(text: str, phrase: str) -> bool:
    """Whether the text has the words of the phrase, in this order, however they are cased and punctuated."""
    return _words(phrase) in _words(text)


@lru_cache(maxsize=512)
def _words(text: str) -> str:
    # Spaces around, so that a phrase matches whole words only.
    return " ".join(["", *re.findall(r"[^\W_]+", text.casefold()), ""])


SIMULATED_MODELS: dict[str, SimulatedModel] = {
    name: SimulatedModel(name, **numbers)
    for name, numbers in json.loads(files("moa_dspy.simulated").joinpath("models.json").read_text("utf-8")).items()
}
"""The named models: four proposers, each strong where others are weak, and one that judges well."""
