"""Inputs worded in other ways, which should change no answer."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import TypeAlias

import dspy

__all__ = ["PERTURBED_FROM", "Perturb", "perturb_text"]

Perturb: TypeAlias = Callable[[dspy.Example], Iterable[dspy.Example]]

PERTURBED_FROM = "perturbed_from"
"""The field of a question in other words that holds the id of the original."""


def perturb_text(example: dspy.Example) -> list[dspy.Example]:
    """The example with typos, in lower case, and with odd white space, in all inputs that are text.

    Three of the changes by which Liang et al., "Holistic Evaluation of Language Models" (2023), measure robustness.
    The same text is always changed in the same way; what a change leaves as it is, is left out.

    Examples:
        >>> example = dspy.Example(question="Name the capital of Peru.", answer="Lima").with_inputs("question")
        >>> [changed.question for changed in perturb_text(example)]
        ['Name the capiatl of Peru.', 'name the capital of peru.', '  Name  the  capital of Peru.']
    """
    texts = {name: text for name, text in example.inputs().items() if isinstance(text, str)}
    changed = [{name: change(text) for name, text in texts.items()} for change in (_mistype, str.lower, _space)]
    return [example.copy(**new) for new in changed if new != texts]


def _mistype(text: str) -> str:
    """Two neighbouring letters change places in a tenth of the longer words, and in one of them at least."""
    draw = random.Random(text)
    words = [word for word in re.finditer(r"[^\W\d_]{4,}", text)]
    letters = list(text)
    for word in draw.sample(words, min(len(words), 1 + len(words) // 10)):
        place = draw.randrange(word.start() + 1, word.end() - 1)
        letters[place], letters[place + 1] = letters[place + 1], letters[place]
    return "".join(letters)


def _space(text: str) -> str:
    draw = random.Random(text)
    return re.sub(" ", lambda _: " " * draw.randint(1, 2), f" {text}")
