"""`moa-dspy run`: a file of questions, a file of answers."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options, output
from moa_dspy.cli.tracking import tracking

if TYPE_CHECKING:
    from rich.text import Text

    from moa_dspy.moa import MoA
    from moa_dspy.recording import Row, Summary

_SHOWN = 8  # causes of failures


def run(
    questions: Annotated[Path, typer.Argument(metavar="QUESTIONS", help="A file of questions, or - for stdin.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="ANSWERS", help="JSONL, new or resumed; - for stdout.")],
    who: options.Who,
    limits: options.Limits,
    concurrency: options.Concurrency = 8,
    force: Annotated[bool, typer.Option("--force", help="Keep another mixture's ANSWERS, ask the rest.")] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Stop after N failures; else 20 and no answer.")
    ] = None,
    retry_degraded: Annotated[
        bool, typer.Option("--retry-degraded", help="Ask again where a model was missing.")
    ] = False,
    engine: Annotated[str, typer.Option(metavar="NAME", help="local, ray, or batch: providers' batch APIs.")] = "local",
    dry_run: options.DryRun = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    r"""Answer a file of questions into a file of answers, resumable after a kill at any moment.

    QUESTIONS is JSONL (one object a line), a JSON array, CSV or TSV with a header, or Parquet, by its ending; - reads
    JSON from stdin. A row holds the inputs of the signature, an optional "id", gold outputs if they are known, and
    further fields, which pass through as "extra". All rows are checked before the first is asked.

    Each answer is one line of ANSWERS (JSONL): id, inputs, gold, outputs, error, agreement, who proposed what,
    failures, calls with tokens, cost and seconds. They are appended as they come and stand in the order of QUESTIONS
    at the end. With --out - they go to stdout as they come.

    [bold]Examples[/bold]
    moa-dspy run questions.jsonl --out answers.jsonl --config moa.yaml
    moa-dspy run questions.csv -o answers.jsonl --config tuned.json
    moa-dspy run questions.jsonl -o answers.jsonl --preset budget \
        --signature "context, question -> answer: bool"
    moa-dspy data sample | moa-dspy run - --out - | jq .outputs.answer

    [bold]Resume[/bold]: give the same command again. What is answered stays, the rest is asked, and so is what failed
    or whose inputs were edited; with --retry-degraded also what was answered while a model was missing. Who failed is
    asked past DSPy's cache. Other addresses, timeouts, limits and prices change nothing; without an "id" a question
    is known by its inputs, wherever it stands. Several processes may fill one file.

    [bold]Budget[/bold]: --dry-run says what the rest takes; --max-cost-usd and --max-calls begin no question that may
    go beyond, and what came is kept.

    [bold]Batches[/bold]: --engine batch submits what is to be asked to the providers' batch APIs, at half the price,
    and ends. The same command again, within a day or so, collects what is done and submits what follows from it.

    [bold]Ctrl-C[/bold] once lets the questions under way finish, twice abandons them.

    [bold]--json[/bold] prints questions, answered, skipped, failed, left, pending, degraded, others (counts), batches
    (model, id, status, requests, done, failed), troubles (who, error, message, count), agreement, usage and
    earlier_usage (calls, tokens, cost_usd), seconds, interrupted, stopped; with --dry-run questions, calls, cost_usd,
    unpriced.

    [bold]Next[/bold]: read ANSWERS with moa_dspy.Recording.load, or with jq, pandas or DuckDB.

    Exit status: 0 all answered, 1 some failed or stopped, 2 bad input, 3 a batch is pending, 130 interrupted.
    """
    to_stdout, is_batch = str(out) == "-", engine == "batch"
    if to_stdout and as_json:
        raise ValueError("--out - and --json would both write to stdout. Give --out a file, or leave --json out.")
    if to_stdout and is_batch:
        raise ValueError("--engine batch keeps in ANSWERS what it has submitted. Give --out a file.")
    if mlflow and engine != "local":
        raise ValueError("--mlflow traces what this process asks, and another asks it here. Leave out one of them.")
    moa = who.mixture()
    most = limits.bound(moa, one_answer=False)
    settings: dict[str, Any] = {"force": force, "retry_degraded": retry_degraded, "engine": engine}
    if dry_run:
        from moa_dspy.recording import estimate

        return options.tell_estimate(estimate(moa, questions, None if to_stdout else out, **settings), as_json)
    settings |= {"concurrency": concurrency, "max_failures": max_failures, **most}
    with tracking(mlflow, moa, "run"):
        summary = _print_answers(moa, questions, settings) if to_stdout else _record(moa, questions, out, settings)
    if as_json:
        output.print_json(summary.model_dump())
    else:
        here = output.console(stderr=to_stdout)
        models = [agent.model for agent in moa.agents]
        here.print(
            output.table(["", ""], [(output.harmless(name, "dim"), text) for name, text in _lines(summary, models)])
        )
        left = "what is pending" if summary.pending else "what is left"
        again = [*(["what failed"] if summary.failed else []), *([left] if summary.left else [])]
        if summary.stopped is not None:
            output.complain(f"Stopped: {summary.stopped}")
        if again and not to_stdout:
            output.note(f"What was answered is in {out}. The same command again asks {' and '.join(again)}.")
        elif not to_stdout:
            here.print(output.harmless(f"All answers are in {out}.", "green"), soft_wrap=True)
    status = output.PENDING if summary.pending else output.FAILED if summary.failed else 0
    raise typer.Exit(output.INTERRUPTED if summary.interrupted else output.FAILED if summary.stopped else status)


def _record(
    moa: MoA, questions: Path, out: Path, settings: dict[str, Any], deliver: Callable[[Row], object] = lambda row: None
) -> Summary:
    from moa_dspy.recording import RecordingInterrupted, RecordingStopped, record

    found: list[Summary] = []

    def on_row(row: Row | None, summary: Summary) -> None:
        found[:] = [summary]
        if row is not None:
            deliver(row)
        failed = f", {summary.failed} failed" if summary.failed else ""
        more = "; finishing, Ctrl-C again abandons" if summary.interrupted else failed
        update(summary.questions - summary.left, summary.questions, more)

    try:
        with output.quietly(), output.progress("asking") as update:
            record(moa, questions, out, on_row=on_row, **settings)
    except (RecordingInterrupted, RecordingStopped) as stop:
        return stop.summary
    except BrokenPipeError as error:
        output.silence(sys.stdout)
        raise output.Stopped(
            f"Nobody reads the answers any more, so asking has stopped. Those that were paid for are in {out}: with "
            f"--out {out} the same command goes on from there."
        ) from error
    except Exception as error:
        if not found:
            raise
        raise output.Stopped(f"{error} What came until then is in {out}.") from error
    except KeyboardInterrupt:
        raise output.Stopped(
            "Interrupted. The same command again goes on where this one stopped.", output.INTERRUPTED
        ) from None
    return found[0]


def _print_answers(moa: MoA, questions: Path, settings: dict[str, Any]) -> Summary:
    """Answer on stdout; what was paid for is in a file beside, until all of it has gone out."""
    handle, name = tempfile.mkstemp(prefix="moa-answers-", suffix=".jsonl")
    os.close(handle)
    kept, stdout = Path(name), sys.stdout.buffer

    def deliver(row: Row) -> None:
        stdout.write(row.line())
        stdout.flush()

    try:
        summary = _record(moa, questions, kept, settings, deliver)
    except BaseException:
        if not kept.stat().st_size:
            kept.unlink()
        raise
    kept.unlink()
    return summary


def _lines(summary: Summary, models: Iterable[str | None]) -> Iterator[tuple[str, str | Text]]:
    usage = summary.usage
    yield "questions", f"{summary.questions:,}"
    yield "answered", f"{summary.answered:,}{f', {summary.degraded:,} of them degraded' if summary.degraded else ''}"
    if summary.skipped:
        yield "skipped", f"{summary.skipped:,}, answered before"
    if summary.left:
        yield "left", f"{summary.left:,}{f', {summary.pending:,} of them pending' if summary.pending else ''}"
    for batch in summary.batches:
        count = f"{batch.done:,} of {batch.requests:,} calls done{f', {batch.failed:,} failed' if batch.failed else ''}"
        yield "batch", output.harmless(f"{batch.model}: {batch.id} is {batch.status}, {count}")
    if summary.failed:
        yield "failed", f"{summary.failed:,}"
    for trouble in sorted(summary.troubles, key=lambda trouble: -trouble.count)[:_SHOWN]:
        text = f"{trouble.count:,} x {trouble.error}: {' '.join(trouble.message.split())}"
        yield output.harmless(trouble.who).plain, output.harmless(text, length=300)
    if summary.others:
        yield "others", f"{summary.others:,} in the file, whose questions are not among these: kept"
    if summary.agreement is not None:
        yield "agreement", f"{summary.agreement:.0%} on average"
    if usage.calls:
        cached = f", {usage.cache_hits:,} from the cache" if usage.cache_hits else ""
        yield "tokens", f"{usage.prompt_tokens:,} in, {usage.completion_tokens:,} out, {usage.calls:,} calls{cached}"
        yield "cost", output.cost_of(usage, models)
    if summary.earlier_usage.calls:
        total = usage + summary.earlier_usage
        yield "in all", f"{total.calls:,} calls, cost {output.cost_of(total, models)}, earlier runs included"
    yield "seconds", f"{summary.seconds:.1f}"
