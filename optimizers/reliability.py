"""What a calibration is worth: on rows that it was not learned from, and on tomorrow's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moa_dspy.certainty import Calibration, bound_error, list_cuts
from moa_dspy.evaluation import Interval, calibration_error, calibration_interval, cut_bins, save_figure, wilson
from moa_dspy.recording import Recording
from moa_dspy.usage import Usage

from .reports import Report, list_table

if TYPE_CHECKING:
    from rich.table import Table

    from .from_answers import Asked

__all__ = ["CalibrationCheck", "Reliability", "ReliabilityBin"]

Floats = npt.NDArray[np.float64]

SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ReliabilityBin:
    """A tenth of the answers, sorted by confidence.

    Attributes:
        answers: How many.
        confidence: What was said of them, on average.
        accuracy: How many of them are right, as a share.
        interval: Its 95% interval (Wilson).
    """

    answers: int
    confidence: float
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class CalibrationCheck:
    """Whether a calibration still holds.

    Attributes:
        holds: False if new rows speak against it, at the 5% level.
        reason: What was found, in words.
        answers: How many answers it rests on.
        expected: The share of right answers that was said.
        observed: What it is; None for rows without gold answers.
        answered: How many are above the threshold; all, if nothing was promised.
        wrong: How many of these are wrong; None without gold answers.
    """

    holds: bool
    reason: str
    answers: int
    expected: float
    observed: float | None
    answered: int
    wrong: int | None


@dataclass(frozen=True)
class Reliability(Report):
    """How good a calibration is, on rows that it was not learned from.

    Attributes:
        calibration: What was learned.
        confidences: Of each answer, what was said.
        right: Of each, 1 if it is right, else 0.
        usage: What the answers took, those recorded earlier included.
    """

    calibration: Calibration
    confidences: Floats = field(repr=False)
    right: Floats = field(repr=False)
    usage: Usage
    asked: Asked = field(repr=False, compare=False)
    shown = ("calibration", "bins", "ece", "ece_interval", "auroc", "brier", "area", "coverage", "reason", "usage")

    @cached_property
    def bins(self) -> list[ReliabilityBin]:
        """Tenths of the answers, the least sure first."""
        return [
            ReliabilityBin(len(part), float(said.mean()), float(right.mean()), wilson(int(right.sum()), len(part)))
            for part in cut_bins(self.confidences)
            for said, right in [(self.confidences[part], self.right[part])]
        ]

    @property
    def ece(self) -> float:
        """The expected calibration error; see `calibration_error`."""
        return calibration_error(self.confidences, self.right)

    @cached_property
    def ece_interval(self) -> Interval:
        """Its 95% interval, by the bootstrap."""
        return calibration_interval(self.confidences, self.right)

    @property
    def auroc(self) -> float:
        """How often a right answer has more confidence than a wrong one; ties count half; 0.5 if none of a kind."""
        below, above = np.sort(self.confidences[self.right < 1]), self.confidences[self.right >= 1]
        if not len(below) or not len(above):
            return 0.5
        wins = np.searchsorted(below, above, "left") + np.searchsorted(below, above, "right")
        return float(wins.mean() / 2 / len(below))

    @property
    def brier(self) -> float:
        """The mean squared difference of confidence and outcome (Brier, 1950); 0 is best."""
        return float(((self.confidences - self.right) ** 2).mean())

    @cached_property
    def risk_coverage(self) -> list[tuple[float, float]]:
        """(share answered, share wrong among these), as ever less sure answers are given."""
        cuts = list_cuts(self.confidences, self.right)
        return [(answered / len(self.right), wrong / answered) for _, wrong, answered in cuts]

    @property
    def area(self) -> float:
        """The area under the risk-coverage curve: the error that is met on average, as coverage grows; 0 is best."""
        shares, errors = np.array([(0.0, self.risk_coverage[0][1]), *self.risk_coverage]).T
        return float((np.diff(shares) * (errors[1:] + errors[:-1]) / 2).sum())

    @property
    def coverage(self) -> float:
        """The share of answers that are given under the promise; 1 if there is none."""
        return float(self._given.mean())

    @property
    def reason(self) -> str:
        """The same in words."""
        low, high = self.ece_interval
        said = (
            f"On {len(self.right)} rows that were not learned from, {self.right.mean():.1%} of the answers are right. "
            f"ECE {self.ece:.3f} (95% {low:.3f} to {high:.3f}), AUROC {self.auroc:.3f}, Brier {self.brier:.3f}."
        )
        if self.calibration.threshold is None:
            return said
        given = self._given
        answers, wrong = int(given.sum()), int((self.right[given] < 1).sum())
        return (
            f"{said} From a confidence of {self.calibration.threshold:.3f} on, {answers} are given "
            f"({self.coverage:.0%}), {wrong} of them wrong: {wrong / max(1, answers):.1%}, at 90% not more than "
            f"{bound_error(wrong, answers):.1%}, and {self.calibration.max_error:.0%} were promised."
        )

    def check(self, recording: Recording) -> CalibrationCheck:
        """Find out whether the calibration still holds on new rows; nobody is asked.

        With gold answers by the z-test of Spiegelhalter, "Probabilistic Prediction in Patient Management and Clinical
        Trials" (Statistics in Medicine 5, 1986), and by the errors above the threshold. Without them it can only be
        seen whether confidence has moved, which says that questions are others, not whether answers are right.

        Raises:
            ValueError: If the recording holds no answer of this mixture.
        """
        task = self.asked.moa.signature
        with_gold = [row.example for row in recording if any(name in row.gold for name in task.output_fields)]
        rows, right = self.asked.read(recording, with_gold or [row.example for row in recording], score=bool(with_gold))
        if not len(rows):
            raise ValueError(
                f"The recording ({recording!r}) holds no answer of this mixture, so that nothing can be checked. "
                "Record it: record(mixture, questions)."
            )
        said = np.array([self.calibration.confidence_of(row) for row in rows])
        given = np.array([not self.calibration.is_unsure(one) for one in said])
        expected, answered, promise = float(said.mean()), int(given.sum()), self.calibration.max_error
        found: list[str] = []
        if not with_gold:
            before = float(self.confidences.mean())
            spread = math.hypot(said.std() / len(said) ** 0.5, self.confidences.std() / len(self.confidences) ** 0.5)
            if (chance := _two_sided(expected - before, spread)) < SIGNIFICANT:
                found.append(f"the mean confidence was {before:.3f} and is {expected:.3f} (p = {chance:.2g})")
            reason = _conclude(found, f"The confidence on {len(said)} rows without gold answers is as it was.")
            return CalibrationCheck(not found, reason, len(said), expected, None, answered, None)
        observed, wrong = float(right.mean()), int((right[given] < 1).sum())
        spread = float(((1 - 2 * said) ** 2 * said * (1 - said)).sum()) ** 0.5
        if (chance := _two_sided(float(((right - said) * (1 - 2 * said)).sum()), spread)) < SIGNIFICANT:
            found.append(f"{expected:.1%} of the answers were to be right and {observed:.1%} are (p = {chance:.2g})")
        if promise is not None and answered and 1 - bound_error(answered - wrong, answered) > promise:
            found.append(f"{wrong} of {answered} answers given are wrong, and {promise:.0%} were promised")
        reason = _conclude(found, f"On {len(said)} rows, {expected:.1%} were to be right and {observed:.1%} are.")
        return CalibrationCheck(not found, reason, len(said), expected, observed, answered, wrong)

    def table(self) -> Table:
        """The reliability as a rich table: what was said, and what is."""
        rows = [
            [str(one.answers), f"{one.confidence:.3f}", f"{one.accuracy:.3f}", "{:.3f} to {:.3f}".format(*one.interval)]
            for one in self.bins
        ]
        return list_table(["answers", "confidence", "right", "95%"], rows, self.reason)

    def plot(self, path: str | Path) -> Path:
        """Plot the reliability, with 95% intervals, and the risk-coverage curve; `path` as for a comparison's plot."""
        title = f"Right answers against confidence, ECE {self.ece:.3f}"
        return save_figure(path, self._draw, title, f"{len(self.right)} rows that were not learned from", self.table)

    @property
    def _given(self) -> npt.NDArray[np.bool_]:
        return np.array([not self.calibration.is_unsure(float(one)) for one in self.confidences])

    def _draw(self, axes: Any) -> None:
        axes.plot([0, 1], [0, 1], color="#8a8a8a", linestyle="--", linewidth=1, label="as it should be")
        said, right = [one.confidence for one in self.bins], [one.accuracy for one in self.bins]
        spread = np.abs(np.array([one.interval for one in self.bins]) - np.array(right)[:, None]).T
        axes.errorbar(said, right, spread, fmt="o", color="#0b5cad", capsize=3, label="a tenth of the answers")
        shares, errors = np.array(self.risk_coverage).T
        axes.plot(shares, errors, color="#b35900", label="wrong (y) among the surest share (x)")
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence; share answered", ylabel="right; wrong")


def _two_sided(difference: float, spread: float) -> float:
    """The chance of so large a difference, if there is none."""
    return 2 * NormalDist().cdf(-abs(difference) / max(spread, 1e-12))


def _conclude(found: Sequence[str], otherwise: str) -> str:
    return f"It no longer holds: {'; '.join(found)}. Calibrate on new rows." if found else otherwise
