"""`moa-dspy eval`: is the mixture better than its best model, and what does it cost?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli.options import Aggregator, Config, Preset, Proposers, Signature, is_simulated, mixture
from moa_dspy.cli.tracking import Mlflow, tracking

__all__ = ["HELP", "evaluate"]

HELP = """Compare models alone, the vote, the strategies and the oracle on your data.

DATA holds one JSON object a line: the signature's inputs and gold outputs,
such as {"question": "What is 17 * 23?", "answer": "391"}. All rows are
checked before the first is asked.

Each model is asked once per question, and its proposals serve all systems;
what a system is said to take is what it takes on its own. Differences to the
best single model come with 95% intervals. A failure counts as wrong.

[bold]Examples[/bold]

\b
moa-dspy eval data.jsonl --config moa.yaml
moa-dspy eval data.jsonl -p openai/gpt-5.4-mini --limit 100 \\
    -p anthropic/claude-haiku-4-5 -a anthropic/claude-sonnet-5-5
moa-dspy eval data.jsonl -c moa.yaml -s voting -s fusion --plot quality.html
moa-dspy eval rows.jsonl -c moa.yaml --signature "text -> label: bool" \\
    --metric metrics:score --json > results.json

[bold]Metrics[/bold]: exact compares by type, as votes are counted; contains looks for
the gold text in the answer; module:function is DSPy's metric(example,
prediction, trace=None), importable from here.

[bold]Ctrl-C[/bold] ends it with the questions finished so far. The same command again
takes from DSPy's cache what was answered.

[bold]Next[/bold]: the mixture that pays, on all your questions, with [bold]moa-dspy run[/bold].

Exit status: 0 compared, 1 stopped by a failure, 2 bad input, 130 interrupted.
"""


def evaluate(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A JSONL file of questions and gold answers.")],
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
    limit: Annotated[int | None, typer.Option(min=1, help="Ask a sample of so many rows, drawn by --seed.")] = None,
    by: Annotated[str | None, typer.Option(metavar="FIELD", help="Also show the scores by this field of DATA.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Plot quality against cost into FILE.html or FILE.png.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every answer of every system to this JSONL file.")
    ] = None,
    concurrency: Annotated[
        int, typer.Option(min=1, help="Questions under way at once; each asks all its proposers at once.")
    ] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the sample and of the bootstrap.")] = 0,
    mlflow: Mlflow = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Compare models, alone and mixed, on a dataset."""
    from rich.console import Console

    from moa_dspy.cli.comparing import check_files, compare, print_json, save
    from moa_dspy.cli.console import note, refusing
    from moa_dspy.cli.dataset import read_dataset
    from moa_dspy.cli.tables import show_comparison, show_split

    with refusing():
        check_files(plot, record)
        # A vote among given models is the only strategy for which an aggregator need not be named.
        moa = mixture(signature, config, preset, proposer, aggregator, "voting" if strategy == ["voting"] else None)
        dataset = read_dataset(data, moa.signature, metric, limit, seed)
        if by is not None and not any(by in example for example in dataset):
            raise ValueError(f"No row of {data} has the field {by!r}, so the scores cannot be shown by it.")
        if is_simulated(config, preset, proposer):
            note("Simulated models answer: no key, no network, no cost. Name real ones with --config or --proposer.")
        with tracking(mlflow, moa, "eval", dataset) as tracked:
            comparison, status = compare(
                "asking", moa, dataset, metric, strategies=strategy, concurrency=concurrency, seed=seed
            )
            if tracked is not None:
                tracked.log_comparison(comparison)
    if as_json:
        print_json(comparison)
    else:
        console = Console()
        show_comparison(console, comparison)
        if by is not None:
            show_split(console, comparison, by)
    save(comparison, plot, record)
    raise typer.Exit(status)
