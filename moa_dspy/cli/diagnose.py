"""`moa-dspy diagnose`: use this mixture, another one, or none?"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from moa_dspy.cli import options
from moa_dspy.cli.evaluate import compare, save_plot, show_comparison
from moa_dspy.cli.output import FAILED, INTERRUPTED, Stopped, complain, console, note, print_json
from moa_dspy.cli.tracking import tracking


def diagnose(
    data: options.Data,
    who: options.Who,
    limits: options.Limits,
    scoring: options.Scoring,
    self_moa: Annotated[
        bool, typer.Option("--self-moa/--no-self-moa", help="Ask the best model as often as the whole panel.")
    ] = True,
    plot: options.Plot = None,
    concurrency: options.Concurrency = 8,
    out: options.Kept = None,
    dry_run: options.DryRun = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    r"""Find out on your data whether a mixture pays, why, and what to use instead.

    DATA (JSONL, JSON, CSV, TSV, Parquet; - reads JSON from stdin) holds the signature's inputs and gold outputs. Each
    model is asked once per question; its proposals serve each model alone, the vote, the strategies (synthesis,
    selection, voting, fusion), committees of some of the models, and how far models fail together.

    The control, Self-MoA, asks the best model as often as the whole panel, which doubles the calls: --no-self-moa
    does without. What all of it will take is printed before it is spent.

    [bold]Examples[/bold]
    moa-dspy diagnose --data data.jsonl --config moa.yaml
    moa-dspy diagnose -d data.jsonl -c moa.yaml --dry-run
    moa-dspy diagnose -d data.jsonl -c moa.yaml -s voting --no-self-moa \
        --plot quality.html
    moa-dspy diagnose -d rows.csv -c moa.yaml --json --metric metrics:score \
        --signature "text -> label: bool" > diagnosis.json

    [bold]--json[/bold] prints comparison (as moa-dspy eval), recommendation (verdict: mix, single or unclear) and
    diversity; with --dry-run, calls and formula.

    [bold]Next[/bold]: in Python, SelectCommittee and FitVoteWeights of moa_dspy.optimizers make what is recommended;
    moa-dspy compile tunes prompts.

    Exit status: 0 diagnosed, 1 stopped by a failure, 2 bad input, 130 interrupted.
    """
    from moa_dspy.evaluation import check_plot, evaluate
    from moa_dspy.optimizers import ProposersUnreachable, diagnosis_budget
    from moa_dspy.optimizers import diagnose as diagnose_mixture
    from moa_dspy.recording import Recording, RecordingInterrupted, RecordingStopped

    if plot is not None:
        check_plot(plot)
    moa, metric = who.mixture(compares=True), scoring.metric
    most = limits.bound(moa, one_answer=False)
    examples = scoring.examples(data, moa)
    recorded = Recording.load(out) if out is not None and out.exists() else None
    budget = diagnosis_budget(moa, len(examples), strategies=who.strategy, self_moa=self_moa)
    note(f"At most {budget.calls:,} LM calls: {budget.formula}.")
    if dry_run:
        if as_json:
            print_json({"calls": budget.calls, "formula": budget.formula})
        return
    asking: dict[str, Any] = {"strategies": who.strategy, "self_moa": self_moa, "recorded": recorded}
    asking |= {"concurrency": concurrency, "seed": scoring.seed, "path": out, **most}
    with tracking(mlflow, moa, "diagnose", examples) as tracked:
        diagnosis: Any = None
        comparison: Any = None
        try:
            found, status = compare(
                "asking", lambda update: diagnose_mixture(moa, examples, metric, on_progress=update, **asking)
            )
            diagnosis, comparison = (None, found) if status else (found, found.comparison)
        except (ProposersUnreachable, RecordingInterrupted, RecordingStopped) as stop:
            complain(getattr(stop, "reason", "Interrupted."))
            status = INTERRUPTED if isinstance(stop, RecordingInterrupted) else FAILED
            if stop.recording:
                comparison = evaluate(moa, stop.recording, metric, strategies=who.strategy, seed=scoring.seed)
        if tracked is not None and comparison is not None:
            tracked.log_comparison(comparison)
    if diagnosis is None or comparison is None:
        if comparison is not None:
            show_comparison(console(stderr=True), comparison)
        again = f"goes on from {out}" if out else "takes from DSPy's cache what was answered"
        raise Stopped(f"There is no diagnosis of a part. The same command again {again}.", status)
    save_plot(comparison, plot)
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        here = console()
        show_comparison(here, comparison)
        here.print()
        here.print(diagnosis.findings())
