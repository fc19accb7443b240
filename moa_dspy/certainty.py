"""How sure a mixture may be of an answer: what a call shows, the probability that follows, and what it can promise."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from moa_dspy.results import Proposal
from moa_dspy.strategies import Case, Strategy, Voting

__all__ = ["MEASURES", "Calibration", "Fitted", "OnUnsure", "fit", "predict", "weigh_evidence"]

Floats: TypeAlias = npt.NDArray[np.float64]
Cuts: TypeAlias = tuple[tuple[float, int, int], ...]
OnUnsure = Literal["abstain", "flag"]

MEASURES: Final = ("constant", "support", "rival", "missing", "flips", "fallback")
"""What is measured of every answer, in this order; after them, each agent."""

_ANSWER = "(answer)"  # no agent's name: these are identifiers
_LEVEL = 0.9  # how sure a promise is: nine of ten samples of calibration rows give a threshold that keeps it


def weigh_evidence(
    case: Case,
    outputs: Mapping[str, Any],
    strategy: Strategy,
    agents: Iterable[str],
    *,
    flip_rate: float | None = None,
    fallback_used: bool = False,
) -> list[float]:
    """What speaks for an answer that this strategy made, as numbers in the order of `MEASURES`, then of the agents.

    All are shares. Of the votes' weight: what the proposals have that say what the answer says (`support`), what the
    strongest other answer has (`rival`), what failed, abstained or was not waited for (`missing`); of a selection's
    rotations, those whose verdict was another (`flips`); 1 if the aggregator failed and the vote is the answer
    (`fallback`); of each agent's samples, those that say what the answer says.

    Proposals are told apart as the strategy tells them apart, if it is a vote, else as an ordinary vote does. The
    answer takes part without weight, so that one that an aggregator wrote is known by what it says.
    """
    voting: Any = copy.copy(strategy) if isinstance(strategy, Voting) else Voting()
    voting.weights = {**voting.weights, _ANSWER: 0.0}
    answer = Proposal(id=_ANSWER, agent=_ANSWER, outputs=dict(outputs))
    asked = {**case.asked, _ANSWER: _ANSWER}
    tally = voting.count(replace(case, proposals=[*case.proposals, answer], asked=asked))
    whole = tally.weight or 1.0
    mine = [one for one in tally.candidates if _ANSWER in one.voters]
    support = max((one.weight / whole for one in mine), default=0.0)
    rival = max((one.weight / whole for one in tally.candidates if one not in mine), default=0.0)
    missing = max(0.0, 1.0 - sum(one.weight for one in tally.candidates) / whole)
    agreeing = Counter(case.asked[id] for one in mine for id in one.voters if id != _ANSWER)
    samples = Counter(case.asked.values())
    shares = [agreeing[agent] / max(samples[agent], 1) for agent in agents]
    return [1.0, support, rival, missing, flip_rate or 0.0, float(fallback_used), *shares]


class Calibration(BaseModel):
    """What `Calibrate` has learned of a mixture: its answers' probability of being right, and what is promised.

    It stands at `moa.calibration`, goes with copies and is saved with the mixture. It holds for the mixture and the
    kind of questions that it was learned from: whoever changes prompts, models or weights calibrates anew.

    Attributes:
        measures: What each of `MEASURES` adds to the log-odds; `agents`: what an agent's saying the same adds to that.
        questions: On how many rows with gold answers it rests; `accuracy`: the share of right answers among them.
        cuts: What another promise is decided by; see `list_cuts`, of rows held out.
        max_error: The promise, if there is one: the share of wrong answers among those given.
        threshold: The least confidence of these. Below it, `on_unsure="abstain"` gives None, and `"flag"` the answer;
            `metadata.abstained` says so.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    measures: dict[str, float]
    agents: dict[str, float]
    questions: int
    accuracy: float
    cuts: Cuts = ()
    max_error: float | None = None
    threshold: float | None = None
    on_unsure: OnUnsure = "abstain"

    @classmethod
    def of(cls, coefficients: Iterable[float], agents: Sequence[str], questions: int, accuracy: float) -> Calibration:
        """The calibration with these coefficients, in the order of `weigh_evidence`."""
        # To so many digits that an answer on the threshold, as many are, stays there.
        numbers = iter([round(float(number), 12) for number in coefficients])
        measures: dict[str, float] = {name: next(numbers) for name in MEASURES}
        by_agent = dict(zip(agents, numbers, strict=True))
        return cls(measures=measures, agents=by_agent, questions=questions, accuracy=accuracy)

    def confidence(self, evidence: Sequence[float]) -> float:
        """The probability that an answer is right, of what `weigh_evidence` gives for `agents`."""
        pairs = zip([*self.measures.values(), *self.agents.values()], evidence, strict=True)
        return 1 / (1 + math.exp(-sum(coefficient * number for coefficient, number in pairs)))

    def promising(self, max_error: float) -> Calibration:
        """The same with this promise; ValueError if the rows that it was learned from do not bear it."""
        if max_error == self.max_error:
            return self
        threshold = find_threshold(self.cuts, max_error)
        if threshold is None:
            percents = (percent for percent in range(1, 100) if find_threshold(self.cuts, percent / 100))
            least = next((f"the least that they bear is {percent}%" for percent in percents), "they bear no other")
            raise ValueError(
                f"The {self.questions} rows that this mixture was calibrated on do not bear the promise that at most "
                f"{max_error:.1%} of the answers are wrong; {least}. Promise less, or calibrate on more rows."
            )
        return self.model_copy(update={"max_error": max_error, "threshold": threshold})

    def is_unsure(self, confidence: float) -> bool:
        """Whether the promise does not hold for an answer of this confidence."""
        return self.threshold is not None and confidence < self.threshold - 1e-9


def with_promise(calibration: Calibration | None, max_error: float | None) -> Calibration | None:
    """A calibration with the promise of a mixture's limits, if they make one; ValueError if it cannot be made."""
    if max_error is None:
        return calibration
    if calibration is None:
        raise ValueError(
            f"Limits(max_error={max_error:g}) promises how often answers are wrong, and nobody knows. "
            "Calibrate it: Calibrate(metric).compile(mixture, trainset=...)."
        )
    return calibration.promising(max_error)


def list_cuts(confidences: npt.ArrayLike, right: npt.ArrayLike) -> Cuts:
    """The thresholds on answers that were not learned from: (confidence, wrong answers, answers), strictest first."""
    sure, truth = np.asarray(confidences, dtype=float), np.asarray(right, dtype=float)
    order = np.argsort(-sure, kind="stable")
    falling, wrong = sure[order], np.cumsum(truth[order] < 1)
    ends = np.flatnonzero(np.append(np.diff(falling) < -1e-9, True))
    return tuple((float(falling[end]), int(wrong[end]), int(end) + 1) for end in ends)


@lru_cache(maxsize=64)
def find_threshold(cuts: Cuts, max_error: float) -> float | None:
    """The least threshold above which at most `max_error` of the answers are wrong, by the one-sided 90% bound.

    Thresholds are tested from the strictest on, in an order that does not depend on who is right, until the first
    that fails: a fixed sequence, so that no correction for many tests is needed. None if these rows bear no such
    promise. Sources: Clopper and Pearson, "The Use of Confidence or Fiducial Limits" (Biometrika 26, 1934), for each
    test; Angelopoulos et al., "Learn then Test" (2021), for the sequence.
    """
    threshold, least = None, count_fewest(max_error)
    for confidence, wrong, answered in cuts:
        if answered >= least:
            if not is_kept(wrong, answered, max_error):
                break
            threshold = confidence
    return threshold


def count_fewest(max_error: float) -> int:
    """The fewest answers that bear the promise, if all are right."""
    return math.ceil(math.log(1 - _LEVEL) / math.log(1 - max_error) - 1e-9)


def count_rows_needed(confidences: npt.ArrayLike, right: npt.ArrayLike, max_error: float) -> int | None:
    """How many rows would bear the promise, if more of them are like these; None if no number would.

    An estimate by the normal approximation, of the share of surest answers that takes fewest.
    """
    needed: list[float] = []
    variance = max_error * (1 - max_error) * NormalDist().inv_cdf(_LEVEL) ** 2
    for _, wrong, answered in list_cuts(confidences, right):
        margin = max_error - wrong / answered
        if answered >= 10 and margin > 0:
            number = max(float(count_fewest(max_error)), variance / margin**2)
            needed.append(number * np.size(confidences) / answered)
    return math.ceil(min(needed)) if needed else None


def bound_error(wrong: int, answered: int) -> float:
    """The one-sided 90% Clopper-Pearson bound of an error; 1 if nothing was answered."""
    low, high = wrong / max(answered, 1), 1.0
    while high - low > 1e-9 and wrong < answered:
        middle = (low + high) / 2
        low, high = (low, middle) if is_kept(wrong, answered, middle) else (middle, high)
    return high


@lru_cache(maxsize=1 << 16)
def is_kept(wrong: int, answered: int, max_error: float) -> bool:
    """Whether so few wrong answers show, at 90%, that the error is at most this: no more would be as rare by chance."""
    if not 0 < max_error < 1:
        return max_error >= 1 and wrong < answered
    is_wrong, is_right, ways = math.log(max_error), math.log1p(-max_error), math.lgamma(answered + 1)
    chances = (
        math.exp(ways - math.lgamma(k + 1) - math.lgamma(answered - k + 1) + k * is_wrong + (answered - k) * is_right)
        for k in range(wrong + 1)
    )
    return min(1.0, math.fsum(chances)) <= 1 - _LEVEL + 1e-12


class Fitted(NamedTuple):
    """A logistic regression: of the columns, coefficients; of each row, the confidence had it not taken part.

    `held_out` is on the scale of the final fit. What is claimed of the fit is claimed of these.
    """

    coefficients: Floats
    held_out: Floats


def fit(rows: npt.ArrayLike, right: npt.ArrayLike) -> Fitted:
    """Fit the probability that an answer is right, of rows of `weigh_evidence` and of 1 for right, 0 for not.

    `support` and the constant are free; what else is measured is drawn to 0, and so is what single agents add, so that
    little data give equal weights. How strongly agents are drawn is decided by the likelihood of rows held out. What is
    pooled over folds is a row's place among all, by the fit of the others, and not the probability itself: folds with
    more errors get higher ones from the others, which would put errors on top.
    """
    features, truth = np.asarray(rows, dtype=float), np.asarray(right, dtype=float)
    # Of what agents add, some or next to nothing.
    tried = [_hold_out(features, truth, ridge) for ridge in (3.0, 30.0)]
    _, coefficients, places = max(tried, key=lambda one: one[0])
    return Fitted(coefficients, -np.sort(-predict(coefficients, features))[places - 1])


def predict(coefficients: Floats, rows: Floats) -> Floats:
    """The probabilities, strictly between 0 and 1."""
    probabilities: Floats = 1 / (1 + np.exp(-np.clip(rows @ coefficients, -30.0, 30.0)))
    return probabilities


def _hold_out(rows: Floats, right: Floats, ridge: float) -> tuple[float, Floats, npt.NDArray[np.int64]]:
    """The log-likelihood of rows held out, the fit of all, and how many of all are at least as sure as each of them."""
    measured, columns = len(MEASURES), rows.shape[1]
    penalty = np.repeat([0.01, 1.0, ridge], [2, measured - 2, columns - measured])
    likelihood, places, whole = 0.0, np.zeros(len(right), dtype=np.int64), _solve(rows, right, penalty)
    fold = np.random.default_rng(0).permutation(len(right)) % 20
    for number in range(20):
        out = fold == number
        guessed = predict(_solve(rows[~out], right[~out], penalty, whole), rows)
        likelihood += float(np.log(np.where(right == 1, guessed, 1 - guessed)[out]).sum())
        places[out] = len(right) - np.searchsorted(np.sort(guessed), guessed[out] - 1e-12)
    return likelihood, whole, places


def _solve(rows: Floats, right: Floats, penalty: Floats, start: Floats | None = None) -> Floats:
    """The coefficients of most penalised likelihood, by Newton's method with halved steps."""

    def lose(at: Floats) -> float:
        odds = rows @ at
        return float(np.logaddexp(0, odds).sum() - right @ odds + penalty @ (at * at) / 2)

    found = np.zeros(rows.shape[1]) if start is None else start
    lost = lose(found)
    for _ in range(30):
        guessed = predict(found, rows)
        slope = rows.T @ (guessed - right) + penalty * found
        curve = (rows * (guessed * (1 - guessed))[:, None]).T @ rows + np.diag(penalty)
        step, before = np.linalg.solve(curve, slope), lost
        while (lost := lose(found - step)) > before + 1e-12 and np.abs(step).max() > 1e-9:
            step = step / 2
        found = found - step
        if before - lost < 1e-8:
            break
    return found
