"""Where a cascade stops, on recorded votes: committees of growing size, how sure each is, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moa_dspy.certainty import count_fewest, fit, is_kept, predict

from .vote_weights import Weights
from .votes import Floats, Votes

__all__ = ["Committees", "Looks", "Stop", "list_stops", "stop_within"]

STEPS = 50  # thresholds that are tried, beside that of never stopping


@dataclass(frozen=True)
class Looks:
    """What each stage says of each question, of shape (stages, questions), and what it takes to come to each stage."""

    confidences: Floats
    scores: Floats  # 1 where its answer is right
    settled: npt.NDArray[np.bool_]  # whether the stages after it can no longer change its answer
    calls: Floats
    costs: Floats | None = None  # USD; None if a price is not known

    def stop(self, threshold: float) -> npt.NDArray[np.intp]:
        """The stage at which each question stops."""
        stops = (self.confidences >= threshold - 1e-9) | self.settled
        stops[-1] = True
        return stops.argmax(axis=0)

    def then(self, confidences: Floats, scores: Floats, calls: float, cost: float | None) -> Looks:
        """These stages and a last one, before which no vote is settled."""
        costs = None if self.costs is None or cost is None else np.append(self.costs, cost)
        return Looks(
            np.vstack([self.confidences, confidences]),
            np.vstack([self.scores, scores]),
            np.vstack([np.zeros_like(self.settled), np.zeros(len(scores), dtype=bool)]),
            np.append(self.calls, calls),
            costs,
        )


@dataclass(frozen=True)
class Stop:
    """A cascade's threshold, and what comes of it on rows that were not learned from.

    Attributes:
        threshold: The confidence at which a stage stops; above 1, only what is settled stops.
        calls: Per question.
        cost_usd: Per question; None if a price is not known.
        score: The share of right answers.
        lost: The share of questions that the last stage gets right and the cascade wrong.
        answered: The share of answers whose confidence reaches the threshold.
        error: The share of wrong ones among these.
        shares: Of each stage, the share of questions that stop there.
    """

    threshold: float
    calls: float
    cost_usd: float | None
    score: float
    lost: float
    answered: float
    error: float
    shares: tuple[float, ...]


class Committees:
    """Votes of the 2, 3, ... most accurate agents (one of several samples says something too), and how sure each is.

    Args:
        train: Recorded votes to learn from.
        weights: Of the agents, in the vote of all.
    """

    def __init__(self, train: Votes, weights: Floats) -> None:
        number, least = len(train.agents), 1 if train.samples > 1 else min(2, len(train.agents))
        rank = np.argsort(np.argsort(-Weights(train).accuracy, kind="stable"), kind="stable")
        self.all = weights
        self.weights = [np.where(rank < n, np.maximum(weights, 1e-9), 0.0) for n in range(least, number + 1)]
        self.fits = [fit(*train.weigh(each)[:2]) for each in self.weights]

    def look(self, votes: Votes, prices: Sequence[float | None] = (), held_out: bool = False) -> Looks:
        """What these committees say; with `held_out`, of the rows that they were learned from."""
        rows, scores, leads = zip(*(votes.weigh(each) for each in self.weights), strict=True)
        asked = np.array(self.weights) > 0
        sure = [f.held_out if held_out else predict(f.coefficients, r) for f, r in zip(self.fits, rows, strict=True)]
        left = votes.samples * (~asked @ self.all)
        costs: Any = None
        if prices and None not in prices:
            costs = votes.samples * (asked @ np.array(prices, dtype=float))
        settled = np.array(leads) > left[:, None] + 1e-9
        return Looks(np.array(sure), np.array(scores), settled, votes.samples * asked.sum(axis=1, dtype=float), costs)


def list_stops(looks: Looks) -> Iterator[Stop]:
    """What comes of every threshold, the strictest first."""
    sure, questions = looks.confidences, np.arange(looks.scores.shape[1])
    tried = np.unique(np.quantile(sure, np.linspace(0, 1, STEPS), method="lower"))[::-1]
    for threshold in [2.0, *map(float, tried)]:
        stage = looks.stop(threshold)
        scores, given = looks.scores[stage, questions], sure[stage, questions] >= threshold - 1e-9
        lost, wrong = int(((looks.scores[-1] == 1) & (scores < 1)).sum()), int((scores[given] < 1).sum())
        yield Stop(
            threshold=threshold,
            calls=float(looks.calls[stage].mean()),
            cost_usd=None if looks.costs is None else float(looks.costs[stage].mean()),
            score=float(scores.mean()),
            lost=lost / len(questions),
            answered=float(given.mean()),
            error=wrong / max(1, int(given.sum())),
            shares=tuple(float((stage == number).mean()) for number in range(len(sure))),
        )


def stop_within(
    stops: Sequence[Stop], questions: int, *, max_loss: float = 0.0, max_error: float | None = None
) -> Stop | None:
    """The cheapest of these that keeps a promise, tested from the strictest on until one fails; see `find_threshold`.

    Never stopping but where all is settled loses nothing, and needs no test.
    """
    best = stops[0] if max_error is None else None
    for stop in stops[1:]:
        if max_error is not None:
            answered = round(stop.answered * questions)
            if answered < count_fewest(max_error):
                continue
            if not is_kept(round(stop.error * answered), answered, max_error):
                break
        elif not is_kept(round(stop.lost * questions), questions, max_loss):
            break
        best = stop
    return best
