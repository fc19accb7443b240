"""What a compile will take at most, told before it is spent."""

from __future__ import annotations

from dataclasses import dataclass

from moa_dspy.moa import MoA

from .recipes import Recipe

__all__ = ["Budget", "bootstrap_budget", "calls_per_answer", "gepa_budget", "mipro_budget", "specialize_budget"]


@dataclass(frozen=True)
class Budget:
    """LM calls at most, but for replies that an adapter or a strategy has to ask for again.

    Attributes:
        agents: Calls of the mixture's agents.
        optimizer: Calls of the optimizer itself: reflections, proposals of prompts.
        formula: How `agents` comes about.
    """

    agents: int
    optimizer: int
    formula: str

    @property
    def calls(self) -> int:
        """All of them."""
        return self.agents + self.optimizer


def calls_per_answer(moa: MoA) -> int:
    """LM calls of one run of a mixture: each sample of each proposer of each layer, and the aggregator's."""
    return sum(len(panel.names) * panel.samples for panel in moa.panels) + _aggregator_calls(moa)


def specialize_budget(moa: MoA, recipe: Recipe, trainset: int, valset: int, credit: str = "solo") -> Budget:
    """Of `Specialize` with its default optimizer.

    A stage evaluates what it starts from and what it ends with, and runs one GEPA. Between the stages the proposals
    are recorded; once more at the beginning for `credit="marginal"`.

    Args:
        moa: The student.
        recipe: The recipe.
        trainset: How many examples it has.
        valset: How many examples it has.
        credit: `"solo"` or `"marginal"`.
    """
    stage = 2 * valset + recipe.most_runs(valset)
    proposers = sum(len(panel.names) for panel in moa.panels)
    samples = moa.panels[0].samples
    recordings = (2 if credit == "marginal" else 1) * samples * (trainset + valset)
    judged = _aggregator_calls(moa)
    return Budget(
        agents=proposers * (stage + recordings) + judged * stage,
        optimizer=(proposers + bool(judged)) * recipe.most_reflections(valset),
        formula=f"{proposers} proposers x ({stage} runs + {recordings} recorded) + aggregator {judged} x {stage}",
    )


def gepa_budget(moa: MoA, recipe: Recipe, trainset: int, valset: int) -> Budget:
    """Of GEPA on the whole mixture, with the recipe's budget for each of its prompts."""
    prompts, each = len(moa.named_predictors()), calls_per_answer(moa)
    runs = recipe.most_runs(valset, prompts)
    return Budget(runs * each, recipe.most_reflections(valset, prompts), f"{runs} runs x {each} calls")


def bootstrap_budget(moa: MoA, recipe: Recipe, trainset: int, valset: int) -> Budget:
    """Of `BootstrapFewShotWithRandomSearch` on the whole mixture.

    It evaluates the program without demos, with labelled ones (here none), with the first and with `candidates`
    further sets of demos; for each of these sets it runs over the trainset at most.
    """
    each = calls_per_answer(moa)
    runs = (recipe.candidates + 3) * valset + (recipe.candidates + 1) * trainset
    return Budget(runs * each, 0, f"{runs} runs x {each} calls")


def mipro_budget(moa: MoA, recipe: Recipe, trainset: int, valset: int) -> Budget:
    """Of MIPROv2 on the whole mixture: `trials + 1` evaluations, and a run over the trainset per set of demos."""
    prompts, each = len(moa.named_predictors()), calls_per_answer(moa)
    runs = (recipe.trials + 1) * valset + recipe.candidates * trainset
    # A proposal takes three calls (the program, the module, the instruction); the data are summed up in tens.
    proposals = 3 * recipe.candidates * prompts + trainset // 10 + 3
    return Budget(runs * each, proposals, f"{runs} runs x {each} calls")


def _aggregator_calls(moa: MoA) -> int:
    if not moa.strategy.needs_aggregator and moa.aggregator.lm is None:
        return 0
    return int(getattr(moa.strategy, "rotations", 1))
