"""The options that commands share, declared once: alone, or as groups that a command takes whole."""

from __future__ import annotations

import inspect
import os
import pkgutil
import random
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast

import typer

from moa_dspy.cli.output import console, harmless, note, print_json, set_verbosity

if TYPE_CHECKING:
    import dspy

    from moa_dspy.moa import MoA
    from moa_dspy.recording import Estimate

T = TypeVar("T")
_STRATEGIES = "synthesis, selection, voting, fusion"
_PRESETS = "balanced, max_quality, budget, together_moa, moa_lite, self_moa"
_who = partial(typer.Option, rich_help_panel="Who answers")
_strategy = partial(_who, "--strategy", "-s", metavar="NAME", autocompletion=lambda: _STRATEGIES.split(", "))
_most = partial(typer.Option, rich_help_panel="What it may take")
_right = partial(typer.Option, rich_help_panel="What is measured")
_verbose = partial(typer.Option, callback=set_verbosity, expose_value=False, is_eager=True, show_default=False)

Data = Annotated[Path, typer.Option("--data", "-d", metavar="DATA", help="A file with gold answers, or -.")]
Kept = Annotated[
    Path | None, typer.Option("--out", "--record", "-o", metavar="FILE", help="Keep answers here; resume.")
]
Concurrency = Annotated[int, typer.Option(min=1, metavar="N", help="Questions at once; each asks all proposers.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Plot quality against cost: .html, .svg, .png, .pdf.")]
Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="Of the server.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it may cost, and spend nothing.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite a file that is there.")]
Mlflow = Annotated[bool, typer.Option("--mlflow", help="Track with MLflow: in mlflow.db here, or MLFLOW_TRACKING_URI.")]
Json = Annotated[bool, typer.Option("--json", help="Print the results as JSON, and nothing else, on stdout.")]
Verbose = Annotated[bool | None, _verbose("--verbose/--quiet", "-v/-q", help="All that DSPy says, or errors alone.")]

DEFAULT_TASK = "question -> answer"
_TASK = (
    "The task: 'question -> answer: float', or module:Class importable from here. By default the config's own, else "
    f"'{DEFAULT_TASK}'."
)
PANEL, JUDGE = [f"simulated/{name}" for name in ("alice", "bob", "carol", "dave")], "simulated/judge"
_SIMULATED_NOTE = (
    "Simulated models answer: no key, no network, no cost, and no knowledge beyond a few kinds of questions. "
    "Name real ones with --proposer and --aggregator, --preset or --config."
)


@dataclass(frozen=True)
class Models:
    """Models by name, or a preset's."""

    preset: Annotated[str | None, _who(metavar="NAME", help=f"Ready-made: {_PRESETS}.")] = None
    proposer: Annotated[list[str] | None, _who("--proposer", "-p", metavar="MODEL", help="Proposes; repeat it.")] = None
    aggregator: Annotated[str | None, _who("--aggregator", "-a", metavar="MODEL", help="Makes one answer.")] = None
    strategy: Annotated[list[str] | None, _strategy(help=f"{_STRATEGIES}; eval and diagnose compare several.")] = None

    def named(self) -> dict[str, Any]:
        """What the options say by themselves, as a config calls it."""
        strategy, *more = self.strategy or [""]
        if more:
            raise ValueError("--strategy stands here several times, and one of them makes the answer. Give one.")
        named = {"proposer_models": self.proposer, "aggregator_model": self.aggregator}
        return {name: value for name, value in {**named, "aggregation_strategy": strategy}.items() if value}


@dataclass(frozen=True)
class Who(Models):
    """Who answers, and what; the simulated panel if no model is named."""

    config: Annotated[Path | None, _who("--config", "-c", metavar="FILE", help="A mixture, compiled or not.")] = None
    signature: Annotated[str | None, typer.Option(metavar="SIGNATURE", help=_TASK)] = None

    def mixture(self, default: str = DEFAULT_TASK, *, compares: bool = False) -> MoA:
        """The mixture that the options describe: what they name replaces what the config or the preset says.

        Args:
            default: The task where neither the options nor the config name one.
            compares: Whether strategies are compared: then only a vote alone, which needs no aggregator, says
                something of the mixture.

        Raises:
            ValueError: If they describe none.
            OSError: If a file cannot be read.
        """
        from moa_dspy.config import MoAConfig, is_saved
        from moa_dspy.files import read_data
        from moa_dspy.moa import MoA

        if self.config is not None and self.preset is not None:
            raise ValueError("--config and --preset both say who answers. Give one of them.")
        is_compiled = self.config is not None and self.config.suffix == ".json" and is_saved(read_data(self.config))
        is_left_out = compares and (is_compiled or self.strategy != ["voting"])
        given = (replace(self, strategy=None) if is_left_out else self).named()
        if given and is_compiled:
            raise ValueError(
                f"{self.config} is a compiled mixture: its prompts were tuned for its models and its strategy. Leave "
                "out --proposer, --aggregator and --strategy, or give the config that it was compiled from."
            )
        is_simulated = self.config is None and self.preset is None and not self.proposer
        if is_simulated and self.aggregator:
            raise ValueError(
                "--aggregator alone has nothing to judge: no proposers. Give --proposer MODEL, several times."
            )
        if self.config is not None:
            described = MoAConfig.load(self.config)
        elif self.preset is not None:
            described = MoAConfig.preset(cast(Any, self.preset))
        else:
            simulated = {"proposer_models": PANEL, "aggregator_model": JUDGE} if is_simulated else {}
            described = MoAConfig(**{**simulated, **given})
        described = described.model_copy(update=given)
        chosen = described.aggregation_strategy
        name = chosen if isinstance(chosen, str) else chosen["name"]
        if described.aggregator_model is None and name != "voting":
            raise ValueError(
                f"The strategy {name} needs a model that judges, and there is none: give --aggregator MODEL. "
                "Only --strategy voting does without."
            )
        is_told = self.signature is None and described.signature is not None
        task = None if is_told else _read_signature(self.signature or default)
        moa = MoA.from_config(task, self.config if self.config is not None and not given else described)
        if is_simulated:
            note(_SIMULATED_NOTE)
        return moa


@dataclass(frozen=True)
class Limits:
    """What an answer, or a whole file of them, may take."""

    timeout: Annotated[float | None, _most(min=0.001, metavar="SECONDS", help="For one answer; else the config's.")] = (
        None
    )
    max_cost_usd: Annotated[float | None, _most(min=0.0, metavar="USD", help="Stop before it costs more.")] = None
    max_calls: Annotated[int | None, _most(min=1, metavar="N", help="Stop before it makes more LM calls.")] = None

    def bound(self, moa: MoA, *, one_answer: bool) -> dict[str, Any]:
        """Bound each answer of a mixture in time, and in cost and calls too where one answer is all there is.

        Gives the bounds of all answers together, as `record` and `evaluate` take them.
        """
        from moa_dspy.limits import bound

        bound(moa, asdict(self) if one_answer else {"timeout": self.timeout})
        return {"max_cost_usd": self.max_cost_usd, "max_calls": self.max_calls}


@dataclass(frozen=True)
class Scoring:
    """Which answers are right, and on which questions that is measured."""

    metric: Annotated[str, _right("--metric", "-m", metavar="NAME", help="exact, contains, module:function.")] = "exact"
    limit: Annotated[int | None, _right(min=1, metavar="N", help="A sample of so many rows, drawn by --seed.")] = None
    seed: Annotated[int, _right(min=0, metavar="N", help="Of all that is drawn.")] = 0

    def examples(self, path: Path, moa: MoA) -> list[dspy.Example]:
        """The questions of a file with their gold outputs, or a sample of them in the file's order."""
        from moa_dspy.evaluation import METRICS
        from moa_dspy.recording import read_questions

        questions = read_questions(path, moa.signature)
        if self.metric.partition(":")[0] in METRICS:
            wanted = list(questions[0].gold) or list(moa.signature.output_fields)
            for number, question in enumerate(questions, start=1):
                if missing := [name for name in wanted if name not in question.gold]:
                    raise ValueError(
                        f"Row {number} of {path} has no gold value for {', '.join(missing)}, so nothing could be right "
                        "or wrong. Add it, or give a metric of your own: --metric module:function."
                    )
        return self.draw([question.example for question in questions])

    def draw(self, rows: list[T]) -> list[T]:
        """The rows, or a sample of so many in their order."""
        if self.limit is None or self.limit >= len(rows):
            return rows
        return [rows[index] for index in sorted(random.Random(self.seed).sample(range(len(rows)), self.limit))]


def spread(command: Callable[..., None]) -> Callable[..., None]:
    """The command as Typer reads it: each group's options one by one, and `-v`, which all commands take."""
    # Not get_type_hints: before Python 3.11 it makes optional, and hides, what has None as its default.
    asked = inspect.signature(command, eval_str=True).parameters
    groups: dict[str, Any] = {name: one.annotation for name, one in asked.items() if is_dataclass(one.annotation)}
    shown: list[inspect.Parameter] = []
    for name, one in asked.items():
        shown += inspect.signature(groups[name], eval_str=True).parameters.values() if name in groups else [one]
    shown.append(inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Verbose))

    def run(verbose: Any = None, **given: Any) -> None:  # whose callback has been called by then
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    by_name = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in shown]
    run.__signature__ = inspect.Signature(by_name)  # type: ignore[attr-defined]
    # A paragraph is as wide as the terminal; examples stay as they are.
    told = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    run.__doc__ = "\n\n".join(one if one.startswith("[bold]Examples") else one.replace("\n", " ") for one in told)
    return run


def tell_estimate(estimate: Estimate, as_json: bool) -> None:
    """What `--dry-run` prints."""
    if as_json:
        print_json(asdict(estimate))
    else:
        console().print(harmless(estimate), soft_wrap=True)


def _read_signature(text: str) -> type[dspy.Signature]:
    from moa_dspy.signatures import task_signature

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return task_signature(text if "->" in text else pkgutil.resolve_name(text))
    except Exception as error:  # DSPy reads it with Python's own parser, whose errors are many
        raise ValueError(
            f"The signature {text!r} cannot be read: {error}. Write the task as 'question -> answer: float', or name a "
            "class that can be imported from here as module:Class."
        ) from error
