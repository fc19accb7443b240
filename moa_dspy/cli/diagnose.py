"""`moa-dspy diagnose`: use this mixture, another one, or none?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli.options import SIMULATED_NOTE, Aggregator, Config, Preset, Proposers, Signature, is_simulated, mixture

__all__ = ["HELP", "diagnose"]

HELP = """Find out on your data whether a mixture pays, why, and what to use instead.

DATA holds one JSON object a line: the signature's inputs and gold outputs.
Each model is asked once per question; its proposals serve each model alone,
the vote, the strategies, committees of some of the models, and how far models
fail together.

The control, Self-MoA, asks the best model as often as the whole panel, which
doubles the calls: --no-self-moa does without. What all of it will take is
printed before it is spent.

[bold]Examples[/bold]

\b
moa-dspy diagnose --data data.jsonl --config moa.yaml
moa-dspy diagnose -d data.jsonl -c moa.yaml --dry-run
moa-dspy diagnose -d data.jsonl -c moa.yaml -s voting --no-self-moa \\
    --plot quality.html
moa-dspy diagnose -d rows.jsonl -c moa.yaml --json --metric metrics:score \\
    --signature "text -> label: bool" > diagnosis.json

[bold]Next[/bold]: in Python, SelectCommittee and FitVoteWeights of
moa_dspy.optimizers make what is recommended; moa-dspy compile tunes prompts.

Exit status: 0 diagnosed, 1 stopped by a failure, 2 bad input, 130 interrupted.
"""


def diagnose(
    data: Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="A JSONL file with gold answers.")],
    config: Config = None,
    preset: Preset = None,
    proposer: Proposers = None,
    aggregator: Aggregator = None,
    strategy: Annotated[
        list[str] | None,
        typer.Option(
            "--strategy", "-s", metavar="NAME", help="synthesis, selection, voting or fusion, several times; all."
        ),
    ] = None,
    metric: Annotated[str, typer.Option("--metric", "-m", help="exact, contains, or module:function.")] = "exact",
    signature: Signature = "question -> answer",
    self_moa: Annotated[
        bool, typer.Option("--self-moa/--no-self-moa", help="Ask the best model as often as the whole panel.")
    ] = True,
    limit: Annotated[int | None, typer.Option(min=1, help="Ask a sample of so many rows, drawn by --seed.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot quality against cost into FILE.html or FILE.png.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Questions under way at once; each asks all its proposers at once.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of the bootstrap.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it may cost, and spend nothing.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Diagnose a mixture."""
    from rich.console import Console

    from moa_dspy.cli.comparing import check_files, save
    from moa_dspy.cli.console import note, refusing
    from moa_dspy.cli.dataset import read_dataset
    from moa_dspy.cli.diagnose_run import run
    from moa_dspy.cli.tables import show_comparison
    from moa_dspy.optimizers import diagnosis_budget

    with refusing():
        check_files(plot)
        # A vote among given models is the only strategy for which an aggregator need not be named.
        moa = mixture(signature, config, preset, proposer, aggregator, "voting" if strategy == ["voting"] else None)
        dataset = read_dataset(data, moa.signature, metric, limit, seed)
        budget = diagnosis_budget(moa, len(dataset), strategies=strategy, self_moa=self_moa)
    if is_simulated(config, preset, proposer):
        note(SIMULATED_NOTE)
    note(f"At most {budget.calls:,} LM calls: {budget.formula}.")
    if dry_run:
        return
    diagnosis = run(moa, dataset, metric, strategies=strategy, self_moa=self_moa, concurrency=concurrency, seed=seed)
    if as_json:
        import json

        typer.echo(json.dumps(diagnosis.to_dict(), indent=2))
    else:
        console = Console(highlight=False)
        show_comparison(console, diagnosis.comparison)
        console.print()
        console.print(diagnosis.findings())
    save(diagnosis.comparison, plot)
