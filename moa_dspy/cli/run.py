"""`moa-dspy run`: a file of questions, a file of answers."""

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

__all__ = ["HELP", "run"]

HELP = """Answer a file of questions into a file of answers, resumable after a kill at any moment.

QUESTIONS holds one JSON object a line: the inputs of the signature, an optional "id", and further fields, which \
pass through as "extra". All rows are checked before the first is asked.

Each answer is one line of ANSWERS: id, inputs, outputs, agreement, who proposed what, failures, tokens, cost, \
seconds. They are appended as they come and stand in the order of QUESTIONS at the end.

[bold]Examples[/bold]
moa-dspy run questions.jsonl --out answers.jsonl --config moa.yaml
moa-dspy run questions.jsonl -o answers.jsonl --preset budget \\
    --signature "context, question -> answer: bool"
moa-dspy run questions.jsonl -o answers.jsonl --preset balanced \\
    --signature tasks:Triage --concurrency 32 --json > summary.json

[bold]Resume[/bold]: give the same command again. What is answered stays, the rest is asked, and so is what failed \
or whose inputs were edited. Without an "id" a question is known by its inputs, wherever it stands.

[bold]Ctrl-C[/bold] once lets the questions under way finish, twice abandons them.

[bold]Next[/bold]: read ANSWERS with moa_dspy.batch.read_answers, or with jq, pandas or DuckDB.

Exit status: 0 all answered, 1 some failed, 2 bad input, 130 interrupted.
"""


def run(
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="A JSONL file.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="ANSWERS", help="A JSONL file, new or to be resumed.")],
    config: Config = None,
    preset: Preset = None,
    proposer: Proposers = None,
    aggregator: Aggregator = None,
    strategy: Strategy = None,
    signature: Signature = "question -> answer",
    concurrency: Annotated[
        int, typer.Option(min=1, help="Questions under way at once; each asks all its proposers at once.")
    ] = 8,
    force: Annotated[
        bool, typer.Option("--force", help="Keep ANSWERS of another mixture and ask the rest with this one.")
    ] = False,
    mlflow: Mlflow = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Answer a file of questions."""
    from rich.console import Console

    from moa_dspy.batch import BatchInterrupted, answer_all
    from moa_dspy.cli.console import BAD_INPUT, FAILED, INTERRUPTED, complain, note, quiet_stdout, refusing, words
    from moa_dspy.cli.progress import BatchProgress
    from moa_dspy.cli.show_summary import show_summary

    with refusing():
        moa = mixture(signature, config, preset, proposer, aggregator, strategy)
    status, progress = 0, BatchProgress()
    try:
        with tracking(mlflow, moa, "run"), quiet_stdout(), progress:
            summary = answer_all(moa, questions, out, concurrency=concurrency, force=force, on_progress=progress.update)
        status = FAILED if summary.failed else 0
    except (ValueError, OSError) as error:
        complain(words(error))
        raise typer.Exit(FAILED if progress.started else BAD_INPUT) from None
    except BatchInterrupted as interrupted:
        summary, status = interrupted.summary, INTERRUPTED
    except KeyboardInterrupt:
        complain("Interrupted. The same command again goes on where this one stopped.")
        raise typer.Exit(INTERRUPTED) from None
    if is_simulated(config, preset, proposer):
        note(SIMULATED_NOTE)
    if as_json:
        typer.echo(summary.model_dump_json(indent=2))
    else:
        show_summary(Console(), summary, out, [agent.model or "" for agent in moa.agents])
    raise typer.Exit(status)
