"""A wording of a question: sampled for the bundled set, and read back to solve any question worded that way."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

Slots = Mapping[str, str]
Sampler = Callable[[str], Mapping[str, object]]
Solver = Callable[[Slots], Sequence[object]]


@dataclass(frozen=True)
class Question:
    """A question with its right answer and the wrong ones that models plausibly give.

    Attributes:
        text: The question, with single spaces.
        answer: The right answer.
        kind: What it asks for: `"arithmetic"`, `"ordering"`, `"units"`, `"dates"`, `"strings"` or `"geography"`.
        mistakes: Wrong answers, the most popular first; at least one.
    """

    text: str
    answer: str
    kind: str
    mistakes: tuple[str, ...]

    @classmethod
    def of(cls, text: str, kind: str, answers: Sequence[object]) -> Question:
        """Make one of the right answer followed by mistakes, which may repeat it or each other."""
        answer, *mistakes = map(str, answers)
        return cls(text, answer, kind, tuple(dict.fromkeys(mistake for mistake in mistakes if mistake != answer)))


@dataclass(frozen=True)
class Template:
    """One wording of one kind of question.

    Attributes:
        kind: The kind that its questions belong to.
        text: The wording; a slot named twice must hold the same words twice.
        count: How many of its questions are bundled.
        sample: Draws the slots for a key; draws that cannot be solved are skipped.
        solve: The right answer and then the mistakes; raises ValueError, LookupError or ArithmeticError if
            there is none.
        slot: The regular expression of a slot's words; bounded, so that long texts are read in linear time.
    """

    kind: str
    text: str
    count: int
    sample: Sampler
    solve: Solver
    slot: str = r"[\w-]{1,40}"

    def generate(self) -> Iterator[Question]:
        """Yield the bundled questions of this wording, always the same ones."""
        texts: set[str] = set()
        attempt = 0
        while len(texts) < self.count:
            question = self.read(self.text.format_map(self.sample(f"{self.text} {attempt}")))
            attempt += 1
            if question is not None and question.text not in texts:
                texts.add(question.text)
                yield question

    def read(self, text: str) -> Question | None:
        """Return the solved question if the text is worded like this, else None."""
        return self._solved(self.pattern.fullmatch(text))

    def find(self, text: str) -> Iterator[tuple[int, Question]]:
        """Yield the questions worded like this inside a longer text, with the places where they begin."""
        for match in self.pattern.finditer(text):
            question = self._solved(match)
            if question is not None:
                yield match.start(), question

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """The regular expression that reads the slots out of a question."""
        seen: set[str] = set()
        parts: list[str] = []
        for literal, name, _, _ in string.Formatter().parse(self.text):
            parts.append(re.escape(literal))
            if name:
                parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{self.slot})")
                seen.add(name)
        return re.compile("".join(parts), re.IGNORECASE)

    def _solved(self, match: re.Match[str] | None) -> Question | None:
        if match is None:
            return None
        try:
            return Question.of(match.group(), self.kind, self.solve(match.groupdict()))
        except (ArithmeticError, LookupError, ValueError):
            return None
