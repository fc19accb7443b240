"""`moa-dspy compile`: better prompts for a mixture, and whether they are."""

from __future__ import annotations

import difflib
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli import options, output
from moa_dspy.cli.doctor import prompts_of
from moa_dspy.cli.tracking import tracking

if TYPE_CHECKING:
    import dspy

    from moa_dspy.moa import MoA

_tuning = partial(typer.Option, rich_help_panel="How it is tuned")


def compile_(
    data: options.Data,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where the mixture is saved, a .json file.")],
    who: options.Who,
    limits: options.Limits,
    scoring: options.Scoring,
    optimizer: Annotated[str, _tuning(metavar="NAME", help="specialize, gepa, bootstrap or mipro.")] = "specialize",
    recipe: Annotated[str, _tuning(metavar="NAME", help="How much to spend: quick, balanced or thorough.")] = "quick",
    reflection_model: Annotated[str | None, _tuning(metavar="MODEL", help="Proposes prompts; else the judge.")] = None,
    heldout: Annotated[float, _tuning(min=0.0, max=0.9, metavar="SHARE", help="Of DATA that is held back.")] = 0.3,
    concurrency: options.Concurrency = 8,
    dry_run: options.DryRun = False,
    force: options.Force = False,
    mlflow: options.Mlflow = False,
    as_json: options.Json = False,
) -> None:
    r"""Tune the prompts of a mixture on your data, and measure on data held back whether that helped.

    DATA (JSONL, JSON, CSV, TSV, Parquet; - reads JSON from stdin) holds the signature's inputs and gold outputs. A
    part is held back; the optimizer sees the rest, half to learn from, half to compare prompts by. What it may cost
    is printed before it is spent.

    [bold]Optimizers[/bold]: specialize tunes each agent alone, then the aggregator, one call per example; gepa,
    bootstrap and mipro are DSPy's, on the whole mixture. Recipes: quick, balanced, thorough.

    [bold]Examples[/bold]
    moa-dspy compile --data train.jsonl --out tuned.json
    moa-dspy compile -d train.jsonl -o tuned.json -c moa.yaml --dry-run
    moa-dspy compile -d train.jsonl -o tuned.json -c moa.yaml --mlflow \
        && moa-dspy ui
    moa-dspy compile -d train.jsonl -o tuned.json -c moa.yaml \
        --recipe balanced --reflection-model openai/gpt-5
    moa-dspy compile -d rows.csv -o tuned.json -c moa.yaml \
        --signature "text -> label: bool" --metric metrics:score --optimizer gepa

    [bold]Resume[/bold]: specialize and gepa keep what they have found in a folder beside OUT, tuned.checkpoint, until
    they are done. The same command goes on from there, also after Ctrl-C, a crash, a dead model, or the end of a
    budget (--max-cost-usd, --max-calls).

    [bold]--json[/bold] prints optimizer, recipe, out, examples (train, val, heldout) and budget (agents, optimizer,
    measuring: LM calls, formula); once it is compiled also before, after, gain (mean scores on the held-back data),
    before_interval, after_interval, interval (95%), report, measuring (usage) and prompts (name, before, after).

    [bold]Next[/bold]: moa-dspy show tuned.json; moa-dspy run questions.jsonl -o answers.jsonl -c tuned.json

    Exit status: 0 compiled, 1 stopped by a failure, 2 bad input, 130 interrupted.
    """
    # GEPA's progress bars, one per stage side by side: read when tqdm is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from moa_dspy.agent import check_keys
    from moa_dspy.models import as_lm
    from moa_dspy.optimizers import build, split
    from moa_dspy.recording import Row
    from moa_dspy.recording.budget import Budget, calls_per_answer, estimate_questions

    _check_out(out, force)
    moa = who.mixture()
    own, most = moa.limits, limits.bound(moa, one_answer=False)
    train, val, held = split(scoring.examples(data, moa), heldout, scoring.seed)
    checkpoint = out.with_suffix(".checkpoint")
    tuner: Any = build(
        optimizer,  # type: ignore[arg-type]  # what it does not know it refuses
        scoring.metric,
        recipe=recipe,
        reflection_lm=as_lm(reflection_model) if reflection_model else None,
        num_threads=concurrency,
        seed=scoring.seed,
        checkpoint=checkpoint,
        on_stage=_tell_stage,
        verbose=output.is_verbose(),
    )
    each = calls_per_answer(moa)
    budget, measuring = tuner.budget(moa, len(train), len(val)), 2 * len(held) * each
    counts = f"{len(train)} examples to learn from, {len(val)} to compare by, {len(held)} held back"
    output.note(f"{optimizer}, recipe {recipe}. {counts}.")
    output.note(
        f"At most {budget.calls:,} LM calls: {budget.agents:,} of the agents ({budget.formula}) and "
        f"{budget.optimizer:,} of the optimizer; then {measuring:,} on the held-back data.",
        style="bold",
    )
    result: dict[str, Any] = {
        "optimizer": optimizer,
        "recipe": recipe,
        "out": str(out),
        "examples": {"train": len(train), "val": len(val), "heldout": len(held)},
        "budget": {**vars(budget), "measuring": measuring},
    }
    if not dry_run:
        check_keys(moa.agents)
        Budget(estimate_questions(moa, [Row(id=0, inputs={})]), limits.max_cost_usd, None)  # refuses unknown prices
        with tracking(mlflow, moa, out.stem, train) as tracked:
            with _counting(budget.calls, concurrency * each, **most):
                tuned = _compile(tuner, moa, train, val, checkpoint)
            options.Limits(timeout=own.timeout).bound(tuned, one_answer=False)  # --timeout is for this command
            tuned.save(out)
            limits.bound(tuned, one_answer=False)
            shutil.rmtree(checkpoint, ignore_errors=True)
            result |= {"report": tuner.report.to_dict(), "prompts": _compare_prompts(moa, tuned)}
            is_same = all(one["before"] == one["after"] for one in result["prompts"])
            result |= _measure(moa, moa if is_same else tuned, held, scoring, concurrency)
            if tracked is not None and result["gain"] is not None:
                tracked.log_metrics({f"heldout/{name}": result[name] for name in ("before", "after", "gain")})
    if as_json:
        output.print_json(result)
    elif not dry_run:
        _show(result, tuner.report)


def _compile(tuner: Any, moa: MoA, train: Sequence[Any], val: Sequence[Any], checkpoint: Path) -> MoA:
    from moa_dspy.optimizers import CompileInterrupted

    again = "The same command begins anew, and pays for no call that DSPy's cache holds."
    if tuner.resumes:
        again = f"The same command goes on from {checkpoint}."
    try:
        with output.quietly():
            return tuner.compile(moa, trainset=train, valset=val)
    except CompileInterrupted as error:
        if error.report is not None:
            usage = error.report.usage
            cost = output.cost_of(usage, [agent.model for agent in moa.agents])
            output.note(f"Spent until then: {usage.calls:,} LM calls, cost {cost}.")
        raise output.Stopped(f"{error.reason} {again}") from error
    except KeyboardInterrupt:
        raise output.Stopped(f"Interrupted. {again}", output.INTERRUPTED) from None


def _measure(
    moa: MoA, tuned: MoA, held: Sequence[dspy.Example], scoring: options.Scoring, concurrency: int
) -> dict[str, Any]:
    """The scores of both on the held-back data, with 95% intervals; None where there are none."""
    from moa_dspy.errors import MoAError
    from moa_dspy.evaluation import MetricError, difference_interval, evaluate
    from moa_dspy.recording import RecordingStopped

    settings: dict[str, Any] = {"concurrency": concurrency, "seed": scoring.seed, "aggregator_alone": False}
    others = {} if tuned is moa else {"tuned mixture": tuned}
    names = ("before", "before_interval", "after", "after_interval", "gain", "interval", "measuring")
    if not held:
        return dict.fromkeys(names)
    try:
        with output.quietly(), output.progress("measuring") as update:
            found = evaluate(
                moa, held, scoring.metric, strategies=[moa.strategy.name], others=others, on_progress=update, **settings
            )
    except (MetricError, MoAError, RecordingStopped) as error:
        output.note(f"{error} The mixture is saved, but there is no score.")
        return dict.fromkeys(names)
    except KeyboardInterrupt:
        raise output.Stopped(
            "Interrupted. The mixture is saved, but not measured on the held-back data.", output.INTERRUPTED
        ) from None
    before, after = found.row(moa.strategy.name), found.row(next(iter(others), moa.strategy.name))
    interval = difference_interval(found.scores(after.name), found.scores(before.name), seed=scoring.seed)
    values = before.score, [*before.interval], after.score, [*after.interval], after.score - before.score, [*interval]
    return dict(zip(names, (*values, found.usage.model_dump()), strict=True))


def _compare_prompts(moa: MoA, tuned: MoA) -> list[dict[str, Any]]:
    """Each prompt of the tuned mixture, beside what it was."""
    before, after = (
        {name: {**prompt, "demos": len(prompt["demos"])} for name, prompt in prompts_of(program).items()}
        for program in (moa, tuned)
    )
    # Where the agents had one prompt, and each has its own now, they began with that one.
    return [
        {"name": name, "before": before.get(name) or before[f"{name.split('.')[0]}.shared.predict"], "after": prompt}
        for name, prompt in after.items()
    ]


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != ".json":
        raise ValueError(f"{out} is no .json file, and only those can be loaded without running code from them.")
    if not out.parent.is_dir():
        raise FileNotFoundError(2, "The folder does not exist", str(out.parent))
    if out.exists() and not force:
        raise ValueError(f"{out} exists already. Give another --out, or --force to overwrite it.")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(13, "The folder cannot be written to", str(out.parent))


def _tell_stage(stage: Any) -> None:
    change = "" if stage.before is None else f": {stage.before:.3f} -> {stage.after:.3f} on the valset"
    more = f" ({stage.note})" if stage.note else ""
    output.note(f"{stage.name}{change}, {stage.usage.calls + stage.optimizer_usage.calls} calls{more}")


@contextmanager
def _counting(most: int, under_way: int, max_calls: int | None, max_cost_usd: float | None) -> Iterator[None]:
    """Show how many LM calls have ended, of how many at most; as Ctrl-C does, stop at the end of the budget."""
    import dspy

    from moa_dspy.meter import Meter

    spent: list[str] = []

    class Counter(Meter):
        ended, billed, cost, stops_at = 0, 0, 0.0, 1

        def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
            super().on_lm_end(call_id, outputs, exception)
            call = self.call(call_id)
            self.ended += 1
            if call is not None and not call.cache_hit:
                self.billed, self.cost = self.billed + 1, self.cost + (call.cost_usd or 0.0)
            update(self.ended, max(most, self.ended))
            is_over = max_cost_usd is not None and self.cost + self.cost / max(1, self.billed) > max_cost_usd
            if self.billed >= self.stops_at and (is_over or (max_calls is not None and self.billed >= max_calls)):
                spent.append(f"The budget is used up: {self.billed:,} LM calls, ${self.cost:.4f}.")
                # Where all questions of a stage were under way, they finished, and the next stage began.
                self.stops_at = self.billed + under_way + 1
                signal.raise_signal(signal.SIGINT)

    with output.progress("compiling (LM calls)") as update, dspy.context(**Counter("all").settings()):
        try:
            yield
        except output.Stopped as stop:
            if not spent:
                raise
            raise output.Stopped(f"{spent[0]} {stop}") from stop


def _show(result: dict[str, Any], report: Any) -> None:
    """The prompts as a diff, what each stage did, and the scores."""
    here, is_same = output.console(), True
    for prompt in result["prompts"]:
        before, after = prompt["before"], prompt["after"]
        if before == after:
            here.print(output.harmless(f"\n{prompt['name']}: unchanged", "dim"))
            continue
        is_same = False
        here.print(output.harmless(f"\n{prompt['name']}", "bold"))
        lines = [*difflib.ndiff(before["instructions"].splitlines(), after["instructions"].splitlines())]
        if before["demos"] != after["demos"]:
            lines += [f"- {before['demos']} demos", f"+ {after['demos']} demos"]
        for line in lines:
            if not line.startswith("?"):
                style = {"+": "green", "-": "red"}.get(line[0], "dim")
                here.print(output.harmless(line, style), soft_wrap=True)
    here.print()
    here.print(report.table())
    if result["gain"] is None:
        here.print(output.harmless("No held-back data were scored, so whether this helped is not known.", "yellow"))
    else:
        here.print(f"On {result['examples']['heldout']} held-back examples, with 95% intervals:")
        for name in ("before", "after"):
            here.print("  {:<6}  {:.3f}  {:.3f} to {:.3f}".format(name, result[name], *result[f"{name}_interval"]))
        low, high = result["interval"]
        style = "green" if low > 0 else "red" if high < 0 else "yellow"
        here.print(
            output.harmless(f"  gain   {result['gain']:+.3f}  {low:+.3f} to {high:+.3f} (paired bootstrap)", style)
        )
        if is_same:
            here.print("Nothing better was found: the prompts are as they were, and so is the score.", style="yellow")
        elif low <= 0 <= high:
            here.print("The gain's interval includes 0: it may be chance. More held-back data would tell.", style="dim")
    here.print(output.harmless(f"Saved: {result['out']}. Next: moa-dspy show {result['out']}"), soft_wrap=True)
