"""A comparison of systems on the same questions: one row per system, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import dspy
import numpy as np
import numpy.typing as npt
from pydantic_core import to_jsonable_python

from moa_dspy.evaluation.comparison_row import Row, Trouble
from moa_dspy.evaluation.intervals import Interval, bootstrap, wilson
from moa_dspy.evaluation.records import Record, System
from moa_dspy.usage import Usage

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["Comparison"]

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Systems compared on the same questions.

    Attributes:
        systems: What is compared, in the order of the rows.
        records: One per finished question, in the dataset's order: the matrix of all answers.
        planned: How many questions there were to ask; fewer records mean that it was interrupted.
        metric: The metric's name.
        seed: Of the bootstrap.
    """

    systems: Sequence[System]
    records: Sequence[Record]
    planned: int
    metric: str
    seed: int = 0

    def scores(self, system: str) -> npt.NDArray[np.float64]:
        """A system's scores, one per record."""
        return np.array([record.answers[system].score for record in self.records], dtype=float)

    @cached_property
    def is_accuracy(self) -> bool:
        """Whether every score says right (1) or wrong (0)."""
        return all(answer.score in (0, 1) for record in self.records for answer in record.answers.values())

    @property
    def is_simulated(self) -> bool:
        """Whether a simulated model took part: the numbers then say nothing about real ones."""
        return any(model.startswith("simulated/") for system in self.systems for model in system.models)

    @cached_property
    def best_single(self) -> str:
        """The model that is best alone, the first of equals. Chosen on these very questions, which flatters it."""
        alone = [system.name for system in self.systems if system.kind in ("proposer", "aggregator")]
        return max(alone, key=lambda name: self.scores(name).sum())

    @cached_property
    def rows(self) -> list[Row]:
        """One row per system; none before a question is finished."""
        if not self.records:
            return []
        table = np.stack([self.scores(system.name) for system in self.systems], axis=1)
        if self.is_accuracy:
            means = [wilson(int(column.sum()), len(column), CONFIDENCE) for column in table.T]
        else:
            means = bootstrap(table, confidence=CONFIDENCE, seed=self.seed)
        differences = table - self.scores(self.best_single)[:, None]
        gains = bootstrap(differences, confidence=CONFIDENCE, seed=self.seed)
        return [self._row(*columns) for columns in zip(self.systems, means, gains, strict=True)]

    def row(self, system: str) -> Row:
        """A system's row."""
        return next(row for row in self.rows if row.name == system)

    @property
    def usage(self) -> Usage:
        """What was really spent: less than the rows' sum, as each proposal served all systems."""
        return Usage.of(call for record in self.records for call in record.calls)

    @cached_property
    def troubles(self) -> list[Trouble]:
        """What went wrong, by system and type of error, as often as it did."""
        found: dict[tuple[str, str], list[str]] = {}
        for system in self.systems:
            for record in self.records:
                cause = record.answers[system.name].failure
                if cause is not None:
                    found.setdefault((system.name, cause.error), []).append(cause.message)
        return [Trouble(name, error, messages[0], len(messages)) for (name, error), messages in found.items()]

    def split(self, key: Callable[[dspy.Example], Any]) -> dict[Any, Comparison]:
        """One comparison per group of questions, in order of first appearance."""
        groups: dict[Any, list[Record]] = {}
        for record in self.records:
            groups.setdefault(key(record.example), []).append(record)
        return {
            group: Comparison(self.systems, records, len(records), self.metric, self.seed)
            for group, records in groups.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The results as plain data for JSON; the answers themselves are in the records' `to_dict()`."""
        plain = {
            "simulated": self.is_simulated,
            "questions": len(self.records),
            "planned": self.planned,
            "metric": self.metric,
            "score": "accuracy" if self.is_accuracy else "mean",
            "confidence": CONFIDENCE,
            "seed": self.seed,
            "best_single": self.best_single if self.records else None,
            "rows": [asdict(row) | {"tokens": row.tokens} for row in self.rows],
            "models": {system.name: system.models for system in self.systems},
            "troubles": self.troubles,
            "spent": self.usage,
        }
        return to_jsonable_python(plain, fallback=str)

    def table(self, width: int = 80) -> Table:
        """The rows as a rich table for a terminal of this many columns."""
        from moa_dspy.evaluation.comparison_table import comparison_table

        return comparison_table(self, width)

    def _row(self, system: System, interval: Interval, gain: Interval) -> Row:
        answers = [record.answers[system.name] for record in self.records]
        spent = [answer.spent for answer in answers if answer.spent is not None]
        fresh = [one for one in spent if not one.cached]
        score = _mean(answer.score for answer in answers) or 0.0
        return Row(
            name=system.name,
            kind=system.kind,
            score=score,
            interval=interval,
            difference=score - float(self.scores(self.best_single).mean()),
            difference_interval=None if system.name == self.best_single else gain,
            calls=_mean(one.calls for one in spent),
            prompt_tokens=_mean(one.prompt_tokens for one in fresh),
            completion_tokens=_mean(one.completion_tokens for one in fresh),
            cost_usd=_mean(one.cost_usd for one in fresh if one.cost_usd is not None),
            seconds=_mean(one.seconds for one in fresh),
            failures=sum(answer.outputs is None for answer in answers),
            fallbacks=sum(answer.fallback for answer in answers),
            cached=len(spent) - len(fresh),
        )


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return float(np.mean(numbers)) if numbers else None
