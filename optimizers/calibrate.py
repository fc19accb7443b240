"""Calibration: the probability that a mixture's answer is right, and what it can promise."""

from __future__ import annotations

from typing import Any

import dspy

from moa_dspy.cascade import Cascade
from moa_dspy.certainty import (
    Calibration,
    bound_error,
    count_rows_needed,
    find_threshold,
    fit,
    list_cuts,
    predict,
)
from moa_dspy.evaluation import Metric
from moa_dspy.moa import MoA
from moa_dspy.recording import Recording

from .examples import CompileInterrupted
from .from_answers import Asked, FromAnswers
from .reliability import Reliability

__all__ = ["Calibrate", "refuse_promise", "require_promise"]

FEWEST = 30  # rows: with fewer, not even the share of right answers is known


class Calibrate(FromAnswers[MoA | Cascade]):
    """Learns how sure a mixture may be of an answer, whatever its strategy, and what it can promise.

    Each example is asked once. What a call shows anyway (how much of the vote supports the answer, the strongest
    other answer, who says the same, what failed, whether a verdict flipped) then gives the probability that the answer
    is right: `pred.metadata.confidence`. The calibration stands at `moa.calibration`, and is saved with the mixture.

    With `max_error` it promises: of the answers given, no more than that share is wrong. The threshold on the
    confidence is chosen such that, in nine of ten samples of examples, the promise is kept on new questions *of the
    same kind*. See `find_threshold` for the method.

    Args:
        metric: A metric's name or a function, giving 0 (wrong) or 1 (right).
        max_error: The promise, above 0 and below 1; None for that of the mixture's limits, if they have one. Another
            may be made later without a call: `Limits(max_error=...)`.
        on_unsure: Below the threshold, `"abstain"` answers None, and `"flag"` answers; `metadata.abstained` says so.
            An `Agent`, a module or another mixture is asked instead (see `Cascade`): proposals are kept.
        concurrency: Examples under way at once; each asks its proposers side by side.

    Raises:
        ValueError: If a setting makes no sense.

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
        moa, train, val = asked.moa, asked.train, asked.val
        recording = asked.ask(verdicts=True)
        rows, right = asked.read(recording, train)
        _check_rows(rows, right, recording)
        fitted = fit(rows, right)
        learned = Calibration.of(fitted.coefficients, moa.panels[-1].names, len(right), float(right.mean()))
        held_out = fitted.held_out
        if val:
            rows, right = asked.read(recording, val)
            held_out = predict(fitted.coefficients, rows)
        wanted = self.on_unsure if self.on_unsure in ("abstain", "flag") else "flag"
        moa.calibration = learned.model_copy(update={"cuts": list_cuts(held_out, right), "on_unsure": wanted})
        moa.limits = asked.student.limits
        if (promised := self.max_error or moa.limits.max_error) is not None:
            if find_threshold(held_out, right, promised) is None:
                reason = refuse_promise(held_out, right, promised)
                raise CompileInterrupted(reason, program=moa, recording=recording)
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


def refuse_promise(held_out: Any, right: Any, max_error: float) -> str:
    """Why rows do not bear a promise, and how many would."""
    needed = count_rows_needed(held_out, right, max_error)
    wrong = int((right < 1).sum())
    said = (
        f"These {len(right)} rows do not bear the promise that at most {max_error:.0%} of the answers are wrong: all "
        f"answered, {wrong} are wrong (at 90% up to {bound_error(wrong, len(right)):.1%}), and no threshold on the "
        "confidence is shown to keep it."
    )
    if needed is None:
        return f"{said} More rows like these would not help: even the surest answers are wrong too often. Promise less."
    # Where fewer were thought to do, it was chance that they did not.
    needed = max(needed, 2 * len(right))
    return f"{said} About {needed:,} labelled rows like these would, or promise less."


def _check_rows(rows: Any, right: Any, recording: Recording) -> None:
    problem = None
    if len(right) < FEWEST:
        problem = f"{len(right)} answers with a gold value are too few to calibrate on. Give {FEWEST}, better 200."
    elif right.all() or not right.any():
        which = "right" if right.all() else "wrong"
        problem = (
            f"All {len(right)} answers are {which}, so that nothing tells the right ones from the wrong ones. "
            f"{'Give harder examples.' if right.all() else 'See whether the metric compares what it should.'}"
        )
    elif (rows == rows[0]).all():
        problem = (
            f"Nothing differs among the {len(right)} rows (the same agents say the same), so that every "
            "answer would get the same confidence. Ask more models, or more samples (num_proposals_per_model)."
        )
    if problem is not None:
        raise CompileInterrupted(problem, "What was answered is in error.recording.", recording=recording)
