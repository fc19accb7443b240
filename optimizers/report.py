"""What a specialization did, stage by stage, and what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.box import SIMPLE_HEAD
from rich.table import Table

from moa_dspy.usage import Usage

__all__ = ["Joint", "SpecializationReport", "StageReport", "added"]


class StageReport(BaseModel):
    """One stage: one agent tuned alone, or proposals recorded.

    Attributes:
        name: The agent, with its layer from the second on; or what was recorded.
        runs: How often the program of the stage was run; a recording runs nothing.
        recorded: Of a recording: for how many examples.
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
    recorded: int = 0
    usage: Usage
    optimizer_usage: Usage
    seconds: float = 0.0
    before: float | None = None
    after: float | None = None
    kept: bool = False
    note: str = ""
    resumed: bool = False


@dataclass(frozen=True)
class Joint:
    """What tuning the whole mixture would have taken of the agents.

    Attributes:
        calls: LM calls.
        tokens: Prompt and completion; None where no recording says what an answer takes.
        cost_usd: None also where a price is not known.
    """

    calls: int
    tokens: int | None
    cost_usd: float | None


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
        return self.joint(self.runs).calls

    @property
    def runs(self) -> int:
        """Runs of the programs of all stages."""
        return sum(stage.runs for stage in self.stages)

    def joint(self, runs: int) -> Joint:
        """What so many runs of the whole mixture would have taken of its agents.

        Tokens and cost are those of a mean answer: of the proposals recorded for an example, and of a run of the
        aggregator's stage.
        """
        parts = [
            *((stage.usage, stage.recorded) for stage in self.stages if stage.name.startswith("proposals")),
            *((stage.usage, stage.runs) for stage in self.stages if stage.name == "aggregator"),
        ]
        known = bool(parts) and all(count for _, count in parts)
        priced = known and all(usage.cost_usd is not None and not usage.unpriced_calls for usage, _ in parts)
        return Joint(
            calls=runs * self.calls_per_answer,
            tokens=round(runs * sum(_tokens(usage) / count for usage, count in parts)) if known else None,
            cost_usd=runs * sum((usage.cost_usd or 0.0) / count for usage, count in parts) if priced else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-able data."""
        totals = {name: getattr(self, name) for name in ("calls", "optimizer_calls", "joint_calls", "seconds")}
        stages = [{**stage.model_dump(mode="json"), "joint": asdict(self.joint(stage.runs))} for stage in self.stages]
        return {**totals, "cost_usd": self.usage.cost_usd, "joint": asdict(self.joint(self.runs)), "stages": stages}

    def table(self) -> Table:
        """The report as a rich table: `calls` of the agents, `jointly` what the whole mixture would have taken."""
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, caption_justify="left")
        table.add_column("stage", overflow="fold", max_width=17)
        for heading in ("valset", "calls", "jointly", "tuning", "tokens", "USD", "time"):
            table.add_column(heading, justify="right", no_wrap=True)
        for stage in self.stages:
            table.add_row(stage.name, *_cells(stage, stage.runs * self.calls_per_answer))
        if len(self.stages) > 1:
            table.add_section()
            table.add_row("all", *_cells(self._total(), self.joint_calls))
        table.caption = "\n".join(f"{stage.name}: {stage.note}." for stage in self.stages if stage.note) or None
        return table

    def comparison(self) -> str:
        """What the same runs would have taken of the whole mixture, in words; empty where nothing else was run."""
        joint = self.joint(self.runs)
        if not joint.calls:
            return ""
        tokens = "" if joint.tokens is None else f", about {_short(joint.tokens)} tokens"
        cost = "" if joint.cost_usd is None else f" and ${joint.cost_usd:.4f}"
        ours = added(stage.usage for stage in self.stages)
        paid = "" if joint.cost_usd is None or ours.cost_usd is None else f" and ${ours.cost_usd:.4f}"
        return (
            f"Tuned jointly, the same {self.runs:,} runs would have taken {joint.calls:,} calls of the agents{tokens}"
            f"{cost}, instead of {ours.calls:,} calls, {_short(_tokens(ours))} tokens{paid}."
        )

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


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def _short(tokens: int) -> str:
    return f"{tokens:,}" if tokens < 10_000 else f"{tokens / 1000:,.0f}k"


def _cells(stage: StageReport, joint: int) -> list[str]:
    whole = added([stage.usage, stage.optimizer_usage])
    return [
        "-" if stage.before is None else f"{stage.before:.3f} > {stage.after:.3f}",
        f"{stage.usage.calls:,}",
        f"{joint:,}" if joint else "-",
        f"{stage.optimizer_usage.calls:,}",
        _short(_tokens(whole)),
        "unknown" if whole.cost_usd is None else f"{whole.cost_usd:.4f}",
        f"{stage.seconds:.0f} s",
    ]
