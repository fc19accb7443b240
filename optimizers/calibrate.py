"""Calibration: the probability that a mixture's answer is right, what it can promise, and what that is worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import NormalDist
from typing import Any

import dspy
import numpy as np
import numpy.typing as npt
from rich.table import Table

from moa_dspy.certainty import Calibration, bound_error, count_rows_needed, find_threshold, fit, list_cuts, predict
from moa_dspy.dispatch import Cascade
from moa_dspy.evaluation import Interval, Metric, calibration_error, calibration_interval, cut_bins, save_figure, wilson
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording
from moa_dspy.usage import Usage

from .examples import CompileInterrupted
from .from_answers import Asked, FromAnswers
from .reports import Report, list_table
from .votes import Floats

__all__ = ["Calibrate", "CalibrationCheck", "Reliability", "ReliabilityBin", "require_promise"]

FEWEST = 30  # rows: with fewer, not even the share of right answers is known
SIGNIFICANT = 0.05


class Calibrate(FromAnswers[MoA | Cascade]):
    """Learns how sure a mixture may be of an answer, whatever its strategy, and what it can promise.

    Each example is asked once. What a call shows anyway (how much of the vote supports the answer, who says the same,
    what failed, whether a verdict flipped) then gives the probability that the answer is right:
    `pred.metadata.confidence`. The calibration stands at `moa.calibration`, and is saved with the mixture.

    With `max_error` it promises: of the answers given, no more than that share is wrong. In nine of ten samples of
    examples, the promise is kept on new questions *of the same kind*; see `find_threshold`.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) or 1 (right).
        max_error: The promise, above 0 and below 1; None for that of the mixture's limits, if they have one. Another
            may be made later without a call: `Limits(max_error=...)`.
        on_unsure: Below the threshold, `"abstain"` answers None, and `"flag"` answers; `metadata.abstained` says so.
            An `Agent`, a module or another mixture is asked instead (see `Cascade`): proposals are kept.
        concurrency: Examples under way at once.

    Attributes:
        report: Of the last compile: tables, plots, and `check` for new rows; see `Reliability`.

    Examples:
        >>> from moa_dspy import MoA
        >>> from moa_dspy.simulated.questions import bundled_questions
        >>> moa = MoA("question -> answer", [f"simulated/{n}" for n in ("alice", "bob", "carol")], strategy="voting")
        >>> optimizer = Calibrate("exact", max_error=0.25)
        >>> sure = optimizer.compile(moa, trainset=bundled_questions())
        >>> pred = sure(question="What is the capital of Australia?")
        >>> pred.answer, round(pred.metadata.confidence, 1), pred.metadata.abstained
        ('Canberra', 0.7, False)
    """

    takes_layers = True

    def __init__(
        self,
        metric: str | Metric = "exact",
        *,
        max_error: float | None = None,
        on_unsure: str | dspy.Module = "abstain",
        concurrency: int = 8,
    ) -> None:
        super().__init__(metric, concurrency)
        require_promise(max_error)
        if isinstance(on_unsure, str) and on_unsure not in ("abstain", "flag"):
            raise ValueError(
                f"on_unsure={on_unsure!r} is nothing to be done with an unsure answer. Give 'abstain', 'flag', or whom "
                "to ask instead: an Agent, a module or a mixture."
            )
        if max_error is None and not isinstance(on_unsure, str):
            raise ValueError("Without max_error no answer is unsure, and nobody else is asked. Give max_error=0.05.")
        self.max_error = max_error
        self.on_unsure = on_unsure
        self.report: Reliability | None = None

    def learn(self, asked: Asked) -> MoA | Cascade:
        """Calibrate a copy."""
        moa, recording = asked.moa, asked.ask(verdicts=True)
        rows, right = asked.read(recording, asked.train)
        if (problem := _find_problem(rows, right)) is not None:
            raise CompileInterrupted(problem, "What was answered is in error.recording.", recording=recording)
        fitted, accuracy = fit(rows, right), float(right.mean())
        learned = Calibration.of(fitted.coefficients, moa.panels[-1].names, len(right), accuracy)
        held_out = fitted.held_out
        if asked.val:
            rows, right = asked.read(recording, asked.val)
            held_out = predict(fitted.coefficients, rows)
        wanted = self.on_unsure if isinstance(self.on_unsure, str) else "flag"
        moa.calibration = learned.model_copy(update={"cuts": list_cuts(held_out, right), "on_unsure": wanted})
        moa.limits = asked.student.limits
        if (promised := self.max_error or moa.limits.max_error) is not None:
            if find_threshold(moa.calibration.cuts, promised) is None:
                raise CompileInterrupted(_refuse(held_out, right, promised), program=moa, recording=recording)
            moa.calibration = moa.calibration.promising(promised)
        self.report = Reliability(moa.calibration, held_out, right, recording.usage, asked)
        return moa if isinstance(self.on_unsure, str) else Cascade([moa, self.on_unsure])


def require_promise(max_error: float | None) -> None:
    """ValueError for a share of errors that nobody can promise, or need not."""
    if max_error is not None and not 0 < max_error < 1:
        raise ValueError(
            f"max_error={max_error}: no number of rows shows that answers are never wrong, and that all may be wrong "
            "is no promise. Give a share above 0 and below 1, for example 0.05."
        )


def _refuse(held_out: Floats, right: Floats, max_error: float) -> str:
    """Why rows do not bear a promise, and how many would."""
    needed, wrong = count_rows_needed(held_out, right, max_error), int((right < 1).sum())
    said = (
        f"These {len(right)} rows do not bear the promise that at most {max_error:.0%} of the answers are wrong: all "
        f"answered, {wrong} are wrong (at 90% up to {bound_error(wrong, len(right)):.1%}), and no threshold on the "
        "confidence is shown to keep it."
    )
    if needed is None:
        return f"{said} More rows like these would not help: even the surest answers are wrong too often. Promise less."
    # Where fewer were thought to do, it was chance that they did not.
    return f"{said} About {max(needed, 2 * len(right)):,} labelled rows like these would, or promise less."


def _find_problem(rows: Floats, right: Floats) -> str | None:
    """Why nothing can be learned from these rows, if nothing can."""
    number = len(right)
    if number < FEWEST:
        return f"{number} answers with a gold value are too few to calibrate on. Give {FEWEST}, better 200."
    if right.all():
        return f"All {number} answers are right, so that nothing tells right from wrong ones. Give harder examples."
    if not right.any():
        return f"All {number} answers are wrong. See whether the metric compares what it should."
    if (rows == rows[0]).all():
        return (
            f"Nothing differs among the {number} rows (the same agents say the same), so that every answer would get "
            "the same confidence. Ask more models, or more samples (num_proposals_per_model)."
        )
    return None


@dataclass(frozen=True)
class ReliabilityBin:
    """A tenth of the answers, sorted by confidence."""

    answers: int
    confidence: float  # what was said of them, on average
    accuracy: float  # the share that is right
    interval: Interval  # of that, 95% (Wilson)


@dataclass(frozen=True)
class CalibrationCheck:
    """Whether a calibration still holds."""

    holds: bool  # False if new rows speak against it, at the 5% level
    reason: str
    answers: int  # how many answers it rests on
    expected: float  # the share of right answers that was said
    observed: float | None  # what it is; None for rows without gold answers
    answered: int  # how many are above the threshold; all, if nothing was promised
    wrong: int | None  # how many of these are wrong; None without gold answers


@dataclass(frozen=True)
class Reliability(Report):
    """How good a calibration is, on rows that it was not learned from."""

    calibration: Calibration
    confidences: Floats = field(repr=False)  # of each answer, what was said
    right: Floats = field(repr=False)  # of each, 1 if it is right, else 0
    usage: Usage  # what the answers took, those recorded earlier included
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
        right, wrong = self.confidences[self.right >= 1], self.confidences[self.right < 1]
        wins = np.sign(right[:, None] - wrong[None, :])
        return float((wins.mean() + 1) / 2) if wins.size else 0.5

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
        return float(self._find_given(self.confidences).mean())

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
        given = self.right[self._find_given(self.confidences)]
        wrong = int((given < 1).sum())
        return (
            f"{said} From a confidence of {self.calibration.threshold:.3f} on, {len(given)} are given "
            f"({self.coverage:.0%}), {wrong} of them wrong: {wrong / max(1, len(given)):.1%}, at 90% not more than "
            f"{bound_error(wrong, len(given)):.1%}, and {self.calibration.max_error:.0%} were promised."
        )

    def check(self, recording: Recording) -> CalibrationCheck:
        """Find out whether the calibration still holds on new rows; nobody is asked.

        With gold answers by the z-test of Spiegelhalter, "Probabilistic Prediction in Patient Management and Clinical
        Trials" (Statistics in Medicine 5, 1986), and by the errors above the threshold. Without them it can only be
        seen whether confidence has moved: that questions are others.
        """
        outputs = self.asked.moa.signature.output_fields
        with_gold = [row.example for row in recording if any(name in row.gold for name in outputs)]
        rows, right = self.asked.read(recording, with_gold or [row.example for row in recording], score=bool(with_gold))
        if not len(rows):
            raise ValueError(
                f"The recording ({recording!r}) holds no answer of this mixture, so that nothing can be checked. "
                "Record it: record(mixture, questions)."
            )
        said, found = np.array([self.calibration.confidence(row) for row in rows]), list[str]()
        given, number, before = self._find_given(said), len(said), self.confidences
        expected, answered, promise = float(said.mean()), int(given.sum()), self.calibration.max_error
        observed, wrong = (float(right.mean()), int((right[given] < 1).sum())) if with_gold else (None, None)
        if observed is None or wrong is None:
            spread = math.hypot(said.std() / number**0.5, before.std() / len(before) ** 0.5)
            if (chance := _two_sided(expected - before.mean(), spread)) < SIGNIFICANT:
                found.append(f"the mean confidence was {before.mean():.3f} and is {expected:.3f} (p = {chance:.2g})")
            reason = f"The confidence on {number} rows without gold answers is as it was."
        else:
            spread = float(((1 - 2 * said) ** 2 * said * (1 - said)).sum()) ** 0.5
            if (chance := _two_sided(float(((right - said) * (1 - 2 * said)).sum()), spread)) < SIGNIFICANT:
                found.append(
                    f"{expected:.1%} of the answers were to be right and {observed:.1%} are (p = {chance:.2g})"
                )
            if promise is not None and answered and 1 - bound_error(answered - wrong, answered) > promise:
                found.append(f"{wrong} of {answered} answers given are wrong, and {promise:.0%} were promised")
            reason = f"On {number} rows, {expected:.1%} were to be right and {observed:.1%} are."
        if found:
            reason = f"It no longer holds: {'; '.join(found)}. Calibrate on new rows."
        return CalibrationCheck(not found, reason, number, expected, observed, answered, wrong)

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

    def _find_given(self, confidences: Floats) -> npt.NDArray[np.bool_]:
        return np.array([not self.calibration.is_unsure(float(one)) for one in confidences])

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
