"""Routes fitted to examples: which questions go to one model, which to a committee, which to the whole mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy
import numpy as np

from moa_dspy.dispatch import Embed, Route, RouteTable, asks_aggregator, estimate, text_of
from moa_dspy.evaluation import Interval, Metric, difference_interval
from moa_dspy.moa import MoA
from moa_dspy.usage import Usage

from .examples import CompileInterrupted, inputs_of
from .from_answers import Asked, FromAnswers
from .reports import Report
from .votes import Floats, Votes, is_win, take_vote

__all__ = ["FitRoute", "RouteReport", "route_held_out"]

WHOLE = "mixture"
FOLDS = 5


@dataclass(frozen=True)
class RouteReport(Report):
    """What came of fitting a route."""

    scores: Mapping[str, float]  # option -> its score on all questions
    shares: Mapping[str, float]  # option -> the share of questions that go to it
    routed: float  # the score of the routes, each question by what was learned from others
    best: tuple[str, float]  # the option that is best for all questions, and its score
    gain: Interval  # 95%, of the difference
    kept: bool  # whether the routes are taken
    reason: str
    usage: Usage  # what the answers took, those recorded earlier included


class FitRoute(FromAnswers[MoA | Route]):
    """Learns which questions one model answers best, and which the mixture; a `Route` asks accordingly.

    Each example is asked once; the rest is arithmetic. What an option will score on a question is the mean over
    questions like it, shrunk to its score on all. Routes are kept only if, on rows held out (fifths in turns), they
    are better than the best option for all by more than chance (at 95%); else the mixture stays as it is.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) to 1 (right).
        column: The field of the examples by which questions are alike, such as a category.
        embedder: Instead, a `dspy.Embedder` for the inputs' text: the nearest questions are alike.
        concurrency: Examples under way at once.

    Examples:
        ```python
        optimizer = FitRoute("exact", embedder=dspy.Embedder("openai/text-embedding-3-small"))
        routed = optimizer.compile(moa, trainset=examples)
        print(optimizer.report.reason)
        ```
    """

    def __init__(
        self,
        metric: str | Metric = "exact",
        *,
        column: str | None = None,
        embedder: Embed | None = None,
        concurrency: int = 8,
    ) -> None:
        super().__init__(metric, concurrency)
        if (column is None) == (embedder is None):
            raise ValueError("Questions are alike by a column or by their embeddings: give column= or embedder=.")
        self.column = column
        self.embedder: Any = embedder
        self.report: RouteReport | None = None

    def learn(self, asked: Asked) -> MoA | Route:
        """Fit the routes; of a valset too, as all is held out in turns."""
        moa, examples = asked.moa, [*asked.train, *asked.val]
        keys = self._read_keys(moa, examples)
        recording = asked.ask(verdicts=True)
        if len(examples) < 2 * FOLDS:
            problem = f"{len(examples)} examples are too few to learn routes from and to hold some out."
            raise CompileInterrupted(problem, "Give 100.", recording=recording)
        votes = Votes.of(moa, recording, examples, asked.scored, asked.threads)
        _, whole = asked.read(recording, examples, keep_all=True)
        names, table = [WHOLE, *votes.agents], np.column_stack([whole, votes.alone])
        costs = [votes.samples * len(votes.agents) + asks_aggregator(moa), *(1 for _ in votes.agents)]
        order = sorted(range(len(names)), key=lambda n: (-round(float(table[:, n].mean()), 9), costs[n]))
        names, table = [names[n] for n in order], table[:, order]
        self.report = _judge(names, table, keys, recording.usage)
        if not self.report.kept:
            return asked.student.deepcopy()
        options = {name: moa if name == WHOLE else take_vote(moa, [name], 1, {}) for name in names}
        return Route(options, RouteTable(names, keys, table), column=self.column, embedder=self.embedder)

    def _read_keys(self, moa: MoA, examples: Sequence[dspy.Example]) -> list[Any]:
        if self.column is None:
            texts = [text_of(inputs_of(moa.signature, example)) for example in examples]
            return list(np.asarray(self.embedder(texts), dtype=float))
        values = [example.get(self.column) for example in examples]
        if missing := sum(value is None for value in values):
            raise ValueError(
                f"{missing} of {len(examples)} examples have no {self.column!r}, so it is not known which questions "
                "are alike. Fill it in, name another column, or give an embedder."
            )
        if len(set(map(str, values))) < 2:
            raise ValueError(f"All examples have the same {self.column!r}, so all would take one route.")
        return [str(value) for value in values]


def _judge(names: Sequence[str], table: Floats, keys: Sequence[Any], usage: Usage) -> RouteReport:
    routed, chosen = route_held_out(table, keys)
    best, gain, kept = table[:, 0], difference_interval(routed, table[:, 0]), is_win(routed, table[:, 0])
    reason = (
        f"On {len(best)} examples held out, routes score {routed.mean():.3f} and {names[0]} for all "
        f"{best.mean():.3f} ({float((routed - best).mean()):+.3f}, 95% {gain.low:+.3f} to {gain.high:+.3f}): "
        f"{'they are kept' if kept else 'no win that is more than chance, and the mixture stays as it was'}."
    )
    means = dict(zip(names, map(float, table.mean(axis=0)), strict=True))
    shares = {name: float((chosen == n).mean()) for n, name in enumerate(names)}
    return RouteReport(means, shares, float(routed.mean()), (names[0], float(best.mean())), gain, kept, reason, usage)


def route_held_out(table: Floats, keys: Sequence[Any]) -> tuple[Floats, Any]:
    """What routes score on each question, learned from the other folds, and which option each takes."""
    fold, array = np.random.default_rng(0).permutation(len(table)) % FOLDS, np.asarray(keys)
    chosen = np.zeros(len(table), dtype=int)
    for number in range(FOLDS):
        out = fold == number
        chosen[out] = estimate(array[~out], table[~out], array[out]).argmax(axis=1)
    return table[np.arange(len(table)), chosen], chosen
