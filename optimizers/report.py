"""What a specialization did, stage by stage, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from moa_dspy.usage import Usage

__all__ = ["SpecializationReport", "StageReport", "added"]


class StageReport(BaseModel):
    """One stage: one agent tuned alone, or proposals recorded.

    Attributes:
        name: The agent, with its layer from the second on; or what was recorded.
        runs: How often the program of the stage was run; a recording runs nothing.
        usage: LM calls of the agents; `cache_hits` of them were answered by DSPy's cache.
        optimizer_usage: LM calls of the optimizer itself: reflections, proposals of prompts.
        seconds: Wall time.
        before: Mean score on the valset before; None for a recording.
        after: Mean score on the valset of what the optimizer found, kept or not.
        kept: Whether that is in the compiled program.
        note: What else there is to say.
        resumed: Whether it was taken from a checkpoint: the calls were paid for then.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    runs: int = 0
    usage: Usage
    optimizer_usage: Usage
    seconds: float = 0.0
    before: float | None = None
    after: float | None = None
    kept: bool = False
    note: str = ""
    resumed: bool = False


@dataclass(frozen=True)
class SpecializationReport:
    """All stages, in the order of the mixture.

    Attributes:
        stages: One per agent and recording.
        calls_per_answer: What one run of the whole mixture takes.
        seconds: Wall time; stages side by side count once.
    """

    stages: list[StageReport] = field(default_factory=list)
    calls_per_answer: int = 0
    seconds: float = 0.0

    @property
    def usage(self) -> Usage:
        """All LM calls: those of the agents and those of the optimizer."""
        return added([*(s.usage for s in self.stages), *(s.optimizer_usage for s in self.stages)])

    @property
    def calls(self) -> int:
        """LM calls of the agents."""
        return sum(stage.usage.calls for stage in self.stages)

    @property
    def optimizer_calls(self) -> int:
        """LM calls of the optimizer itself."""
        return sum(stage.optimizer_usage.calls for stage in self.stages)

    @property
    def joint_calls(self) -> int:
        """What the agents would have been asked, had every run been one of the whole mixture."""
        return sum(stage.runs for stage in self.stages) * self.calls_per_answer

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        totals = {name: getattr(self, name) for name in ("calls", "optimizer_calls", "joint_calls", "seconds")}
        return {**totals, "cost_usd": self.usage.cost_usd, "stages": [s.model_dump(mode="json") for s in self.stages]}

    def table(self) -> Table:
        """The report as a rich table: `calls` of the agents, `jointly` what the whole mixture would have taken."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("stage", no_wrap=True)
        for heading in ("valset", "calls", "jointly", "tuning", "tokens", "USD", "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        has_notes = any(stage.note for stage in self.stages)
        if has_notes:
            table.add_column("")
        for stage in self.stages:
            table.add_row(
                stage.name, *_cells(stage, stage.runs * self.calls_per_answer), *([stage.note] if has_notes else [])
            )
        table.add_section()
        table.add_row("all", *_cells(self._total(), self.joint_calls))
        return table

    def _total(self) -> StageReport:
        return StageReport(
            name="all",
            usage=added(stage.usage for stage in self.stages),
            optimizer_usage=added(stage.optimizer_usage for stage in self.stages),
            seconds=self.seconds,
        )


def added(usages: Iterable[Usage]) -> Usage:
    """The sum; its cost is None where no cost is known."""
    parts = [usage for usage in usages if usage.calls]
    if not parts:
        return Usage(cost_usd=0.0)
    known = [usage.cost_usd for usage in parts if usage.cost_usd is not None]
    sums: dict[str, Any] = {
        name: sum(getattr(u, name) for u in parts) for name in Usage.model_fields if name != "cost_usd"
    }
    return Usage(cost_usd=sum(known) if known else None, **sums)


def _cells(stage: StageReport, joint: int) -> list[str]:
    whole = added([stage.usage, stage.optimizer_usage])
    tokens = whole.prompt_tokens + whole.completion_tokens
    return [
        "-" if stage.before is None else f"{stage.before:.3f} > {stage.after:.3f}",
        f"{stage.usage.calls:,}",
        f"{joint:,}" if joint else "-",
        f"{stage.optimizer_usage.calls:,}",
        f"{tokens:,}" if tokens < 10_000 else f"{tokens / 1000:,.0f}k",
        "unknown" if whole.cost_usd is None else f"{whole.cost_usd:.4f}",
        f"{stage.seconds:.0f} s",
    ]
