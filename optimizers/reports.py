"""Reports: as data, as tables, and what a compile in stages did and cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from moa_dspy.terminal import printable
from moa_dspy.usage import Usage
from moa_dspy.values import to_jsonable

__all__ = ["Report", "SpecializationReport", "StageReport", "list_table"]


class Report:
    """What came of it, as data."""

    shown: ClassVar[Sequence[str]] = ()  # what stands in the data; by default all fields

    def to_dict(self) -> dict[str, Any]:
        """The report as data for JSON; what is not known is None."""
        data: dict[str, Any] = to_jsonable({name: _as_data(getattr(self, name)) for name in self.shown or vars(self)})
        return data


def _as_data(value: Any) -> Any:
    if callable(as_data := getattr(value, "to_dict", None)):
        return as_data()
    return [_as_data(one) for one in value] if type(value) in (list, tuple) else value


def list_table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """A plain table for 80 columns: names, which may go on in a second line, and numbers."""
    plain: Any = {"show_edge": False, "pad_edge": False, "padding": (0, 1, 0, 0), "header_style": "dim"}
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", **plain)
    for number, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", no_wrap=number > 0, justify="right" if number else "left")
    for name, *cells in rows:
        table.add_row(Text(printable(name)), *cells)
    return table


class StageReport(BaseModel):
    """One stage: one agent tuned alone, or proposals recorded."""

    model_config = ConfigDict(frozen=True)

    name: str  # the agent, with its layer from the second on; or what was recorded
    runs: int = 0  # of the program of the stage; a recording runs nothing
    usage: Usage  # LM calls of the agents
    optimizer_usage: Usage = Usage.of([])  # of the optimizer itself: reflections, proposals of prompts
    seconds: float = 0.0
    before: float | None = None  # mean score on the valset; None where it was not measured
    after: float | None = None  # the same of what the optimizer found, kept or not
    kept: bool = False  # whether that is in the compiled program
    note: str = ""
    resumed: bool = False  # taken from a checkpoint: the calls were paid for then


@dataclass(frozen=True)
class SpecializationReport(Report):
    """All stages, in the order of the mixture."""

    stages: list[StageReport] = field(default_factory=list)  # one per agent and recording
    calls_per_answer: int = 0  # what one run of the whole mixture takes
    seconds: float = 0.0
    judged_on: str = "valset"  # or, without one, `trainset`, on which scores look better than they are
    shown = ("calls", "optimizer_calls", "joint_calls", "seconds", "judged_on", "cost_usd", "stages")

    @property
    def cost_usd(self) -> float | None:
        """USD; None if a price is not known."""
        return self.usage.cost_usd

    @property
    def usage(self) -> Usage:
        """All LM calls: those of the agents and those of the optimizer."""
        return sum((stage.usage + stage.optimizer_usage for stage in self.stages), Usage.of([]))

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
        """What the agents would have been asked, had every run of a stage been one of the whole mixture."""
        return self.calls_per_answer * sum(stage.runs for stage in self.stages)

    def table(self) -> Table:
        """The report as a rich table: `calls` of the agents, `jointly` what the whole mixture would have taken."""
        rows = []
        for one in self.stages:
            scores = "" if one.before is None else f"{one.before:.3f} > {one.after:.3f}"
            counts = one.usage.calls, one.runs * self.calls_per_answer, one.optimizer_usage.calls
            rows.append([one.name, scores, *_cells(*counts, one.usage + one.optimizer_usage, one.seconds)])
        if len(rows) > 1:
            counts = self.calls, self.joint_calls, self.optimizer_calls
            rows.append(["all", "", *_cells(*counts, self.usage, self.seconds)])
        table = list_table(["stage", self.judged_on, "calls", "jointly", "tuning", "tokens", "USD", "time"], rows)
        notes = [f"{stage.name}: {stage.note}." for stage in self.stages if stage.note]
        if self.judged_on == "trainset":
            notes.append("Scores are of the examples that were learned from: a valset would tell more.")
        table.caption, table.caption_justify = Text(printable("\n".join(notes)), "dim") if notes else None, "left"
        return table


def _cells(calls: int, jointly: int, tuning: int, usage: Usage, seconds: float) -> list[str]:
    tokens = usage.prompt_tokens + usage.completion_tokens
    shown = f"{tokens:,}" if tokens < 10_000 else f"{tokens / 1000:,.0f}k"
    cost = "-" if usage.cost_usd is None else f"{usage.cost_usd:.4f}"
    return [f"{calls:,}", f"{jointly:,}" if jointly else "-", f"{tuning:,}", shown, cost, f"{seconds:.0f} s"]
