"""Weight optimizers: they read each predictor's LM off the predictor, where a mixture holds none."""

from __future__ import annotations

from typing import Any, TypeVar

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.agent import Agent, adopt_lms, showing_lms

__all__ = ["tune_weights"]

ModuleT = TypeVar("ModuleT", bound=dspy.Module)


def tune_weights(program: ModuleT, optimizer: Teleprompter, **arguments: Any) -> ModuleT:
    """Compile a mixture, or a program that holds one, with an optimizer that trains models.

    `BootstrapFinetune` and `BetterTogether` want an LM on every predictor. This shows them, on a copy,
    each agent's own, and gives each agent the LM that comes back. (`set_lm` would put one LM on all.)

    Args:
        program: What to compile; it stays as it is.
        optimizer: `BootstrapFinetune`, or `BetterTogether`, also one of prompt optimizers alone.
        **arguments: For its `compile`: `trainset`, `teacher`, ...

    Returns:
        The compiled copy; `agent.model` names the trained models.

    Raises:
        ValueError: If it could not be right: agents on several LMs share a prompt, a predictor has no LM, or the
            optimizer trains one model per predictor (`multitask=False`).

    Examples:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-4.1-nano", "openai/gpt-4.1-mini"], "openai/gpt-4.1",
                  use_specialized_prompts=True)
        tuned = tune_weights(moa, dspy.BootstrapFinetune(metric=metric), trainset=train)
        ```
    """
    if _trains_per_predictor(optimizer):
        raise ValueError(
            "multitask=False takes the n-th step of a trace for the n-th predictor's, and a proposer that fails, or is "
            "asked again, moves the others': models would be trained on what others said. Use multitask=True, or "
            "moa_dspy.optimizers.Finetune, which trains each model on what it said itself."
        )
    student = program.deepcopy()
    _give_ambient_lms(student, dspy.settings.lm)
    _refuse_shared_prompts(student)
    if isinstance(optimizer, dspy.BootstrapFinetune) and not arguments.get("teacher"):
        # Asked in the student's place: as any mixture, on rollouts of its own.
        arguments["teacher"] = program.deepcopy()
    with showing_lms(_agents_of(student)):
        if bare := [name for name, predictor in student.named_predictors() if predictor.lm is None]:
            raise ValueError(f"The predictor {bare[0]} has no LM, so there is nothing to train. Give its agent one.")
        tuned: Any = optimizer.compile(student, **arguments)
    for one in (tuned, *(candidate["program"] for candidate in getattr(tuned, "candidate_programs", ()))):
        with showing_lms(_agents_of(one)):
            pass  # copies, which showed theirs too, are done with it
    return tuned


def _agents_of(program: dspy.Module) -> list[Agent]:
    modules: Any = program.named_sub_modules(Agent)
    return [agent for _, agent in modules]


def _give_ambient_lms(program: dspy.Module | None, around: dspy.BaseLM | None) -> None:
    """Let agents that run on the LM around them have it as their own: it is trained too."""
    agents = [] if program is None else _agents_of(program)
    adopt_lms(agents)
    for agent in agents:
        if agent.asks_ambient_lm and not agent.has_agents:
            agent.lm = around
        if agent.has_agents and agent.program is not None:
            _give_ambient_lms(agent.program, agent.lm or around)


def _refuse_shared_prompts(program: dspy.Module) -> None:
    agents = _agents_of(program)
    for name, predictor in program.named_predictors():
        own = [agent for agent in agents if any(part is predictor for part in agent.predictors())]
        lms = {id(agent.lm) for agent in own if agent.lm is not None and not agent.has_agents}
        if len(lms) > 1:
            raise ValueError(
                f"The predictor {name} is the prompt of {len(lms)} LMs, and an optimizer trains one per predictor: "
                "the others would be lost. Build the mixture with use_specialized_prompts=True."
            )


def _trains_per_predictor(optimizer: Any) -> bool:
    inner = getattr(optimizer, "optimizers", {}).values()
    return getattr(optimizer, "multitask", True) is False or any(map(_trains_per_predictor, inner))
