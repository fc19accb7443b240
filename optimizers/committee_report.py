"""What came of choosing a committee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic_core import to_jsonable_python
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from moa_dspy.evaluation.intervals import Interval
from moa_dspy.usage import Usage

__all__ = ["Candidate", "CommitteeReport"]


@dataclass(frozen=True)
class Candidate:
    """Proposers, how often each is asked, and what makes one answer of their proposals.

    Attributes:
        agents: The proposers.
        samples: Proposals of each.
        strategy: Its name; `voting` of one proposal is that model alone.
        weights: Agent -> what its vote counts, where votes are weighted.
        calls: LM calls per question.
        cost_usd: USD per question; None if a price is not known.
        score: The mean score, on the valset, or on the trainset less what choosing on it flatters.
        interval: Its 95% interval, by the bootstrap.
        gain: The score minus that of the best single model, corrected in the same way.
        gain_interval: Its 95% interval, by the paired bootstrap.
    """

    agents: Sequence[str]
    samples: int
    strategy: str
    weights: Mapping[str, float]
    calls: float
    cost_usd: float | None
    score: float
    interval: Interval
    gain: float
    gain_interval: Interval

    @property
    def is_single(self) -> bool:
        """Whether this is one model, asked once."""
        return len(self.agents) == 1 and self.samples == 1

    def __str__(self) -> str:
        if self.is_single:
            return f"{self.agents[0]} alone"
        names = self.agents[0] if len(self.agents) == 1 else f"{', '.join(self.agents[:-1])} and {self.agents[-1]}"
        times = (
            ""
            if self.samples == 1
            else f", each {self.samples} times"
            if len(self.agents) > 1
            else f" {self.samples} times"
        )
        return f"{self.strategy} of {names}{times}"


@dataclass(frozen=True)
class CommitteeReport:
    """What came of choosing.

    Attributes:
        candidates: All that were compared, in the order of their calls.
        chosen: The one that the compiled mixture is.
        thrifty: The cheapest one within one standard error of the best.
        questions: How many examples they were compared on.
        reason: In words.
        usage: What that took, proposals recorded earlier included.
    """

    candidates: Sequence[Candidate]
    chosen: Candidate
    thrifty: Candidate
    questions: int
    reason: str
    usage: Usage

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        plain: dict[str, Any] = to_jsonable_python(asdict(self))
        return plain

    def table(self) -> Table:
        """One row per candidate, the chosen one in bold."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("candidate", overflow="fold")
        for heading in ("score", "95%", "gain", "95%", "calls", "USD"):
            table.add_column(heading, justify="right", no_wrap=True)
        for candidate in self.candidates:
            cost = "-" if candidate.cost_usd is None else f"{candidate.cost_usd:.2g}"
            cells = [
                str(candidate),
                f"{candidate.score:.3f}",
                f"{candidate.interval.low:.3f}-{candidate.interval.high:.3f}",
                f"{candidate.gain:+.3f}",
                f"{candidate.gain_interval.low:+.3f} to {candidate.gain_interval.high:+.3f}",
                f"{candidate.calls:.3g}",
                cost,
            ]
            table.add_row(*(Text(cell, "bold" if candidate is self.chosen else "") for cell in cells))
        return table
