"""`moa-dspy compile`: better prompts for a mixture, and whether they are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moa_dspy.cli.options import (
    SIMULATED_NOTE,
    Aggregator,
    Config,
    Preset,
    Proposers,
    Signature,
    Strategy,
    is_simulated,
    mixture,
)
from moa_dspy.cli.tracking import Mlflow, tracking

__all__ = ["HELP", "compile_"]

HELP = """Tune the prompts of a mixture on your data, and measure on data held back whether that helped.

DATA holds one JSON object a line: the signature's inputs and gold outputs. A \
part is held back; the optimizer sees the rest, half to learn from, half to \
compare prompts by. What it may cost is printed before it is spent.

[bold]Optimizers[/bold]: specialize tunes each agent alone, then the aggregator, one \
call per example; gepa, bootstrap and mipro are DSPy's, on the whole mixture. \
Recipes: quick, balanced, thorough.

[bold]Examples[/bold]

\b
moa-dspy compile --data train.jsonl --out moa.json
moa-dspy compile -d train.jsonl -o moa.json -c moa.yaml --dry-run
moa-dspy compile -d train.jsonl -o moa.json -c moa.yaml --mlflow && moa-dspy ui
moa-dspy compile -d train.jsonl -o moa.json -c moa.yaml \\
    --recipe balanced --reflection-model openai/gpt-5
moa-dspy compile -d rows.jsonl -o moa.json -c moa.yaml \\
    --signature "text -> label: bool" --metric metrics:score --optimizer gepa

[bold]Resume[/bold]: specialize and gepa keep what they have found in a folder beside OUT, \
moa.checkpoint, until they are done. The same command goes on from there, also \
after Ctrl-C, a crash or a dead model.

[bold]Next[/bold]: moa-dspy show moa.json; in Python MoA.from_file("moa.json").

Exit status: 0 compiled, 1 stopped by a failure, 2 bad input, 130 interrupted.
"""


def compile_(
    data: Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="A JSONL file with gold answers.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where the mixture is saved, a .json file.")],
    config: Config = None,
    preset: Preset = None,
    proposer: Proposers = None,
    aggregator: Aggregator = None,
    strategy: Strategy = None,
    signature: Signature = "question -> answer",
    metric: Annotated[str, typer.Option("--metric", "-m", help="exact, contains, or module:function.")] = "exact",
    optimizer: Annotated[
        str, typer.Option(metavar="NAME", help="specialize, gepa, bootstrap or mipro.")
    ] = "specialize",
    recipe: Annotated[
        str, typer.Option(metavar="NAME", help="How much to spend: quick, balanced or thorough.")
    ] = "quick",
    reflection_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="What proposes prompts; by default the aggregator.")
    ] = None,
    heldout: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share of DATA that is held back.")] = 0.3,
    limit: Annotated[int | None, typer.Option(min=1, help="Use a sample of so many rows, drawn by --seed.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Examples under way at once.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the optimizer and the bootstrap.")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it may cost, and spend nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    mlflow: Mlflow = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the results as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Compile a mixture."""
    import os

    # GEPA's progress bars, one per stage side by side: read when tqdm is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")

    from rich.console import Console

    from moa_dspy.cli.compilation import Compilation
    from moa_dspy.cli.compile_run import run, stopped
    from moa_dspy.cli.console import FAILED, INTERRUPTED, complain, note, refusing
    from moa_dspy.cli.show_compile import show_compilation, show_plan
    from moa_dspy.optimizers import CompileInterrupted

    with refusing():
        moa = mixture(signature, config, preset, proposer, aggregator, strategy)
        compilation = Compilation.planned(
            moa,
            data,
            out,
            metric=metric,
            optimizer=optimizer,
            recipe_name=recipe,
            reflection_model=reflection_model,
            heldout=heldout,
            limit=limit,
            concurrency=concurrency,
            seed=seed,
            force=force,
        )
    if is_simulated(config, preset, proposer):
        note(SIMULATED_NOTE)
    show_plan(Console(stderr=True), compilation)
    if not dry_run:
        try:
            with refusing(), tracking(mlflow, moa, out.stem, compilation.job.trainset) as tracked:
                run(compilation)
                if tracked is not None:
                    tracked.log_metrics(compilation.metrics())
        except CompileInterrupted as error:
            complain(error.reason)
            stopped(compilation, error)
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            saved = f"{out} is saved, but not measured on the held-back data." if compilation.after else None
            complain(f"Interrupted. {saved or compilation.how_to_go_on}")
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        typer.echo(compilation.to_json())
    elif not dry_run:
        show_compilation(Console(), compilation)
