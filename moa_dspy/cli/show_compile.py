"""A compile in a terminal: what it may cost, the prompts before and after, and the scores."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from moa_dspy.cli.compilation import Compilation, Prompt
from moa_dspy.cli.console import clean

__all__ = ["show_compilation", "show_plan"]

_STYLES = {"+": "green", "-": "red", " ": "dim"}


def show_plan(console: Console, compilation: Compilation) -> None:
    """What is about to be spent."""
    job, budget = compilation.job, compilation.budget
    console.print(
        Text(
            f"{compilation.optimizer}, recipe {job.recipe.name}. Examples: {len(job.trainset)} to learn from, "
            f"{len(job.valset)} to compare by, {len(compilation.heldout)} held back."
        ),
        soft_wrap=True,
    )
    console.print(
        Text(
            f"At most {budget.calls:,} LM calls: {budget.agents:,} of the agents ({budget.formula}) and "
            f"{budget.optimizer:,} of the optimizer; then {compilation.measuring_calls:,} on the held-back data.",
            "bold",
        ),
        soft_wrap=True,
    )


def show_compilation(console: Console, compilation: Compilation) -> None:
    """The prompts as a diff, what each stage did, and the scores."""
    same = []
    for before, after in zip(compilation.before, compilation.after, strict=True):
        if before == after:
            same.append(after.name)
            continue
        console.print(Text(f"\n{after.name}", "bold"))
        for line in _changes(before, after):
            console.print(Text(clean(line), _STYLES[line[0]]), soft_wrap=True)
    if same:
        console.print(Text(f"\nunchanged: {', '.join(same)}", "dim"))
    console.print()
    console.print(compilation.report.table())
    if said := compilation.report.comparison():
        console.print(Text(said, "dim"))
    console.print()
    _show_scores(console, compilation)
    console.print(Text(f"Saved: {compilation.out}. Next: moa-dspy show {compilation.out}"), soft_wrap=True)


def _show_scores(console: Console, compilation: Compilation) -> None:
    gain = compilation.gain
    if gain is None:
        console.print(Text("Nothing was held back, so whether this helped is not known.", "yellow"))
        return
    count = len(compilation.scores_after)
    console.print(Text(f"On {count} held-back example{'s' * (count > 1)}, with 95% intervals:"))
    for name, scores in (("before", compilation.scores_before), ("after", compilation.scores_after)):
        low, high = compilation.interval(scores)
        console.print(f"  {name:<6}  {sum(scores) / count:.3f}  {low:.3f} to {high:.3f}", highlight=False)
    if compilation.is_unchanged:
        console.print(Text("Nothing better was found: the prompts are as they were, and so is the score.", "yellow"))
        return
    difference, (low, high) = gain
    style = "green" if low > 0 else "red" if high < 0 else "yellow"
    console.print(Text(f"  gain   {difference:+.3f}  {low:+.3f} to {high:+.3f} (paired bootstrap)", style))
    if low <= 0 <= high:
        console.print(Text("The gain's interval includes 0: it may be chance. More held-back data would tell.", "dim"))


def _changes(before: Prompt, after: Prompt) -> Iterator[str]:
    lines = difflib.ndiff(before.instructions.splitlines(), after.instructions.splitlines())
    yield from (line for line in lines if not line.startswith("?"))
    if before.demos != after.demos:
        yield f"- {before.demos} demos"
        yield f"+ {after.demos} demos"
