"""Recipes: how much a compile may spend, by name."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import dspy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["RECIPES", "Recipe", "recipe"]

RECIPES = ("quick", "balanced", "thorough")


@dataclass(frozen=True)
class Recipe:
    """How much a compile may spend; see `recipes.toml` for the numbers.

    A run is one answer of the program that is tuned: one LM call for a proposer alone, `n * samples + 1` for a
    mixture of n proposers.

    Attributes:
        name: What it is called.
        about: What it is for.
        evaluations: Of the whole valset by one run of GEPA, per prompt.
        reflections: By one run of GEPA, per prompt.
        minibatch: Examples per reflection.
        candidates: Sets of demos, or instructions per prompt, that other optimizers try.
        trials: Combinations that MIPROv2 evaluates.
        demos: At most per prompt.
    """

    name: str
    about: str
    evaluations: int
    reflections: int
    minibatch: int
    candidates: int
    trials: int
    demos: int

    def metric_calls(self, valset: int, prompts: int = 1) -> int:
        """GEPA's budget: a first evaluation, then so many others and so many reflections per prompt."""
        return valset + prompts * ((self.evaluations - 1) * valset + self.reflections * 2 * self.minibatch)

    def most_runs(self, valset: int, prompts: int = 1) -> int:
        """Runs of one GEPA at most: it ends a round that it has begun within its budget."""
        return self.metric_calls(valset, prompts) - 1 + 2 * self.minibatch + valset

    def most_reflections(self, valset: int, prompts: int = 1) -> int:
        """Reflections of one GEPA at most: each costs two minibatches, whether its prompt is any good or not."""
        return math.ceil((self.metric_calls(valset, prompts) - valset) / (2 * self.minibatch))

    def gepa(
        self,
        metric: Any,
        reflection_lm: Any,
        valset: int,
        *,
        prompts: int = 1,
        threads: int = 8,
        seed: int = 0,
        log_dir: Path | None = None,
    ) -> Any:
        """GEPA with this budget.

        Args:
            metric: With GEPA's five arguments.
            reflection_lm: What proposes the prompts.
            valset: How many examples the valset has.
            prompts: How many prompts the program has.
            threads: Examples under way at once.
            seed: Of the minibatches and the choice of candidates.
            log_dir: Where it keeps its state, and goes on from.
        """
        return dspy.GEPA(
            metric=metric,
            max_metric_calls=self.metric_calls(valset, prompts),
            reflection_minibatch_size=self.minibatch,
            reflection_lm=reflection_lm,
            use_merge=prompts > 1,
            num_threads=threads,
            seed=seed,
            warn_on_score_mismatch=False,
            log_dir=log_dir and str(log_dir),
        )


def recipe(name: str | Recipe) -> Recipe:
    """The recipe of this name.

    Raises:
        ValueError: If there is none.

    Example:
        >>> quick = recipe("quick")
        >>> quick.metric_calls(valset=20), quick.most_runs(valset=20), quick.most_reflections(valset=20)
        (96, 121, 13)
    """
    if isinstance(name, Recipe):
        return name
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}. Choose one of: {', '.join(RECIPES)}.")
    return Recipe(name=name, **_tables()[name])


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return tomllib.loads(files(__name__.rpartition(".")[0]).joinpath("recipes.toml").read_text(encoding="utf-8"))
