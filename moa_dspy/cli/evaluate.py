"""`moa-dspy eval` and `diagnose`: is the mixture better than its best model, what does it cost, what to use instead?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options, output
from moa_dspy.cli.tracking import tracking

if TYPE_CHECKING:
    from rich.console import Console

    from moa_dspy.evaluation import Comparison
    from moa_dspy.moa import MoA
    from moa_dspy.optimizers import Proof

SPLITS = 200


def evaluate(
    who: options.Who,
    limits: options.Limits,
    scoring: options.Scoring,
    data: Annotated[Path | None, typer.Argument(metavar="DATA", help="Questions and gold answers, or -.")] = None,
    by: Annotated[str | None, typer.Option(metavar="FIELD", help="Show the scores by this field of DATA too.")] = None,
    also: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A further metric; repeat it.")] = None,
    perturb: Annotated[bool, typer.Option("--perturb", help="Ask in three other wordings too.")] = False,
    plot: options.Plot = None,
    out: options.Kept = None,
    recording: Annotated[Path | None, typer.Option(metavar="FILE", help="Score this recording; ask nobody.")] = None,
    proof: Annotated[bool, typer.Option("--proof", help="Show what cascades and promises are worth too.")] = False,
    concurrency: options.Concurrency = 8,
    dry_run: options.DryRun = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    r"""Compare models alone, the vote, the strategies and the oracle on your data.

    DATA (JSONL, JSON, CSV, TSV, Parquet; - reads JSON from stdin) holds the signature's inputs and gold outputs, such
    as {"question": "What is 17 * 23?", "answer": "391"}. All rows are checked before the first is asked.

    Each model is asked once per question, and its proposals serve all systems; what a system is said to take is what
    it takes on its own. Differences to the best single model come with 95% intervals. A failure counts as wrong.

    [bold]Examples[/bold]
    moa-dspy eval data.jsonl --config moa.yaml --out recorded.jsonl
    moa-dspy eval data.csv -p openai/gpt-5.4-mini --limit 100 \
        -p anthropic/claude-haiku-4-5 -a anthropic/claude-sonnet-5-5
    moa-dspy eval data.jsonl -c tuned.json -s voting -s fusion --plot quality.html
    moa-dspy eval rows.jsonl -c moa.yaml --signature "text -> label: bool" \
        --metric metrics:score --json > results.json
    moa-dspy eval --recording recorded.jsonl -c moa.yaml --metric contains

    [bold]Metrics[/bold]: exact compares by type, as votes are counted; contains looks for the gold text in the
    answer; module:function is DSPy's metric(example, prediction, trace=None), importable from here. With --also or
    --perturb a table of all measures follows: each metric, robustness, calibration, tokens, USD, seconds.

    [bold]Resume[/bold]: with --out every answer is kept, and the same command again asks only what is missing, also
    after Ctrl-C, a kill, or the end of a budget (--max-cost-usd, --max-calls; --dry-run says what it takes).
    --recording scores such a file anew, with another metric perhaps, without a call.

    [bold]Proof[/bold]: with --proof, weights, committees, routes, cascades and promises are learned from a fifth of
    the questions and judged on the rest, 200 times. It asks nobody.

    [bold]--json[/bold] prints simulated, questions, planned, metric, score, confidence, seed, best_single, rows
    (name, kind, score, interval, difference, difference_interval, calls, prompt_tokens, completion_tokens, tokens,
    cost_usd, seconds, failures, fallbacks, cached), measures, models, troubles and spent.

    [bold]Next[/bold]: the mixture that pays, on all your questions, with [bold]moa-dspy run[/bold].

    Exit status: 0 compared, 1 stopped by a failure, 2 bad input, 130 interrupted.
    """
    from moa_dspy import evaluation
    from moa_dspy.recording import Recording, is_recording

    if (data is None) == (recording is None):
        raise ValueError("Give DATA to ask, or --recording FILE to score anew: one of them.")
    if data is not None and is_recording(data):
        raise ValueError(f"{data} is a recording of answers. To score it, without a call: --recording {data}")
    if plot is not None:
        evaluation.check_plot(plot)
    moa, strategies = who.mixture(compares=True), who.strategy
    asked: Any
    if recording is not None:
        asked = Recording(scoring.draw(Recording.load(recording).rows))
        examples = [row.example for row in asked]
    else:
        asked = examples = scoring.examples(data or Path(), moa)
    if by is not None and not any(by in example for example in examples):
        raise ValueError(f"No row of {data or recording} has the field {by!r}, so the scores cannot be shown by it.")
    settings: dict[str, Any] = {"strategies": strategies, "concurrency": concurrency, "seed": scoring.seed, "path": out}
    settings |= {"metrics": {name: name for name in also or ()}, "perturb": perturb}
    settings |= limits.bound(moa, one_answer=False)
    if dry_run:
        found = evaluation.estimate_evaluation(moa, asked, strategies, out, perturb)
        return options.tell_estimate(found, as_json)
    with tracking(mlflow, moa, "eval", examples) as tracked:
        comparison, status = compare(
            "asking", lambda update: evaluation.evaluate(moa, asked, scoring.metric, on_progress=update, **settings)
        )
        if tracked is not None:
            tracked.log_comparison(comparison)
    save_plot(comparison, plot)
    if out is not None:
        output.note(f"Every answer of every system: {out}")
    proven = _prove(moa, comparison, by) if proof else None
    if as_json:
        output.print_json(comparison.to_dict() | ({} if proven is None else {"proof": proven.to_dict()}))
    else:
        show_comparison(output.console(), comparison, by)
        if also or perturb:
            output.console().print(comparison.measures_table())
        if proven is not None:
            output.console().print(proven.table())
    raise typer.Exit(status)


def diagnose(
    data: options.Data,
    who: options.Who,
    limits: options.Limits,
    scoring: options.Scoring,
    self_moa: Annotated[bool, typer.Option(help="Ask the best model as often as the whole panel.")] = True,
    plot: options.Plot = None,
    concurrency: options.Concurrency = 8,
    out: options.Kept = None,
    dry_run: options.DryRun = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    r"""Find out on your data whether a mixture pays, why, and what to use instead.

    DATA (JSONL, JSON, CSV, TSV, Parquet; - reads JSON from stdin) holds the signature's inputs and gold outputs. Each
    model is asked once per question; its proposals serve each model alone, the vote, the strategies, committees of
    some of the models, and how far models fail together.

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
    from moa_dspy import evaluation
    from moa_dspy.optimizers import ProposersUnreachable, diagnosis_budget
    from moa_dspy.optimizers import diagnose as diagnose_mixture
    from moa_dspy.recording import Recording, RecordingInterrupted, RecordingStopped

    if plot is not None:
        evaluation.check_plot(plot)
    moa, metric = who.mixture(compares=True), scoring.metric
    most = limits.bound(moa, one_answer=False)
    examples = scoring.examples(data, moa)
    recorded = Recording.load(out) if out is not None and out.exists() else None
    budget = diagnosis_budget(moa, len(examples), strategies=who.strategy, self_moa=self_moa)
    output.note(f"At most {budget.calls:,} LM calls: {budget.formula}.")
    if dry_run:
        if as_json:
            output.print_json({"calls": budget.calls, "formula": budget.formula})
        return
    asking: dict[str, Any] = {"strategies": who.strategy, "self_moa": self_moa, "recorded": recorded}
    asking |= {"concurrency": concurrency, "seed": scoring.seed, "path": out, **most}
    with tracking(mlflow, moa, "diagnose", examples) as tracked:
        found: Any = None
        try:
            found, status = compare(
                "asking", lambda update: diagnose_mixture(moa, examples, metric, on_progress=update, **asking)
            )
        except (ProposersUnreachable, RecordingInterrupted, RecordingStopped) as stop:
            output.complain(getattr(stop, "reason", "Interrupted."))
            status = output.INTERRUPTED if isinstance(stop, RecordingInterrupted) else output.FAILED
            if stop.recording:
                found = evaluation.evaluate(moa, stop.recording, metric, strategies=who.strategy, seed=scoring.seed)
        comparison: Any = found if status else found.comparison
        if tracked is not None and comparison is not None:
            tracked.log_comparison(comparison)
    if status or comparison is None:
        if comparison is not None:
            show_comparison(output.console(stderr=True), comparison)
        again = f"goes on from {out}" if out else "takes from DSPy's cache what was answered"
        raise output.Stopped(f"There is no diagnosis of a part. The same command again {again}.", status)
    save_plot(comparison, plot)
    if as_json:
        output.print_json(found.to_dict())
    else:
        show_comparison(output.console(), comparison)
        output.console().print("", found.findings(), sep="\n")


def _prove(moa: MoA, comparison: Comparison, by: str | None) -> Proof | None:
    """What is learned from a part of the questions, judged on the rest; routes go by the same field as the scores."""
    from moa_dspy.optimizers import prove

    try:
        with output.quietly(), output.progress("splitting") as update:
            return prove(moa, comparison, by=by, on_split=lambda split: update(split, SPLITS), splits=SPLITS)
    except ValueError as problem:  # the comparison has been paid for, and is shown without it
        output.complain(str(problem))
        return None


def save_plot(comparison: Comparison, plot: Path | None) -> None:
    """Write the plot, before anything is printed, and say where it is."""
    if plot is not None:
        try:
            output.note(f"Plot: {comparison.plot(plot)}")
        except (ValueError, OSError) as error:  # the results are worth more than their picture
            output.complain(str(error))


def compare(what: str, run: Callable[[Callable[..., None]], Any]) -> tuple[Any, int]:
    """What a comparison or a diagnosis gives, run with progress on stderr, and the exit status.

    Where it was cut short, that is the comparison of the part that was finished; `Stopped` if there is none.
    """
    from moa_dspy.evaluation import EvaluationInterrupted, MetricError
    from moa_dspy.recording import RecordingStopped

    try:
        with output.quietly(), output.progress(what) as update:
            return run(update), 0
    except (EvaluationInterrupted, MetricError, RecordingStopped) as stop:
        status = output.INTERRUPTED if isinstance(stop, EvaluationInterrupted) else output.FAILED
        if stop.comparison is None:
            raise
        if not stop.comparison.rows:
            raise output.Stopped(f"{stop} No question was finished, so there is nothing to compare.", status) from None
        output.complain(str(stop) if status == output.FAILED else "Interrupted.")
        return stop.comparison, status


def show_comparison(here: Console, comparison: Comparison, by: str | None = None) -> None:
    """The table and what must be said beside it; the scores by a field of the data too."""
    if comparison.is_simulated:
        here.print("SIMULATED models: they show how mixing works and say nothing about real ones.", style="bold yellow")
    here.print()
    here.print(comparison.table(here.width))
    here.print()
    best, usage = comparison.best_single, comparison.usage
    judges = [system.name for system in comparison.systems if system.kind == "aggregator"]
    cost = output.cost_of(usage, [model for system in comparison.systems for model in system.models])
    for line in (
        f"alone: one model, with the proposers' prompt{f'; {judges[0]} is the aggregator' if judges else ''}.",
        "plain vote: counted, without an aggregator. oracle: right if any proposer is, the bound for picking one.",
        f"gain: against {best} alone on the same questions (paired bootstrap). {best} was picked as the best on "
        "these very questions, which flatters it.",
        "calls, tokens, USD, time: per question, each system on its own. This run asked each proposer once for all "
        f"systems: {usage.calls:,} calls, {usage.prompt_tokens + usage.completion_tokens:,} tokens, cost {cost}.",
    ):
        here.print(output.harmless(line, "dim"))
    for line in _warnings(comparison):
        here.print(output.harmless(line, "yellow"))
    if by is not None:
        here.print()
        here.print(comparison.split_table(by))


def _warnings(comparison: Comparison) -> Iterator[str]:
    count = len(comparison.recording)
    if count < comparison.planned:
        yield f"Stopped after {count} of {comparison.planned} questions."
    if count < 30:
        yield f"{count} questions are few: the intervals are rough."
    for row in comparison.rows:
        troubles = [trouble for trouble in comparison.troubles if trouble.who == row.name]
        causes = output.harmless(
            "; ".join(f"{t.count} x {t.error}: {' '.join(t.message.split())}" for t in troubles), "", 400
        )
        if row.fallbacks:
            yield f"{row.name}: the vote stood in for the aggregator on {row.fallbacks} of {count} questions. {causes}"
        # Where too few proposals came, the proposers' own failures are the news.
        elif any(trouble.error != "TooFewProposals" for trouble in troubles):
            failed = sum(trouble.count for trouble in troubles)
            yield f"{row.name}: failed on {failed} of {count} questions, counted as wrong. {causes}"
    if cached := max((row.cached for row in comparison.rows), default=0):
        yield f"DSPy's cache answered calls of up to {cached} of {count} questions: not in tokens, USD and time."
