"""Where a cascade stops, on recorded votes: committees of growing size, how sure each is, and what is lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moa_dspy.certainty import count_fewest, fit, is_kept, predict

from .votes import Floats, Votes, Weights

__all__ = ["Committees", "Looks", "Stop", "list_stops", "stop_within"]

STEPS = 50  # thresholds that are tried, beside that of never stopping


@dataclass(frozen=True)
class Looks:
    """What each stage says of each question; all of shape (stages, questions).

    Attributes:
        confidences: How sure it is.
        scores: 1 where its answer is right.
        settled: Whether the stages after it can no longer change its answer.
        calls: Calls up to this stage, of shape (stages,).
        costs: USD up to this stage; None if a price is not known.
    """

    confidences: Floats
    scores: Floats
    settled: npt.NDArray[np.bool_]
    calls: Floats
    costs: Floats | None = None

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
    """Votes of the 1, 2, 3, ... most accurate agents, with what each says of how sure it is.

    Args:
        train: Recorded votes to learn from.
        weights: Of the agents, in the vote of all.
        sizes: How many agents, ascending; None: every size that says anything of its confidence, and all.
    """

    def __init__(self, train: Votes, weights: Floats, sizes: Sequence[int] | None = None) -> None:
        number, least = len(train.agents), 1 if train.samples > 1 else min(2, len(train.agents))
        rank = np.argsort(np.argsort(-Weights(train).accuracy, kind="stable"), kind="stable")
        self.sizes = list(sizes) if sizes is not None else list(range(least, number + 1))
        self.weights = [np.where(rank < size, np.maximum(weights, 1e-9), 0.0) for size in self.sizes]
        self.all = weights
        found = [train.weigh(each) for each in self.weights]
        self.fits = [fit(rows, scores) for rows, scores, _ in found]

    def look(self, votes: Votes, prices: Sequence[float | None] = (), held_out: bool = False) -> Looks:
        """What these committees say; with `held_out`, of the rows that they were learned from."""
        found = [votes.weigh(each) for each in self.weights]
        asked = [each > 0 for each in self.weights]
        sure = [f.held_out if held_out else predict(f.coefficients, found[n][0]) for n, f in enumerate(self.fits)]
        left = [votes.samples * float(self.all[~each].sum()) for each in asked]
        settled = [lead > weight + 1e-9 for (_, _, lead), weight in zip(found, left, strict=True)]
        known = None if None in prices or not prices else np.array(prices, dtype=float)
        return Looks(
            np.array(sure),
            np.array([scores for _, scores, _ in found]),
            np.array(settled),
            np.array([float(each.sum()) * votes.samples for each in asked]),
            None if known is None else np.array([float(known[each].sum()) * votes.samples for each in asked]),
        )


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
