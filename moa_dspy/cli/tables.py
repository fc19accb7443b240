"""A comparison in a terminal: the table, and what must be said beside it."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from moa_dspy.cli.console import clean
from moa_dspy.cli.show import cost_of
from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.comparison_table import split_table

__all__ = ["show_comparison", "show_split"]

_SIMULATED = "SIMULATED models: they show how mixing works and say nothing about real ones."
_FEW = 30
_MESSAGE = 160


def show_comparison(console: Console, comparison: Comparison) -> None:
    """The table and its notes."""
    if comparison.is_simulated:
        console.print(Text(_SIMULATED, "bold yellow"))
    console.print()
    console.print(comparison.table(console.width))
    console.print()
    for line in _notes(comparison):
        console.print(Text(line, style="dim"))
    for line in _warnings(comparison):
        console.print(Text(clean(line), style="yellow"))


def show_split(console: Console, comparison: Comparison, field: str) -> None:
    """The scores by the values of a field of the data."""
    console.print()
    console.print(split_table(comparison, lambda example: example.get(field)))


def _notes(comparison: Comparison) -> Iterator[str]:
    best, usage = comparison.best_single, comparison.usage
    judges = [system.name for system in comparison.systems if system.kind == "aggregator"]
    judge = f"; {judges[0]} is the aggregator's model" if judges else ""
    yield f"alone: one model, with the proposers' prompt{judge}."
    yield "plain vote: counted, without an aggregator. oracle: right if any proposer is, the bound for picking one."
    yield (
        f"gain: against {best} alone on the same questions (paired bootstrap). {best} was picked as the best on "
        "these very questions, which flatters it."
    )
    tokens = usage.prompt_tokens + usage.completion_tokens
    cost = cost_of(usage, {call.model for record in comparison.records for call in record.calls})
    yield (
        "calls, tokens, USD, time: per question, each system on its own. This run asked each proposer once for all "
        f"systems: {usage.calls:,} calls, {tokens:,} tokens, cost {cost}."
    )


def _warnings(comparison: Comparison) -> Iterator[str]:
    count = len(comparison.records)
    if count < comparison.planned:
        yield f"Stopped after {count} of {comparison.planned} questions."
    if count < _FEW:
        yield f"{count} questions are few: the intervals are rough."
    for row in comparison.rows:
        troubles = [trouble for trouble in comparison.troubles if trouble.system == row.name]
        causes = "; ".join(f"{t.count} x {t.error}: {_one_line(t.message)}" for t in troubles)
        if row.fallbacks:
            yield f"{row.name}: the vote stood in for the aggregator on {row.fallbacks} of {count} questions. {causes}"
        # Where too few proposals came, the proposers' own failures are the news.
        elif any(trouble.error != "TooFewProposals" for trouble in troubles):
            failed = sum(trouble.count for trouble in troubles)
            yield f"{row.name}: failed on {failed} of {count} questions, counted as wrong. {causes}"
    cached = max((row.cached for row in comparison.rows), default=0)
    if cached:
        yield (
            f"DSPy's cache answered calls of up to {cached} of {count} questions; tokens, USD and time leave these "
            "questions out."
        )


def _one_line(message: str) -> str:
    line = " ".join(message.split())
    return line if len(line) <= _MESSAGE else f"{line[:_MESSAGE]} ..."
