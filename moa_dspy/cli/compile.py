"""`moa-dspy compile`: better prompts for a mixture, and whether they are."""

from __future__ import annotations

import difflib
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moa_dspy.cli.options import (
    Aggregator,
    Concurrency,
    Config,
    DryRun,
    Json,
    Limit,
    Metric,
    Mlflow,
    Preset,
    Proposers,
    Seed,
    Signature,
    Strategy,
    Verbose,
    mixture,
    read_examples,
)
from moa_dspy.cli.output import (
    INTERRUPTED,
    Progress,
    Stopped,
    console,
    cost_of,
    harmless,
    note,
    print_json,
    quietly,
)
from moa_dspy.cli.tracking import tracking

if TYPE_CHECKING:
    import dspy
    from rich.console import Console

    from moa_dspy.moa import MoA
    from moa_dspy.optimizers import Job, SpecializationReport
    from moa_dspy.usage import Usage

__all__ = ["HELP", "compile_"]

HELP = """Tune the prompts of a mixture on your data, and measure on data held back whether that helped.

DATA (JSONL, JSON, CSV, TSV, Parquet; - reads JSON from stdin) holds the signature's inputs and gold outputs. A \
part is held back; the optimizer sees the rest, half to learn from, half to compare prompts by. What it may cost is \
printed before it is spent.

[bold]Optimizers[/bold]: specialize tunes each agent alone, then the aggregator, one \
call per example; gepa, bootstrap and mipro are DSPy's, on the whole mixture. \
Recipes: quick, balanced, thorough. Strategies: synthesis, selection, voting, fusion.

[bold]Examples[/bold]

\b
moa-dspy compile --data train.jsonl --out tuned.json
moa-dspy compile -d train.jsonl -o tuned.json -c moa.yaml --dry-run
moa-dspy compile -d train.jsonl -o tuned.json -c moa.yaml --mlflow && moa-dspy ui
moa-dspy compile -d train.jsonl -o tuned.json -c moa.yaml \\
    --recipe balanced --reflection-model openai/gpt-5
moa-dspy compile -d rows.csv -o tuned.json -c moa.yaml \\
    --signature "text -> label: bool" --metric metrics:score --optimizer gepa

[bold]Resume[/bold]: specialize and gepa keep what they have found in a folder beside OUT, \
tuned.checkpoint, until they are done. The same command goes on from there, also \
after Ctrl-C, a crash or a dead model.

[bold]--json[/bold] prints optimizer, recipe, out, examples (train, val, heldout) and budget (agents, optimizer, \
measuring: LM calls); once it is compiled also before, after, gain (mean scores on the held-back data), \
before_interval, after_interval, interval (95%), report, measuring (usage) and prompts (name, before, after).

[bold]Next[/bold]: moa-dspy show tuned.json; moa-dspy run questions.jsonl -o answers.jsonl -c tuned.json

Exit status: 0 compiled, 1 stopped by a failure, 2 bad input, 130 interrupted.
"""


def compile_(
    data: Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="A file with gold answers, or -.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT", help="Where the mixture is saved, a .json file.")],
    config: Config = None,
    preset: Preset = None,
    proposer: Proposers = None,
    aggregator: Aggregator = None,
    strategy: Strategy = None,
    signature: Signature = None,
    metric: Metric = "exact",
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
    limit: Limit = None,
    concurrency: Concurrency = 8,
    seed: Seed = 0,
    dry_run: DryRun = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    mlflow: Mlflow = False,
    as_json: Json = False,
    verbose: Verbose = None,
) -> None:
    """Compile a mixture."""
    # GEPA's progress bars, one per stage side by side: read when tqdm is imported.
    os.environ.setdefault("TQDM_DISABLE", "1")
    from moa_dspy.optimizers import CompileInterrupted

    _check_out(out, force)
    moa = mixture(signature, config, preset, proposer, aggregator, strategy)
    examples = read_examples(data, moa, metric, limit, seed)
    compilation = _plan(moa, examples, metric, optimizer, recipe, reflection_model, heldout, concurrency, seed, out)
    _show_plan(compilation)
    if not dry_run:
        try:
            with tracking(mlflow, moa, out.stem, compilation.job.trainset) as tracked:
                _run(compilation)
                if tracked is not None and compilation.gain is not None:
                    scores = {name: compilation.to_dict()[name] for name in ("before", "after", "gain")}
                    tracked.log_metrics({f"heldout/{name}": value for name, value in scores.items()})
        except CompileInterrupted as error:
            usage = error.report.usage
            cost = cost_of(usage, [agent.model or "" for agent in moa.agents])
            note(f"Spent until then: {usage.calls:,} LM calls, cost {cost}. {compilation.how_to_go_on}")
            raise Stopped(error.reason) from error
        except KeyboardInterrupt:
            saved = f"{out} is saved, but not measured on the held-back data." if compilation.after else None
            raise Stopped(f"Interrupted. {saved or compilation.how_to_go_on}", INTERRUPTED) from None
    if as_json:
        print_json(compilation.to_dict())
    elif not dry_run:
        _show(console(), compilation)


@dataclass
class _Compilation:
    """A compile, and what came of it."""

    job: Job
    optimizer: str
    out: Path
    heldout: Sequence[dspy.Example]
    before: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any]] = field(default_factory=dict)
    scores_before: list[float] = field(default_factory=list)
    scores_after: list[float] = field(default_factory=list)
    measuring: Usage | None = None
    report: SpecializationReport | None = None

    @property
    def measuring_calls(self) -> int:
        from moa_dspy.optimizers import calls_per_answer

        return 2 * len(self.heldout) * calls_per_answer(self.job.student)

    @property
    def how_to_go_on(self) -> str:
        if self.job.checkpoint is None:
            return (
                f"{self.optimizer} cannot go on where it stopped: the same command begins anew, and pays for no call "
                "that DSPy's cache holds."
            )
        kept = [f"{what}: {', '.join(names)}" for what, names in self.job.kept.items() if names]
        if not kept:
            return "Nothing was kept so far: the same command begins anew."
        return f"The same command goes on from {self.job.checkpoint} ({'; '.join(kept)})."

    @property
    def gain(self) -> tuple[float, Sequence[float]] | None:
        """The difference on the held-back data with its 95% interval; None if it was not measured."""
        from moa_dspy.evaluation.intervals import difference_interval

        if not self.scores_after:
            return None
        interval = difference_interval(self.scores_after, self.scores_before, seed=self.job.seed)
        return _mean(self.scores_after) - _mean(self.scores_before), interval

    def interval(self, scores: Sequence[float]) -> Sequence[float]:
        """The 95% interval of a mean score."""
        from moa_dspy.evaluation.intervals import mean_interval, wilson

        if set(scores) <= {0.0, 1.0}:
            return wilson(int(sum(scores)), len(scores))
        return mean_interval(scores, seed=self.job.seed)

    def to_dict(self) -> dict[str, Any]:
        job, gain = self.job, self.gain
        budget = {**vars(job.budget(self.optimizer)), "measuring": self.measuring_calls}
        counts = {"train": len(job.trainset), "val": len(job.valset), "heldout": len(self.heldout)}
        plan = {
            "optimizer": self.optimizer,
            "recipe": job.recipe.name,
            "out": str(self.out),
            "examples": counts,
            "budget": budget,
        }
        if self.report is None:
            return plan
        return {
            **plan,
            "before": gain and _mean(self.scores_before),
            "before_interval": gain and list(self.interval(self.scores_before)),
            "after": gain and _mean(self.scores_after),
            "after_interval": gain and list(self.interval(self.scores_after)),
            "gain": gain and gain[0],
            "interval": gain and list(gain[1]),
            "report": self.report.to_dict(),
            "measuring": None if self.measuring is None else self.measuring.model_dump(),
            "prompts": [
                {"name": name, "before": self.before[name], "after": after} for name, after in self.after.items()
            ],
        }


def _plan(
    moa: MoA,
    examples: Sequence[dspy.Example],
    metric: str,
    optimizer: str,
    recipe_name: str,
    reflection_model: str | None,
    share: float,
    concurrency: int,
    seed: int,
    out: Path,
) -> _Compilation:
    """Check everything before anything is spent.

    Raises:
        ValueError: If something is wrong with it.
    """
    from moa_dspy.agent import check_keys
    from moa_dspy.evaluation.metrics import as_metric
    from moa_dspy.models import as_lm
    from moa_dspy.optimizers import OPTIMIZERS, Job, recipe, specialized

    if optimizer not in OPTIMIZERS:
        raise ValueError(f"There is no optimizer {optimizer!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
    train, val, held = _split(examples, share, seed)
    reflection_lm = as_lm(reflection_model) if reflection_model else moa.get_lm()
    if reflection_lm is None:
        raise ValueError("There is no LM that could propose prompts: give --reflection-model MODEL.")
    job = Job(
        student=moa,
        metric=as_metric(metric, moa.signature),
        recipe=recipe(recipe_name),
        trainset=train,
        valset=val,
        reflection_lm=reflection_lm,
        threads=concurrency,
        seed=seed,
        checkpoint=out.with_suffix(".checkpoint") if OPTIMIZERS[optimizer].resumes else None,
    )
    check_keys([agent for agent in moa.agents if agent.lm is not None])
    return _Compilation(job, optimizer, out, held, _prompts(specialized(moa) if optimizer == "specialize" else moa))


def _run(compilation: _Compilation) -> None:
    """Compile, save, and measure on the held-back data."""
    from moa_dspy.evaluation.metrics import MetricError

    job = compilation.job
    job.on_stage = _tell_stage
    with _counting("compiling", job.budget(compilation.optimizer).calls), quietly():
        moa, compilation.report = job.run(compilation.optimizer)
    moa.save(compilation.out)
    compilation.after = _prompts(moa)
    if job.checkpoint is not None:
        shutil.rmtree(job.checkpoint, ignore_errors=True)
    if not compilation.heldout:
        return
    try:
        with _counting("measuring", compilation.measuring_calls), quietly():
            before, compilation.measuring = _measure(job.student, compilation)
            after = before
            if compilation.after != compilation.before:
                after, usage = _measure(moa, compilation)
                compilation.measuring += usage
    except MetricError as error:
        note(f"{error} The mixture is saved, but there is no score.")
    else:
        compilation.scores_before, compilation.scores_after = before, after


def _measure(moa: MoA, compilation: _Compilation) -> tuple[list[float], Usage]:
    """The score of each held-back example, 0 where there is no answer."""
    import dspy

    from moa_dspy.evaluation.metrics import score
    from moa_dspy.recording import record

    metric, rows = compilation.job.metric, record(moa, compilation.heldout, concurrency=compilation.job.threads)
    return [
        0.0 if row.outputs is None else score(metric, row.example, dspy.Prediction(**row.outputs)) for row in rows
    ], rows.usage


def _tell_stage(stage: Any) -> None:
    change = "" if stage.before is None else f": {stage.before:.3f} -> {stage.after:.3f} on the valset"
    more = f" ({stage.note})" if stage.note else ""
    note(f"{stage.name}{change}, {stage.usage.calls + stage.optimizer_usage.calls} calls{more}")


@contextmanager
def _counting(what: str, most: int) -> Iterator[None]:
    """Show how many LM calls have ended, of how many at most."""
    import dspy
    from dspy.utils.callback import BaseCallback

    class Counter(BaseCallback):
        calls = 0

        def on_lm_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
            self.calls += 1
            update(self.calls, max(most, self.calls))

    with (
        Progress(f"{what} (LM calls)") as update,
        dspy.context(callbacks=[*dspy.settings.get("callbacks", []), Counter()]),
    ):
        yield


def _split(
    examples: Sequence[dspy.Example], share: float, seed: int
) -> tuple[list[dspy.Example], list[dspy.Example], list[dspy.Example]]:
    shuffled = list(examples)
    random.Random(seed).shuffle(shuffled)
    held = round(share * len(shuffled)) or int(share > 0)
    rest = shuffled[held:]
    if len(rest) < 2:
        raise ValueError(
            f"{len(shuffled)} rows are too few: with {held} held back, the optimizer needs one to learn from and one "
            "to compare by. Give more data, or a smaller --heldout."
        )
    half = len(rest) // 2
    return rest[:half], rest[half:], shuffled[:held]


def _check_out(out: Path, force: bool) -> None:
    if out.suffix != ".json":
        raise ValueError(f"{out} is no .json file, and only those can be loaded without running code from them.")
    if not out.parent.is_dir():
        raise FileNotFoundError(2, "The folder does not exist", str(out.parent))
    if out.exists() and not force:
        raise ValueError(f"{out} exists already. Give another --out, or --force to overwrite it.")
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(13, "The folder cannot be written to", str(out.parent))


def _prompts(moa: MoA) -> dict[str, dict[str, Any]]:
    """The prompts of a mixture; not those of an aggregator that nobody is."""
    parts: list[tuple[str, Any]] = moa.named_predictors()
    judged = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
    return {
        name: {"instructions": part.signature.instructions, "demos": len(part.demos)}
        for name, part in parts
        if judged or not name.startswith("aggregator.")
    }


def _show_plan(compilation: _Compilation) -> None:
    job, budget = compilation.job, compilation.job.budget(compilation.optimizer)
    note(
        f"{compilation.optimizer}, recipe {job.recipe.name}. Examples: {len(job.trainset)} to learn from, "
        f"{len(job.valset)} to compare by, {len(compilation.heldout)} held back.",
        style="",
    )
    note(
        f"At most {budget.calls:,} LM calls: {budget.agents:,} of the agents ({budget.formula}) and "
        f"{budget.optimizer:,} of the optimizer; then {compilation.measuring_calls:,} on the held-back data.",
        style="bold",
    )


def _show(here: Console, compilation: _Compilation) -> None:
    """The prompts as a diff, what each stage did, and the scores."""
    same = [name for name, after in compilation.after.items() if after == compilation.before[name]]
    for name, after in compilation.after.items():
        if name not in same:
            here.print(harmless(f"\n{name}", "bold"))
            for line in _changes(compilation.before[name], after):
                here.print(harmless(line, {"+": "green", "-": "red"}.get(line[0], "dim")), soft_wrap=True)
    if same:
        here.print(harmless(f"\nunchanged: {', '.join(same)}", "dim"))
    if compilation.report is not None:
        here.print()
        here.print(compilation.report.table())
        here.print(harmless(compilation.report.comparison(), "dim"))
    _show_scores(here, compilation)
    here.print(harmless(f"Saved: {compilation.out}. Next: moa-dspy show {compilation.out}"), soft_wrap=True)


def _show_scores(here: Console, compilation: _Compilation) -> None:
    if compilation.gain is None:
        here.print(harmless("No held-back data were scored, so whether this helped is not known.", "yellow"))
        return
    count = len(compilation.scores_after)
    here.print(f"On {count} held-back example{'s' * (count > 1)}, with 95% intervals:")
    for name, scores in (("before", compilation.scores_before), ("after", compilation.scores_after)):
        low, high = compilation.interval(scores)
        here.print(f"  {name:<6}  {_mean(scores):.3f}  {low:.3f} to {high:.3f}")
    if compilation.after == compilation.before:
        here.print(harmless("Nothing better was found: the prompts are as they were, and so is the score.", "yellow"))
        return
    difference, (low, high) = compilation.gain
    style = "green" if low > 0 else "red" if high < 0 else "yellow"
    here.print(harmless(f"  gain   {difference:+.3f}  {low:+.3f} to {high:+.3f} (paired bootstrap)", style))
    if low <= 0 <= high:
        here.print(harmless("The gain's interval includes 0: it may be chance. More held-back data would tell.", "dim"))


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    lines = difflib.ndiff(before["instructions"].splitlines(), after["instructions"].splitlines())
    yield from (line for line in lines if not line.startswith("?"))
    if before["demos"] != after["demos"]:
        yield f"- {before['demos']} demos"
        yield f"+ {after['demos']} demos"


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
