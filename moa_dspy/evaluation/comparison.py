"""A comparison of systems on the same questions: one row per system, by every measure, with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import dspy
import numpy as np
import numpy.typing as npt
from rich.table import Table

from moa_dspy.evaluation import intervals
from moa_dspy.evaluation.intervals import Interval, bootstrap, score_interval
from moa_dspy.evaluation.scores import Kind, ScoredRow, System
from moa_dspy.evaluation.table import groups_table, measures_table, rows_table, shown_as_text
from moa_dspy.recording import Recording, Trouble
from moa_dspy.recording.summary import count_troubles
from moa_dspy.usage import Usage
from moa_dspy.values import to_jsonable

__all__ = ["PERTURBED_FROM", "Comparison", "Measure", "Row"]

CONFIDENCE = 0.95

PERTURBED_FROM = "perturbed_from"
"""The field of a question in other words that holds the id of the original."""


@dataclass(frozen=True)
class Row:
    """A system's results. What it takes is the mean per question; None where nothing could be measured.

    Attributes:
        name: The system.
        kind: What it is; see `System`.
        score: The mean score; an accuracy (0 to 1) if the metric says right or wrong.
        interval: Its 95% interval: Wilson's for an accuracy, else the bootstrap's.
        difference: The score minus that of the best single model.
        difference_interval: Its 95% interval by the paired bootstrap; None for the best single model.
        calls: LM calls.
        prompt_tokens: Billed prompt tokens.
        completion_tokens: Billed completion tokens.
        cost_usd: USD; None if a price is not known.
        seconds: Wall time.
        failures: Questions without an answer; they count as wrong.
        fallbacks: Questions that the vote answered because the aggregator failed.
        cached: Questions left out of tokens, cost and seconds because DSPy's cache answered a call.
    """

    name: str
    kind: Kind
    score: float
    interval: Interval
    difference: float
    difference_interval: Interval | None
    calls: float | None
    prompt_tokens: float | None
    completion_tokens: float | None
    cost_usd: float | None
    seconds: float | None
    failures: int
    fallbacks: int
    cached: int

    @property
    def tokens(self) -> float | None:
        """Prompt and completion tokens."""
        if self.prompt_tokens is None or self.completion_tokens is None:
            return None
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True)
class Measure:
    """One system by one measure.

    Attributes:
        system: Its name.
        name: A metric's name; `robustness`, the mean of the worst score that a question has among its wordings;
            `ECE`, the `calibration_error` of a calibrated mixture's confidence; `tokens`, `USD` and `seconds` per
            question, without those that DSPy's cache answered.
        value: What it is.
        interval: Its 95% interval.
        questions: On how many it rests.
    """

    system: str
    name: str
    value: float
    interval: Interval
    questions: int


@dataclass(frozen=True)
class Comparison:
    """Systems compared on the same questions.

    Attributes:
        systems: What is compared, in the order of the rows.
        questions: One per scored question, in the dataset's order: the matrix of all answers.
        planned: How many questions there were to ask; fewer scored ones mean that it was interrupted.
        metric: The metric's name.
        seed: Of the bootstrap.
        further: Name -> the same answers by another metric.
        perturbed: The same questions in other words; `row.extra["perturbed_from"]` is the id of the original.
    """

    systems: Sequence[System]
    questions: Sequence[ScoredRow]
    planned: int
    metric: str
    seed: int = 0
    further: Mapping[str, Comparison] = field(default_factory=dict)
    perturbed: Sequence[ScoredRow] = ()

    @cached_property
    def recording(self) -> Recording:
        """What was asked and answered: `save` it, or score it anew with another metric without a call."""
        return Recording(question.row for question in [*self.questions, *self.perturbed])

    def scores(self, system: str) -> npt.NDArray[np.float64]:
        """A system's scores, one per question."""
        return np.array([question.answers[system].score for question in self.questions], dtype=float)

    @cached_property
    def is_accuracy(self) -> bool:
        """Whether every score says right (1) or wrong (0)."""
        return all(answer.score in (0, 1) for question in self.questions for answer in question.answers.values())

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
        if not self.questions:
            return []
        best = self.scores(self.best_single)
        differences = np.stack([self.scores(system.name) - best for system in self.systems], axis=1)
        gains = bootstrap(differences, confidence=CONFIDENCE, seed=self.seed)
        return [self._row(*columns) for columns in zip(self.systems, differences.T, gains, strict=True)]

    def row(self, system: str) -> Row:
        """A system's row."""
        return next(row for row in self.rows if row.name == system)

    @cached_property
    def measures(self) -> list[Measure]:
        """Every system by every measure: metrics, robustness, calibration, cost and latency; unknown ones left out."""
        return [one for system in self.systems for one in self._measure(system.name)] if self.questions else []

    @property
    def usage(self) -> Usage:
        """What was really spent: less than the rows' sum, as each proposal served all systems."""
        return self.recording.usage

    @cached_property
    def troubles(self) -> list[Trouble]:
        """What went wrong, by system and type of error, as often as it did."""
        found = ((one.name, asked.answers[one.name].failure) for one in self.systems for asked in self.questions)
        return count_troubles([(who, failure.error, failure.message) for who, failure in found if failure], [])

    def split(self, key: str | Callable[[dspy.Example], Any]) -> dict[Any, Comparison]:
        """One comparison per group of questions, in order of first appearance.

        Args:
            key: The name of a field of the dataset, or what gives an example's group.
        """

        def group(questions: Sequence[ScoredRow]) -> dict[Any, list[ScoredRow]]:
            groups: dict[Any, list[ScoredRow]] = {}
            for one in questions:
                groups.setdefault(one.example.get(key) if isinstance(key, str) else key(one.example), []).append(one)
            return groups

        further = {name: other.split(key) for name, other in self.further.items()}
        reworded = group(self.perturbed)
        return {
            name: replace(
                self,
                questions=questions,
                planned=len(questions),
                further={metric: parts[name] for metric, parts in further.items()},
                perturbed=reworded.get(name, ()),
            )
            for name, questions in group(self.questions).items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The results as data for JSON; the answers themselves are in the recording."""
        results: dict[str, Any] = to_jsonable(
            {
                "simulated": self.is_simulated,
                "questions": len(self.questions),
                "planned": self.planned,
                "metric": self.metric,
                "score": "accuracy" if self.is_accuracy else "mean",
                "confidence": CONFIDENCE,
                "seed": self.seed,
                "best_single": self.best_single if self.questions else None,
                "rows": [asdict(row) | {"tokens": row.tokens} for row in self.rows],
                "measures": self.measures,
                "models": {system.name: system.models for system in self.systems},
                "troubles": self.troubles,
                "spent": self.usage,
            }
        )
        return results

    def table(self, width: int = 80) -> Table:
        """The rows as a rich table; scores are in percent if the metric says right or wrong.

        Args:
            width: Columns of the terminal: where there is little room, numbers are whole, and calls, tokens and time
                are left out.
        """
        return rows_table(self, width)

    def __str__(self) -> str:
        return shown_as_text(self.table())

    def split_table(self, key: str | Callable[[dspy.Example], Any]) -> Table:
        """The systems' scores by kind of question, the best of each kind in bold; `key` as for `split`."""
        return groups_table(self, self.split(key))

    def measures_table(self) -> Table:
        """The measures as a rich table: a line per system, with 95% intervals."""
        return measures_table(self.measures)

    def plot(self, path: str | Path) -> Path:
        """Plot every system's score against what it takes; see `save_plot`."""
        from moa_dspy.evaluation.plot import save_plot

        return save_plot(self, path)

    def _row(self, system: System, differences: npt.NDArray[np.float64], gain: Interval) -> Row:
        answers = [question.answers[system.name] for question in self.questions]
        taken, scores = self._taken(system.name), self.scores(system.name)
        return Row(
            name=system.name,
            kind=system.kind,
            score=float(scores.mean()),
            interval=score_interval(scores, self.seed),
            difference=float(differences.mean()),
            difference_interval=None if system.name == self.best_single else gain,
            **{name: float(np.mean(values)) if values else None for name, values in taken.items()},
            failures=sum(answer.outputs is None for answer in answers),
            fallbacks=sum(answer.fallback_used for answer in answers),
            cached=len(taken["calls"]) - len(taken["seconds"]),
        )

    def _taken(self, system: str) -> dict[str, list[float]]:
        """What a system's answers take, one number per question of which it is known."""
        answers = [question.answers[system] for question in self.questions]
        taken = [(answer, Usage.of(answer.calls)) for answer in answers if answer.calls is not None]
        fresh = [(answer, usage) for answer, usage in taken if not usage.cache_hits]
        priced = [(a.share, u.cost_usd) for a, u in fresh if u.cost_usd is not None and not u.unpriced_calls]
        return {
            "calls": [answer.share * usage.calls for answer, usage in taken],
            "prompt_tokens": [answer.share * usage.prompt_tokens for answer, usage in fresh],
            "completion_tokens": [answer.share * usage.completion_tokens for answer, usage in fresh],
            "cost_usd": [share * cost for share, cost in priced],
            "seconds": [answer.seconds for answer, _ in fresh],
        }

    def _measure(self, system: str) -> Iterator[Measure]:
        scores = {name: one.scores(system) for name, one in {self.metric: self, **self.further}.items()}
        if self.perturbed:
            scores["robustness"] = self._worst_scores(system)
        for name, values in scores.items():
            if len(values):
                yield Measure(system, name, float(values.mean()), score_interval(values, self.seed), len(values))
        answers = [question.answers[system] for question in self.questions]
        sure = np.array([(one.confidence, one.score) for one in answers if one.confidence is not None]).T
        if len(sure) and self.is_accuracy:
            error, interval = intervals.calibration_error(*sure), intervals.calibration_interval(*sure)
            yield Measure(system, "ECE", error, interval, sure.shape[1])
        taken = self._taken(system)
        tokens = [sum(pair) for pair in zip(taken["prompt_tokens"], taken["completion_tokens"], strict=True)]
        for name, amounts in {"tokens": tokens, "USD": taken["cost_usd"], "seconds": taken["seconds"]}.items():
            if amounts:
                interval = intervals.mean_interval(amounts, seed=self.seed, resamples=1000)
                yield Measure(system, name, float(np.mean(amounts)), interval, len(amounts))

    def _worst_scores(self, system: str) -> npt.NDArray[np.float64]:
        """Of each question that was put in other words, the worst score."""
        worded: dict[str, list[float]] = {}
        for one in self.perturbed:
            worded.setdefault(one.row.extra[PERTURBED_FROM], []).append(one.answers[system].score)
        asked = ((one.answers[system].score, worded.get(one.row.key)) for one in self.questions)
        return np.array([min(score, *others) for score, others in asked if others])
