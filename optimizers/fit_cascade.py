"""Cascades fitted to examples: which stages, how sure one must be not to ask the next, and what is lost by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from moa_dspy.certainty import Calibration, find_threshold, fit, predict
from moa_dspy.dispatch import Cascade, asks_aggregator
from moa_dspy.evaluation import Metric, save_figure
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.recording.replay import separate_verdict
from moa_dspy.usage import Usage

from .calibrate import require_promise
from .committee import price_proposals
from .examples import CompileInterrupted
from .from_answers import Asked, FromAnswers
from .reports import Report, list_table
from .vote_weights import Weights, accuracies
from .votes import Floats, Votes, take_vote

__all__ = ["CascadeReport", "Committees", "FitCascade", "Looks", "Stop", "find_stop", "list_stops"]

STEPS = 50  # thresholds that are tried, beside that of never stopping


@dataclass(frozen=True)
class CascadeReport(Report):
    """What came of fitting a cascade."""

    stops: Sequence[Stop] = field(repr=False)  # every threshold tried, the strictest first: quality against cost
    chosen: Stop  # the one that the cascade has
    always: tuple[float, float, float | None]  # always to ask all: score, calls, USD
    single: tuple[float, float, float | None]  # the same of the best single model
    single_name: str
    reason: str
    usage: Usage  # what the answers took, those recorded earlier included

    def table(self) -> Table:
        """The curve as a rich table, with always asking all and the best single model."""
        rows = []
        for one in self.stops:
            name = f"{one.threshold:.3f}" if one.threshold <= 1 else "settled"
            name += " (chosen)" if one is self.chosen else ""
            rows.append([name, f"{one.calls:.2f}", _usd(one.cost_usd), f"{one.score:.3f}", f"{one.lost:.3f}"])
        for name, (score, calls, cost) in (("always all", self.always), (self.single_name, self.single)):
            rows.append([name, f"{calls:.2f}", _usd(cost), f"{score:.3f}", ""])
        return list_table(["stops at", "calls", "USD", "right", "lost"], rows, self.reason)

    def plot(self, path: str | Path) -> Path:
        """Plot the share of right answers against calls per question; `path` as for a comparison's plot."""
        return save_figure(path, self._draw, "Right answers against calls", self.reason.partition(":")[0], self.table)

    def _draw(self, axes: Any) -> None:
        calls, scores = [one.calls for one in self.stops], [one.score for one in self.stops]
        axes.plot(calls, scores, color="#0b5cad", label="a cascade, by its threshold")
        axes.plot(self.chosen.calls, self.chosen.score, "o", color="#0b5cad", label="chosen")
        axes.plot(self.always[1], self.always[0], "s", color="#b35900", label="always all")
        axes.plot(self.single[1], self.single[0], "D", color="#5f6368", label=self.single_name)
        axes.set(xlabel="calls per question", ylabel="right answers")


class FitCascade(FromAnswers[MoA | Cascade]):
    """Makes a `Cascade` of a mixture: votes of few of its agents first, of more where these are not sure, then all.

    Each example is asked once; the rest is arithmetic. Stages are votes of the 2, 3, ... most accurate agents, the
    last one is the mixture itself. Each is calibrated, and one threshold is chosen for all.

    Without a goal, it is the cheapest threshold for which, at 90%, the cascade is wrong on no more than `max_loss` of
    all questions that the mixture would get right. Where the last stage is a vote, a cascade stops anyway as soon as
    the votes to come cannot change the answer, which loses nothing.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) or 1 (right).
        max_error: Rather the cheapest threshold with this promise for the answers that reach it (see `Calibrate`); the
            others are flagged as `abstained`. Without a valset, half of the trainset is held back for it.
        max_calls: Rather the best one with no more LM calls per question.
        max_cost_usd: Rather the best one that costs no more per question.
        max_loss: See above.
        concurrency: Examples under way at once.

    Attributes:
        report: Of the last compile: the curve of quality against cost; see `CascadeReport`.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> names = ["alice", "bob", "carol", "dave"]
        >>> moa = MoA("question -> answer", [f"simulated/{name}" for name in names], strategy="voting")
        >>> optimizer = FitCascade("exact", max_calls=3)
        >>> cascade = optimizer.compile(moa, trainset=bundled_questions())
        >>> optimizer.report.chosen.calls <= 3 < optimizer.report.always[1]
        True
    """

    def __init__(
        self,
        metric: str | Metric = "exact",
        *,
        max_error: float | None = None,
        max_calls: float | None = None,
        max_cost_usd: float | None = None,
        max_loss: float = 0.02,
        concurrency: int = 8,
    ) -> None:
        super().__init__(metric, concurrency)
        require_promise(max_error)
        if not 0 < max_loss < 1:
            raise ValueError(f"max_loss={max_loss} is no share of questions that may be lost. Give one, such as 0.02.")
        goals = {"max_error": max_error, "max_calls": max_calls, "max_cost_usd": max_cost_usd}
        given = [(name, limit) for name, limit in goals.items() if limit is not None]
        if len(given) > 1:
            raise ValueError("Give one goal: max_error, max_calls or max_cost_usd. One threshold cannot serve two.")
        self.goal, self.limit = given[0] if given else ("max_loss", max_loss)
        if not self.limit > 0:
            raise ValueError("max_calls and max_cost_usd are per question, and more than 0.")
        self.report: CascadeReport | None = None

    def learn(self, asked: Asked) -> MoA | Cascade:
        """Fit the cascade."""
        if self.goal == "max_error" and not asked.val:
            # Several stages have chances to be wrong: what they are learned from says too little of what is promised.
            asked = replace(asked, train=asked.train[::2], val=asked.train[1::2])
        moa, train, val = asked.moa, asked.train, asked.val
        judged = asks_aggregator(moa)
        recording = asked.ask(verdicts=True)
        here, there = asked.count(recording)
        if len(here.scores) < 20 or len(here.columns) < 2:
            found = f"{len(here.scores)} examples and {len(here.columns)} proposals of each are too few for a cascade."
            raise CompileInterrupted(found, "Give 100 examples, and two agents or samples.", recording=recording)
        strategy: Any = moa.strategy  # the weights of early votes are those of its own vote, so that none is changed
        own = None if judged else np.array([strategy.weights.get(name, 1.0) for name in here.agents])
        committees = Committees(here, Weights(here).of() if own is None else own)
        prices = list(price_proposals(here.agents, recording).values())
        looks = committees.look(there if val else here, prices, held_out=not val)
        fits = list(committees.fits)
        if judged:
            rows, right = asked.read(recording, train, keep_all=True)
            fits.append(fit(rows, right))
            confidences = fits[-1].held_out
            if val:
                rows, right = asked.read(recording, val, keep_all=True)
                confidences = predict(fits[-1].coefficients, rows)
            looks = looks.then(confidences, right, *_price_verdicts(moa, recording, looks))
        if self.goal == "max_error":  # more votes may make an answer sure that they cannot change
            looks = replace(looks, settled=np.zeros_like(looks.settled))
        self.report = self._choose(looks, here, recording, prices)
        return self._build(moa, committees, fits, self.report.chosen, len(train), judged)

    def _choose(
        self, looks: Looks, votes: Votes, recording: Recording, prices: Sequence[float | None]
    ) -> CascadeReport:
        stops, questions = list(list_stops(looks)), looks.scores.shape[1]
        goal = f"{self.goal}={self.limit}"
        if self.goal == "max_cost_usd" and looks.costs is None:
            said = "What the models cost is not known, so no budget in USD can be kept. Give max_calls instead."
            raise CompileInterrupted(said, recording=recording)
        if self.goal in ("max_error", "max_loss"):
            chosen = find_stop(stops, questions, **{self.goal: self.limit})
        else:
            takes = [one.calls if self.goal == "max_calls" else one.cost_usd or 0.0 for one in stops]
            within = [one for one, amount in zip(stops, takes, strict=True) if amount <= self.limit + 1e-9]
            chosen = max(within, key=lambda one: (round(one.score, 9), -one.calls), default=None)
        if chosen is None:
            raise CompileInterrupted(
                f"No threshold meets {goal} on these {questions} rows; the cheapest cascade takes "
                f"{min(one.calls for one in stops):.2f} calls per question. Ask for less, or give more labelled rows.",
                recording=recording,
            )
        best = int(votes.alone.mean(axis=0).argmax())
        always = (float(looks.scores[-1].mean()), float(looks.calls[-1]), _last(looks.costs))
        single = (float(votes.alone[:, best].mean()), 1.0, prices[best])
        reason = (
            f"{goal} on {questions} rows: {chosen.calls:.2f} calls per question, and {always[1]:.2f} if all are always "
            f"asked; right {chosen.score:.3f}, and {always[0]:.3f} ({chosen.lost:.1%} lost, others gained); "
            f"{votes.agents[best]} alone {single[0]:.3f}."
        )
        return CascadeReport(stops, chosen, always, single, votes.agents[best], reason, recording.usage)

    def _build(
        self, moa: MoA, committees: Committees, fits: Sequence[Any], chosen: Stop, rows: int, judged: bool
    ) -> MoA | Cascade:
        stages, agents, samples = [], moa.panels[0].names, moa.panels[0].samples
        max_error = self.limit if self.goal == "max_error" else None
        promise: Any = {"threshold": chosen.threshold, "max_error": max_error, "on_unsure": "flag"}

        def calibrate(fitted: Any) -> Calibration:
            return Calibration.of(fitted.coefficients, agents, rows, chosen.score).model_copy(update=promise)

        for number, (share, weights) in enumerate(zip(chosen.shares, committees.weights, strict=False)):
            is_last = not judged and number == len(chosen.shares) - 1
            if share > 0 and not is_last:
                counted = {name: float(weight) for name, weight in zip(agents, weights, strict=True) if weight > 0}
                stage = take_vote(moa, list(counted), samples, counted)
                stage.calibration = calibrate(fits[number])
                stages.append(stage)
        if max_error is not None:
            moa.calibration = calibrate(fits[-1])
        return Cascade([*stages, moa]) if stages else moa


class Committees:
    """Votes of the 2, 3, ... most accurate agents (one of several samples says something too), and how sure each is.

    `weights` are those of the agents in the vote of all.
    """

    def __init__(self, train: Votes, weights: Floats) -> None:
        number, least = len(train.agents), 1 if train.samples > 1 else min(2, len(train.agents))
        rank = np.argsort(np.argsort(-accuracies(train), kind="stable"), kind="stable")
        self.all = weights
        self.weights = [np.where(rank < n, np.maximum(weights, 1e-9), 0.0) for n in range(least, number + 1)]
        self.fits = [fit(*train.weigh(each)[:2]) for each in self.weights]

    def look(self, votes: Votes, prices: Sequence[float | None] = (), held_out: bool = False) -> Looks:
        """What these committees say; with `held_out`, of the rows that they were learned from."""
        rows, scores, leads = zip(*(votes.weigh(each) for each in self.weights), strict=True)
        asked = np.array(self.weights) > 0
        sure = [f.held_out if held_out else predict(f.coefficients, r) for f, r in zip(self.fits, rows, strict=True)]
        costs: Floats | None = None
        if prices and None not in prices:
            costs = votes.samples * (asked.astype(float) @ np.array(prices, dtype=float))
        settled = np.array(leads) > votes.samples * (~asked @ self.all)[:, None] + 1e-9
        return Looks(np.array(sure), np.array(scores), settled, votes.samples * asked.sum(axis=1, dtype=float), costs)


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
        confidences, scores = np.vstack([self.confidences, confidences]), np.vstack([self.scores, scores])
        return Looks(confidences, scores, np.zeros(scores.shape, dtype=bool), np.append(self.calls, calls), costs)


@dataclass(frozen=True)
class Stop:
    """A cascade's threshold, and what comes of it on rows that were not learned from."""

    threshold: float  # the confidence at which a stage stops; above 1, only what is settled stops
    calls: float  # per question
    cost_usd: float | None  # per question; None if a price is not known
    score: float  # the share of right answers
    lost: float  # the share of questions that the last stage gets right and the cascade wrong
    answered: float  # the share of answers whose confidence reaches the threshold
    error: float  # the share of wrong ones among these
    shares: tuple[float, ...]  # of each stage, the share of questions that stop there


def list_stops(looks: Looks) -> Iterator[Stop]:
    """What comes of every threshold, the strictest first."""
    sure, questions = looks.confidences, np.arange(looks.scores.shape[1])
    tried = np.unique(np.quantile(sure, np.linspace(0, 1, STEPS), method="lower"))[::-1]
    for threshold in [2.0, *map(float, tried)]:
        stage = looks.stop(threshold)
        scores, given = looks.scores[stage, questions], sure[stage, questions] >= threshold - 1e-9
        yield Stop(
            threshold=threshold,
            calls=float(looks.calls[stage].mean()),
            cost_usd=None if looks.costs is None else float(looks.costs[stage].mean()),
            score=float(scores.mean()),
            lost=float(((looks.scores[-1] == 1) & (scores < 1)).mean()),
            answered=float(given.mean()),
            error=float((scores[given] < 1).mean()) if given.any() else 0.0,
            shares=tuple(float((stage == number).mean()) for number in range(len(sure))),
        )


def find_stop(
    stops: Sequence[Stop], questions: int, *, max_loss: float = 0.0, max_error: float | None = None
) -> Stop | None:
    """The cheapest of these that keeps a promise, tested from the strictest on until one fails; see `find_threshold`.

    Never stopping but where all is settled loses nothing, and needs no test.
    """
    if max_error is None:
        cuts = [(stop.threshold, round(stop.lost * questions), questions) for stop in stops[1:]]
    else:
        counts = [round(stop.answered * questions) for stop in stops]
        cuts = [(stop.threshold, round(stop.error * n), n) for stop, n in zip(stops, counts, strict=True)]
    limit = max_error or max_loss
    threshold = find_threshold(tuple(cuts), limit) if limit else None
    unmet = stops[0] if max_error is None else None
    return next((stop for stop in stops if stop.threshold == threshold), unmet)


def _price_verdicts(moa: MoA, recording: Recording, looks: Looks) -> tuple[float, float | None]:
    """Calls and USD of asking all and then the aggregator."""
    verdicts = [separate_verdict(row).verdicts.get(moa.strategy.name) for row in recording]
    usages = [Usage.of(verdict.calls) for verdict in verdicts if verdict is not None]
    spent, share = sum(usages, Usage.of([])), 1 / max(1, len(usages))
    known = looks.costs is not None and spent.cost_usd is not None and not spent.unpriced_calls
    cost = None if not known else (_last(looks.costs) or 0.0) + (spent.cost_usd or 0.0) * share
    return float(looks.calls[-1]) + spent.calls * share, cost


def _usd(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.2g}"


def _last(costs: Floats | None) -> float | None:
    return None if costs is None else float(costs[-1])
