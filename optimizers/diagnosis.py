"""What a diagnosis found: whether mixing pays, and why or why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic_core import to_jsonable_python

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.intervals import difference_interval
from moa_dspy.plot import save_plot

from .committees import Committee
from .diversity import Diversity
from .recommending import Recommendation

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["Diagnosis"]


@dataclass(frozen=True)
class Diagnosis:
    """A mixture, diagnosed.

    Attributes:
        comparison: Each model alone, the vote, the strategies, Self-MoA and the oracle: scores, intervals, what they
            take.
        diversity: How the proposers fail together.
        committees: The best committee of each size that votes, if scores are between 0 and 1.
        controls: The rows that are Self-MoA, the best proposer asked as often as the panel is.
        control: What Self-MoA was, or why there is none.
        recommendation: What to use.
    """

    comparison: Comparison
    diversity: Diversity
    committees: Sequence[Committee]
    controls: Sequence[str]
    control: str
    recommendation: Recommendation

    @property
    def reasons(self) -> list[str]:
        """What the recommendation rests on, in sentences."""
        found, rows = self.diversity, self.comparison.rows
        count = len(found.agents)
        said = [
            f"All proposals fail on {found.all_fail:.0%} of the questions (95% {found.all_fail_interval.low:.0%} to "
            f"{found.all_fail_interval.high:.0%}): no vote and no choice can be right there."
        ]
        if count > 1 and found.effective is not None and found.mean_correlation is not None:
            said.append(
                f"The errors of {count} proposers correlate by {found.mean_correlation:.2f} on average: they are worth "
                f"{found.effective:.1f} independent ones."
            )
        judge = next((row for row in rows if row.kind == "aggregator"), None)
        best = max((row for row in rows if row.kind == "proposer"), key=lambda row: row.score)
        if judge is not None and judge.score < best.score:
            said.append(
                f"The aggregator's model, {judge.name}, is weaker alone ({judge.score:.3f}) than the best proposer, "
                f"{best.name} ({best.score:.3f})."
            )
        return [*said, self.control, *self._against_sampling()]

    def table(self, width: int = 80) -> RenderableType:
        """The diagnosis for a terminal of this many columns."""
        from .diagnosis_table import diagnosis_table

        return diagnosis_table(self, width)

    def findings(self) -> RenderableType:
        """What there is beside the comparison: shared errors, committees, the recommendation and its reasons."""
        from .diagnosis_table import findings

        return findings(self)

    def plot(self, path: str | Path) -> Path:
        """Plot quality against cost; see `save_plot`."""
        return save_plot(self.comparison, path)

    def to_dict(self) -> dict[str, Any]:
        """The diagnosis as plain data for JSON; what is not known is None."""
        diversity = {name: _plain(value) for name, value in asdict(self.diversity).items()}
        committees = [
            {
                "agents": made.agents,
                "samples": made.samples,
                "weights": made.weights,
                "calls": made.calls,
                "score": float(made.scores.mean()),
            }
            for made in self.committees
        ]
        plain: dict[str, Any] = to_jsonable_python(
            {
                "recommendation": asdict(self.recommendation),
                "reasons": self.reasons,
                "comparison": self.comparison.to_dict(),
                "diversity": diversity,
                "committees": committees,
            }
        )
        return plain

    def _against_sampling(self) -> list[str]:
        """What mixing models gains beyond sampling one of them as often."""
        rows = self.comparison.rows
        sampled = max((row for row in rows if row.name in self.controls), key=lambda row: row.score, default=None)
        mixed = max((row for row in rows if row.kind in ("vote", "strategy")), key=lambda row: row.score, default=None)
        if sampled is None or mixed is None:
            return []
        scores = [self.comparison.scores(row.name) for row in (mixed, sampled)]
        low, high = difference_interval(*scores, seed=self.comparison.seed)
        return [
            f"Against {sampled.name} ({sampled.score:.3f}), the best mixture of several models, {mixed.name} "
            f"({mixed.score:.3f}), gains {mixed.score - sampled.score:+.3f} (95% {low:+.3f} to {high:+.3f})."
        ]


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [[None if np.isnan(number) else float(number) for number in row] for row in value]
    return value
