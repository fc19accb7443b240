"""A compile as the command line plans it: checked and priced before it is run."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy

from moa_dspy.cli.dataset import read_dataset
from moa_dspy.evaluation.intervals import Interval, difference_interval, mean_interval, wilson
from moa_dspy.evaluation.metrics import as_metric
from moa_dspy.moa import MoA
from moa_dspy.models import as_lm
from moa_dspy.optimizers import OPTIMIZERS, Budget, Job, SpecializationReport, calls_per_answer, recipe, specialized
from moa_dspy.usage import Usage

__all__ = ["Compilation", "Prompt", "prompts"]


@dataclass(frozen=True)
class Prompt:
    """A predictor's prompt: its name, its instructions, and how many demos it holds."""

    name: str
    instructions: str
    demos: int


@dataclass
class Compilation:
    """A compile, and what came of it.

    Attributes:
        job: What is compiled, with what.
        optimizer: Its name.
        out: Where the mixture is saved.
        heldout: The examples that no optimizer sees.
        before: The prompts at the beginning.
        after: The prompts at the end.
        scores_before: Per held-back example, by the student.
        scores_after: Per held-back example, by the compiled mixture.
        measuring: The LM calls that took.
        report: Of the optimizer.
    """

    job: Job
    optimizer: str
    out: Path
    heldout: Sequence[dspy.Example]
    before: list[Prompt]
    after: list[Prompt] = field(default_factory=list)
    scores_before: list[float] = field(default_factory=list)
    scores_after: list[float] = field(default_factory=list)
    measuring: Usage = field(default_factory=lambda: Usage(cost_usd=0.0))
    report: SpecializationReport = field(default_factory=SpecializationReport)

    @classmethod
    def planned(
        cls,
        moa: MoA,
        data: Path,
        out: Path,
        *,
        metric: str,
        optimizer: str,
        recipe_name: str,
        reflection_model: str | None,
        heldout: float,
        limit: int | None,
        concurrency: int,
        seed: int,
        force: bool,
    ) -> Compilation:
        """Check everything before anything is spent.

        Raises:
            ValueError: If something is wrong with it.
            OSError: If a file cannot be read or written.
        """
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"There is no optimizer {optimizer!r}. Choose one of: {', '.join(OPTIMIZERS)}.")
        chosen = recipe(recipe_name)
        checkpoint = out.with_suffix(".checkpoint") if OPTIMIZERS[optimizer].resumes else None
        _check_out(out, force)
        examples = read_dataset(data, moa.signature, metric, limit, seed)
        train, val, held = _split(examples, heldout, seed)
        reflection_lm = as_lm(reflection_model) if reflection_model else moa.get_lm()
        if reflection_lm is None:
            raise ValueError("There is no LM that could propose prompts: give --reflection-model MODEL.")
        for agent in moa.agents:
            if agent.lm is not None or (agent.asks_ambient_lm and moa.strategy.needs_aggregator):
                agent.check_key()
        job = Job(
            student=moa,
            metric=as_metric(metric, moa.signature),
            recipe=chosen,
            trainset=train,
            valset=val,
            reflection_lm=reflection_lm,
            threads=concurrency,
            seed=seed,
            checkpoint=checkpoint,
        )
        return cls(job, optimizer, out, held, prompts(specialized(moa) if optimizer == "specialize" else moa))

    @property
    def budget(self) -> Budget:
        """What the compile will take at most."""
        return self.job.budget(self.optimizer)

    @property
    def measuring_calls(self) -> int:
        """LM calls that the scores on the held-back data take."""
        return 2 * len(self.heldout) * calls_per_answer(self.job.student)

    @property
    def how_to_go_on(self) -> str:
        """What to do after an interrupt."""
        folder = self.job.checkpoint
        if folder is None:
            return (
                f"{self.optimizer} cannot go on where it stopped: the same command begins anew, and pays for no call "
                "that DSPy's cache holds."
            )
        kept = [f"{what}: {', '.join(names)}" for what, names in self.job.kept.items() if names]
        if not kept:
            return "Nothing was kept so far: the same command begins anew."
        return f"The same command goes on from {folder} ({'; '.join(kept)})."

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing better was found."""
        return self.before == self.after

    @property
    def gain(self) -> tuple[float, Interval] | None:
        """The difference on the held-back data with its 95% interval; None if nothing was held back."""
        if not self.scores_after:
            return None
        seed = self.job.seed
        return (
            _mean(self.scores_after) - _mean(self.scores_before),
            difference_interval(self.scores_after, self.scores_before, seed=seed),
        )

    def metrics(self) -> dict[str, float]:
        """What was measured on the held-back data, as MLflow's metrics; nothing if nothing was."""
        if self.gain is None:
            return {}
        gain, (low, high) = self.gain
        scores = {"before": _mean(self.scores_before), "after": _mean(self.scores_after)}
        found = {**scores, "gain": gain, "gain_low": low, "gain_high": high}
        return {f"heldout/{name}": value for name, value in found.items()}

    def interval(self, scores: Sequence[float]) -> Interval:
        """The 95% interval of a mean score."""
        if set(scores) <= {0.0, 1.0}:
            return wilson(int(sum(scores)), len(scores))
        return mean_interval(scores, seed=self.job.seed)

    def to_json(self) -> str:
        """All of it."""
        gain = self.gain
        plain: dict[str, Any] = {
            "optimizer": self.optimizer,
            "recipe": self.job.recipe.name,
            "out": str(self.out),
            "examples": {
                "train": len(self.job.trainset),
                "val": len(self.job.valset),
                "heldout": len(self.heldout),
            },
            "budget": {**vars(self.budget), "measuring": self.measuring_calls},
        }
        if self.after:
            plain |= {
                "before": _mean(self.scores_before) if gain else None,
                "before_interval": gain and list(self.interval(self.scores_before)),
                "after": _mean(self.scores_after) if gain else None,
                "after_interval": gain and list(self.interval(self.scores_after)),
                "gain": gain and gain[0],
                "interval": gain and list(gain[1]),
                "report": self.report.to_dict(),
                "measuring": self.measuring.model_dump(),
                "prompts": [
                    {"name": one.name, "before": vars(one), "after": vars(other)}
                    for one, other in zip(self.before, self.after, strict=True)
                ],
            }
        return json.dumps(plain, indent=2)


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


def prompts(moa: MoA) -> list[Prompt]:
    """The prompts of a mixture; not those of an aggregator that nobody is."""
    parts: list[tuple[str, Any]] = moa.named_predictors()
    judged = moa.aggregator.lm is not None or moa.strategy.needs_aggregator
    asked = [(name, part) for name, part in parts if judged or not name.startswith("aggregator.")]
    return [Prompt(name, part.signature.instructions, len(part.demos)) for name, part in asked]


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)
