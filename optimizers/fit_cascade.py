"""Cascades fitted to examples: which stages, and how sure one must be not to ask the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moa_dspy.cascade import Cascade, asks_aggregator
from moa_dspy.certainty import Calibration, fit, predict
from moa_dspy.evaluation import Metric, save_figure
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.usage import Usage

from .calibrate import require_promise
from .committee import price_proposals
from .examples import CompileInterrupted
from .from_answers import Asked, FromAnswers
from .reports import Report, list_table
from .stopping import Committees, Looks, Stop, list_stops, stop_within
from .vote_weights import Weights
from .votes import Floats, Votes, take_vote

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["CascadeReport", "FitCascade"]


@dataclass(frozen=True)
class CascadeReport(Report):
    """What came of fitting a cascade.

    Attributes:
        stops: Every threshold that was tried, the strictest first: the curve of quality against cost.
        chosen: The one that the cascade has.
        always: What it takes always to ask all, and how often that is right: score, calls, USD.
        single: The same of the best single model, and its name.
        reason: In words.
        usage: What the answers took, those recorded earlier included.
    """

    stops: Sequence[Stop] = field(repr=False)
    chosen: Stop
    always: tuple[float, float, float | None]
    single: tuple[float, float, float | None]
    single_name: str
    reason: str
    usage: Usage

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
        concurrency: Examples under way at once; each asks its proposers side by side.

    Raises:
        ValueError: If a setting makes no sense.

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
        if sum(goal is not None for goal in (max_error, max_calls, max_cost_usd)) > 1:
            raise ValueError("Give one goal: max_error, max_calls or max_cost_usd. One threshold cannot serve two.")
        if any(limit is not None and not limit > 0 for limit in (max_calls, max_cost_usd)):
            raise ValueError("max_calls and max_cost_usd are per question, and more than 0.")
        self.max_error, self.max_loss = max_error, max_loss
        self.max_calls, self.max_cost_usd = max_calls, max_cost_usd
        self.report: CascadeReport | None = None

    def learn(self, asked: Asked) -> MoA | Cascade:
        """Fit the cascade."""
        if self.max_error is not None and not asked.val:
            # Several stages have chances to be wrong: what they are learned from says too little of what is promised.
            asked = replace(asked, train=asked.train[::2], val=asked.train[1::2])
        moa, train, val = asked.moa, asked.train, asked.val
        judged = asks_aggregator(moa)
        recording = asked.ask(verdicts=True)
        here, there = asked.count(recording)
        if len(here.scores) < 20 or len(here.columns) < 2:
            found = f"{len(here.scores)} examples and {len(here.columns)} proposals of each"
            raise CompileInterrupted(
                f"{found} are too few for a cascade.",
                "Give 100 examples, and two agents or samples.",
                recording=recording,
            )
        committees = Committees(here, self._weigh(moa, here, judged))
        prices = price_proposals(here.agents, recording)
        looks = committees.look(there if val else here, list(prices.values()), held_out=not val)
        fits = list(committees.fits)
        if judged:
            rows, right = asked.read(recording, train, keep_all=True)
            fits.append(fit(rows, right))
            confidences = fits[-1].held_out
            if val:
                rows, right = asked.read(recording, val, keep_all=True)
                confidences = predict(fits[-1].coefficients, rows)
            looks = looks.then(confidences, right, *_price_verdicts(moa, recording, looks))
        if self.max_error is not None:  # more votes may make an answer sure that they cannot change
            looks = replace(looks, settled=np.zeros_like(looks.settled))
        self.report = self._choose(looks, here, recording, list(prices.values()))
        return self._build(moa, committees, fits, self.report.chosen, len(train), judged)

    def _weigh(self, moa: MoA, votes: Votes, judged: bool) -> Floats:
        """The agents' weights in the early votes: those of the mixture's own vote, so that none is changed by it."""
        if judged:
            return Weights(votes).of()
        strategy: Any = moa.strategy
        return np.array([strategy.weights.get(name, 1.0) for name in votes.agents])

    def _choose(
        self, looks: Looks, votes: Votes, recording: Recording, prices: Sequence[float | None]
    ) -> CascadeReport:
        stops, questions = list(list_stops(looks)), looks.scores.shape[1]
        chosen: Stop | None
        if self.max_calls is None and self.max_cost_usd is None:
            chosen = stop_within(stops, questions, max_loss=self.max_loss, max_error=self.max_error)
            goal = f"max_loss={self.max_loss}" if self.max_error is None else f"max_error={self.max_error}"
        else:
            goal = f"max_calls={self.max_calls}" if self.max_calls else f"max_cost_usd={self.max_cost_usd}"
            if self.max_cost_usd and looks.costs is None:
                said = "What the models cost is not known, so no budget in USD can be kept. Give max_calls instead."
                raise CompileInterrupted(said, recording=recording)
            limit = self.max_calls or self.max_cost_usd or 0.0
            within = [one for one in stops if (one.calls if self.max_calls else one.cost_usd or 0.0) <= limit + 1e-9]
            chosen = max(within, key=lambda one: (round(one.score, 9), -one.calls), default=None)
        if chosen is None:
            least = min(one.calls for one in stops)
            raise CompileInterrupted(
                f"No threshold meets {goal} on these {questions} rows; the cheapest cascade takes {least:.2f} calls "
                "per question. Ask for less, or give more labelled rows.",
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
        for number, (share, weights) in enumerate(zip(chosen.shares, committees.weights, strict=False)):
            is_last = not judged and number == len(chosen.shares) - 1
            if share > 0 and not is_last:
                counted = {name: float(weight) for name, weight in zip(agents, weights, strict=True) if weight > 0}
                stage = take_vote(moa, list(counted), samples, counted)
                stage.calibration = self._calibrate(fits[number], agents, rows, chosen)
                stages.append(stage)
        if self.max_error is not None:
            moa.calibration = self._calibrate(fits[-1], agents, rows, chosen)
        return Cascade([*stages, moa]) if stages else moa

    def _calibrate(self, fitted: Any, agents: Sequence[str], rows: int, chosen: Stop) -> Calibration:
        promise: Any = {"threshold": chosen.threshold, "max_error": self.max_error, "on_unsure": "flag"}
        return Calibration.of(fitted.coefficients, agents, rows, chosen.score).model_copy(update=promise)


def _price_verdicts(moa: MoA, recording: Recording, looks: Looks) -> tuple[float, float | None]:
    """Calls and USD of asking all and then the aggregator."""
    usages = [Usage.of(row.verdicts[moa.strategy.name].calls) for row in recording if moa.strategy.name in row.verdicts]
    spent = sum(usages, Usage.of([]))
    share = 1 / max(1, len(usages))
    known = looks.costs is not None and spent.cost_usd is not None and not spent.unpriced_calls
    cost = None if not known else float((_last(looks.costs) or 0.0) + (spent.cost_usd or 0.0) * share)
    return float(looks.calls[-1]) + spent.calls * share, cost


def _usd(cost: float | None) -> str:
    return "-" if cost is None else f"{cost:.2g}"


def _last(costs: Floats | None) -> float | None:
    return None if costs is None else float(costs[-1])
