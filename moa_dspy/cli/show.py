"""An answer and its account in a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from moa_dspy.cli.console import clean
from moa_dspy.cli.options import SIMULATED
from moa_dspy.strategies.equality import normalise, same

if TYPE_CHECKING:
    import dspy

    from moa_dspy.accounting import Usage
    from moa_dspy.metadata import Failure, MoAMetadata, Vote

__all__ = ["cost_of", "cut", "show_account", "show_answer"]


def show_answer(console: Console, outputs: Mapping[str, Any], metadata: MoAMetadata) -> None:
    """The answer in a frame, and how it was made."""
    console.print(Panel(_text(outputs), title="answer", title_align="left", border_style="green", expand=False))
    how = f"{metadata.answered_by} of {metadata.proposals_received} proposals"
    if metadata.agreement is not None:
        how += f", agreement {metadata.agreement:.0%}"
    console.print(Text(f"{how}, {metadata.seconds:.1f} s", style="dim"))


def show_account(
    console: Console, outputs: Mapping[str, Any] | None, metadata: MoAMetadata, task: type[dspy.Signature]
) -> None:
    """Who proposed what, who agreed, what it cost, and what degraded."""
    console.print()
    console.print(_proposals(outputs, metadata, task))
    if any(element.kind != "consensus" for element in metadata.elements):
        console.print()
        console.print(_elements(metadata))
    console.print()
    console.print(_costs(metadata))
    for line in _degraded(metadata):
        console.print(Text(clean(line), style="yellow"))


def cost_of(usage: Usage, models: Iterable[str]) -> str:
    """The cost in USD, without hiding what is not known of it."""
    if usage.unpriced_calls and all(model.startswith(SIMULATED) for model in models):
        return "none"
    if usage.cost_usd is None:
        return "unknown"
    unpriced = f" + {usage.unpriced_calls} unpriced" if usage.unpriced_calls else ""
    return f"${usage.cost_usd:.4f}{unpriced}"


def _proposals(outputs: Mapping[str, Any] | None, metadata: MoAMetadata, task: type[dspy.Signature]) -> Table:
    """The last layer's proposals, those that say the same beside each other, and who failed."""
    table = _table("proposer", "proposal", "agrees")
    last = max((proposal.layer for proposal in metadata.all_proposals), default=1)
    left = {proposal.id: proposal for proposal in metadata.all_proposals if proposal.layer == last}
    for vote in metadata.votes:
        agrees = outputs is not None and _says(vote, outputs, metadata.selected, task)
        for id in vote.proposals:
            table.add_row(id, _text(left.pop(id).outputs, _LENGTH), Text("yes" if agrees else "", "green"))
    for proposal in left.values():
        table.add_row(proposal.id, _text(proposal.outputs, _LENGTH), "" if outputs is None else "abstains")
    for failure in metadata.failures:
        table.add_row(failure.agent, Text(cut(clean(_cause(failure)), _LENGTH), "yellow"), Text("failed", "yellow"))
    return table


def _says(vote: Vote, outputs: Mapping[str, Any], selected: str | None, task: type[dspy.Signature]) -> bool:
    if selected is not None:
        return selected in vote.proposals
    types = {name: task.output_fields[name].annotation for name in vote.answer}
    return all(same(normalise(vote.answer[name], kind), normalise(outputs[name], kind)) for name, kind in types.items())


def _elements(metadata: MoAMetadata) -> Table:
    table = _table("element", "statement", "supported by")
    for element in metadata.elements:
        table.add_row(element.kind, cut(clean(element.statement), _LENGTH), ", ".join(element.supported_by))
    return table


def _costs(metadata: MoAMetadata) -> Table:
    table = _table("agent", "model", "calls", "tokens in", "out", "cost", "seconds", right=5)
    models = {call.agent: call.model for call in metadata.calls}
    for agent, usage in metadata.agents.items():
        table.add_row(agent, models[agent], *_numbers(usage, [models[agent]], usage.seconds))
    if len(models) > 1:
        table.add_section()
        table.add_row("all", "", *_numbers(metadata.usage, metadata.models, metadata.seconds))
    return table


def _numbers(usage: Usage, models: Iterable[str], seconds: float) -> list[str]:
    cached = f" ({usage.cache_hits} cached)" if usage.cache_hits else ""
    tokens = [f"{usage.prompt_tokens:,}", f"{usage.completion_tokens:,}"]
    return [f"{usage.calls}{cached}", *tokens, cost_of(usage, models), f"{seconds:.1f}"]


def _degraded(metadata: MoAMetadata) -> list[str]:
    asked, received = metadata.proposals_asked, metadata.proposals_received
    lines = [f"Degraded: {asked - received} of {asked} proposals did not come."] if received < asked else []
    if metadata.fallback_used:
        lines.append(f"Degraded: the {metadata.strategy} failed, so the answer is the vote among the proposals.")
    for id, lost in metadata.shortened.items():
        lines.append(f"Degraded: {lost:,} characters of {id}'s proposal did not fit the aggregator's context window.")
    return lines


def _table(*columns: str, right: int = 0) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), collapse_padding=True)
    for number, column in enumerate(columns):
        is_number = number >= len(columns) - right
        table.add_column(column, justify="right" if is_number else "left", no_wrap=is_number, overflow="fold")
    return table


def _text(outputs: Mapping[str, Any], length: int | None = None) -> Text:
    """One output as its bare value, several with their names."""
    values = {name: _value(value) for name, value in outputs.items()}
    lines = list(values.values()) if len(values) == 1 else [f"{name}: {value}" for name, value in values.items()]
    text = clean("\n".join(lines))
    return Text(text if length is None else cut(text, length))


def _value(value: Any) -> str:
    plain = to_jsonable_python(value, fallback=str)
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, indent=2)


def _cause(failure: Failure) -> str:
    return f"{failure.error}: {failure.message}"


def cut(text: str, length: int) -> str:
    """The text, or its beginning."""
    return text if len(text) <= length else f"{text[:length].rstrip()} ..."


# Of each proposal; --json has all of it.
_LENGTH = 300
