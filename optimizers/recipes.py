"""Recipes: how much a compile may spend, by name, and what that comes to before it is spent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

__all__ = ["Budget", "Recipe"]


@dataclass(frozen=True)
class Recipe:
    """How much a compile may spend. A run is one answer of the program that is tuned."""

    name: str
    evaluations: int  # of the whole valset by one run of GEPA, per prompt
    reflections: int  # by one run of GEPA, per prompt; each tries a new prompt on a minibatch
    minibatch: int  # examples per reflection
    candidates: int  # sets of demos, or instructions per prompt, that other optimizers try
    trials: int  # combinations that MIPROv2 evaluates
    demos: int  # at most per prompt

    @classmethod
    def named(cls, name: str | Recipe) -> Recipe:
        """The recipe of this name, `quick`, `balanced` or `thorough`; one that is a recipe already is itself."""
        if isinstance(name, Recipe):
            return name
        if name not in _RECIPES:
            raise ValueError(f"There is no recipe {name!r}. Choose one of: {', '.join(_RECIPES)}.")
        return _RECIPES[name]

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
        self, metric: Any, reflection_lm: Any, valset: int, *, prompts: int = 1, log_dir: Path | None = None, **own: Any
    ) -> Any:
        """GEPA with this budget for so many prompts; `own` are further arguments of `dspy.GEPA`."""
        return dspy.GEPA(
            metric=metric,
            max_metric_calls=self.metric_calls(valset, prompts),
            reflection_minibatch_size=self.minibatch,
            reflection_lm=reflection_lm,
            use_merge=prompts > 1,
            warn_on_score_mismatch=False,
            log_dir=log_dir and str(log_dir),
            **own,
        )


# Positions: evaluations, reflections, minibatch, candidates, trials, demos.
_RECIPES = {
    "quick": Recipe("quick", 3, 6, 3, 2, 4, 2),
    "balanced": Recipe("balanced", 6, 15, 3, 6, 12, 3),
    "thorough": Recipe("thorough", 15, 40, 4, 12, 30, 4),
}


@dataclass(frozen=True)
class Budget:
    """LM calls at most, but for replies that an adapter or a strategy has to ask for again."""

    agents: int  # of the mixture's agents
    optimizer: int  # of the optimizer itself: reflections, proposals of prompts
    formula: str  # how `agents` comes about

    @property
    def calls(self) -> int:
        """All of them."""
        return self.agents + self.optimizer
