"""A mixture's calibration: from what a call shows to the probability that its answer is right."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict

from moa_dspy.certainty.evidence import MEASURES, Evidence
from moa_dspy.certainty.promise import Cuts, find_threshold_among

__all__ = ["Calibration", "OnUnsure", "with_promise"]

OnUnsure = Literal["abstain", "flag"]


class Calibration(BaseModel):
    """What `Calibrate` has learned of a mixture: its answers' probability of being right, and what is promised.

    It stands at `moa.calibration`, goes with copies and is saved with the mixture. It holds for the mixture and the
    kind of questions that it was learned from: whoever changes prompts, models or weights calibrates anew.

    Attributes:
        measures: What each of `MEASURES` adds to the log-odds.
        agents: What an agent's saying the same adds, beyond what a vote adds anyway.
        questions: On how many rows with gold answers it rests.
        accuracy: The share of right answers among them.
        cuts: What another promise is decided by: the thresholds that rows held out give, the strictest first, each with
            the wrong answers and with all answers above it.
        max_error: The promise: the share of wrong answers among those given; None if there is none.
        threshold: The least confidence with which an answer is given under the promise.
        on_unsure: `abstain` gives None in place of an answer below it, `flag` gives the answer; `metadata.abstained`
            says so in both cases.
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
        """The calibration with these coefficients, in the order of `Evidence.row`."""
        # To so many digits that an answer on the threshold, as many are, stays there.
        numbers = [round(float(number), 12) for number in coefficients]
        measures: dict[str, float] = dict(zip(MEASURES, numbers, strict=False))
        by_agent = dict(zip(agents, numbers[len(MEASURES) :], strict=True))
        return cls(measures=measures, agents=by_agent, questions=questions, accuracy=accuracy)

    def confidence(self, evidence: Evidence) -> float:
        """The probability that an answer is right."""
        return self.confidence_of(evidence.row(list(self.agents)))

    def confidence_of(self, row: Sequence[float]) -> float:
        """The same of a row of `Evidence.row`."""
        pairs = zip([*self.measures.values(), *self.agents.values()], row, strict=True)
        return 1 / (1 + math.exp(-sum(coefficient * number for coefficient, number in pairs)))

    def promising(self, max_error: float) -> Calibration:
        """The same with this promise.

        Raises:
            ValueError: If the rows that it was learned from do not bear it.
        """
        if max_error == self.max_error:
            return self
        threshold = find_threshold_among(self.cuts, max_error)
        if threshold is None:
            percents = (percent for percent in range(1, 100) if find_threshold_among(self.cuts, percent / 100))
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
    """A calibration with the promise of a mixture's limits, if they make one.

    Raises:
        ValueError: If there is no calibration for a promise, or if it does not bear it.
    """
    if max_error is None:
        return calibration
    if calibration is None:
        raise ValueError(
            f"Limits(max_error={max_error:g}) promises how often answers are wrong, and nobody knows. "
            "Calibrate it: Calibrate(metric).compile(mixture, trainset=...)."
        )
    return calibration.promising(max_error)
