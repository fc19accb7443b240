"""What came of fitting vote weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pydantic_core import to_jsonable_python
from rich.box import SIMPLE_HEAD
from rich.table import Table

from moa_dspy.evaluation.intervals import Interval
from moa_dspy.usage import Usage

__all__ = ["AgentWeight", "WeightsReport"]


@dataclass(frozen=True)
class AgentWeight:
    """An agent's weight, and what it rests on.

    Attributes:
        agent: Its name.
        weight: What its vote counts.
        accuracy: How often it is right when it votes, shrunk to the panel's mean.
        right: Its right votes; an estimate where there are no labels.
        votes: Its votes; it abstained or failed on the rest.
        note: What is to be said of it, for example that the weight was clipped.
    """

    agent: str
    weight: float
    accuracy: float
    right: float
    votes: int
    note: str = ""


@dataclass(frozen=True)
class WeightsReport:
    """What came of fitting.

    Attributes:
        method: `log-odds` from scores, or `dawid-skene` without.
        agents: In declared order.
        alternatives: Among how many wrong answers errors are taken to spread; see `log_odds`.
        questions: How many examples the weights rest on.
        before: The score of the vote with the weights it had, on the valset or on the trainset.
        after: With the fitted weights; on the trainset less their `optimism`. Both None without scores.
        gain: The 95% interval of the difference, by the paired bootstrap.
        kept: Whether the compiled mixture has these weights; else it has those of the student.
        reason: The same in words.
        usage: What the proposals took, those recorded earlier included.
    """

    method: Literal["log-odds", "dawid-skene"]
    agents: list[AgentWeight]
    alternatives: float
    questions: int
    before: float | None
    after: float | None
    gain: Interval | None
    kept: bool
    reason: str
    usage: Usage

    def saying(self, more: str, **changes: Any) -> WeightsReport:
        """The report with a further sentence, and these changes."""
        return replace(self, reason=f"{self.reason} {more}", **changes)

    def compared(self, before: float, after: float, gain: Interval, where: str) -> WeightsReport:
        """The report with the scores of the vote, which decide on whether the weights are kept."""
        kept = after >= before - 1e-9
        verdict = "they are kept" if kept else "the weights stay as they were"
        said = (
            f"{where} the vote scores {after:.3f} with them and {before:.3f} with the weights it had "
            f"({after - before:+.3f}, 95% {gain.low:+.3f} to {gain.high:+.3f}): {verdict}."
        )
        return self.saying(said, before=before, after=after, gain=gain, kept=kept)

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data for JSON."""
        plain: dict[str, Any] = to_jsonable_python(asdict(self))
        return plain

    def table(self) -> Table:
        """One row per agent."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("agent", no_wrap=True)
        for heading in ("weight", "accuracy", "right", "votes"):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for row in self.agents:
            numbers = (f"{row.weight:.2f}", f"{row.accuracy:.3f}", f"{row.right:.0f}", f"{row.votes}")
            table.add_row(row.agent, *numbers, row.note)
        return table
