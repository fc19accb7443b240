"""Weight optimizers: they read each predictor's LM off the predictor, where a mixture holds none."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar, cast

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.parts import parts

from .lining_up import forward_lined_up, is_never_asked, lined_up, refuse_repetition, trains_per_predictor

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
        ValueError: If it could not be right: agents on several LMs share a prompt, a predictor has
            no LM, or, with `multitask=False` (one model per predictor, on what it said itself),
            an agent has several predictors, or a predictor is asked never or several times for one example.

    Example:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-4.1-nano", "openai/gpt-4.1-mini"], "openai/gpt-4.1",
                  use_specialized_prompts=True)
        tuned = tune_weights(moa, dspy.BootstrapFinetune(metric=metric, multitask=False), trainset=train)
        ```
    """
    student = program.deepcopy()
    _bind(student)
    if trains_per_predictor(optimizer):
        refuse_repetition(student)
        teachers = arguments.get("teacher") or []
        teachers = teachers if isinstance(teachers, list) else [teachers]
        if teachers:
            arguments["teacher"] = [lined_up(teacher.deepcopy()) for teacher in teachers]
        lined_up(student)
    tuned: Any = optimizer.compile(student, **arguments)
    _free(tuned)
    return tuned


class _Bound(dspy.Predict):
    """A predictor whose `.lm` is there to be read: it asks the LM under which its agent runs it."""

    free: type[dspy.Predict]

    def forward(self, **kwargs: Any) -> dspy.Prediction:
        return super().forward(**{"lm": dspy.settings.lm, **kwargs})

    async def aforward(self, **kwargs: Any) -> dspy.Prediction:
        return await super().aforward(**{"lm": dspy.settings.lm, **kwargs})


_Leaf = tuple[Agent, str, dspy.Predict, dspy.BaseLM | None]


@cache
def _bound(kind: Any) -> Any:
    # Under the same name, which MIPROv2 shows to its prompt model.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "free": kind}
    bases = (_Bound,) if kind is dspy.Predict else (_Bound, kind)
    make: Any = type(kind)
    return kind if issubclass(kind, _Bound) else make(kind.__name__, bases, names)


def _bind(program: dspy.Module) -> None:
    adopt_lms(_agents(program))
    leaves = list(_leaves_of(program, dspy.settings.lm))
    any_lm = next((lm for agent, _, _, lm in leaves if lm is not None and not is_never_asked(agent)), None)
    for name, predictor in program.named_predictors():
        holders = [(agent, path, lm) for agent, path, leaf, lm in leaves if leaf is predictor]
        named = [any_lm if is_never_asked(agent) else lm for agent, _, lm in holders]
        lms = list({id(lm): lm for lm in named if lm is not None}.values())
        if len(lms) > 1:
            raise ValueError(
                f"The predictor {name} is the prompt of {len(lms)} LMs, and an optimizer trains one per predictor: "
                "the others would be lost. Build the mixture with use_specialized_prompts=True."
            )
        if not lms and predictor.lm is None:
            raise ValueError(f"The predictor {name} has no LM, so there is nothing to train. Give its agent one.")
        for agent, path, _ in holders:
            if is_never_asked(agent):  # nor from now on: the LM is only shown
                agent._own_lms[path] = lms[0]
            elif path not in agent._own_lms:
                agent.lm, agent._shows_lm = lms[0], True
                predictor.__class__ = _bound(cast("Any", type(predictor)))
            agent._seated[path] = predictor.lm = lms[0]


def _leaves_of(program: dspy.Module | None, around: dspy.BaseLM | None) -> Iterator[_Leaf]:
    """Every agent's predictors, with the LM that they run on: their own, the agent's, or that around the agent."""
    for _, agent in parts(program, Agent):
        lm = agent.lm or around
        yield from ((agent, path, leaf, agent._own_lms.get(path) or lm) for path, leaf in agent._leaves())
        yield from _leaves_of(agent.program, lm)


def _free(program: dspy.Module) -> None:
    agents = _agents(program)
    adopt_lms(agents)
    for agent in agents:
        agent._shows_lm = False
        if is_never_asked(agent):
            agent._own_lms.clear()
        for path, predictor in agent._leaves():
            if isinstance(predictor, _Bound):
                cast("Any", predictor).__class__ = predictor.free
            if path not in agent._own_lms:
                predictor.lm = None
                agent._seated.pop(path, None)
    modules: Any = program.named_sub_modules(dspy.Module)
    for _, module in modules:
        # Ours, or the class's own, which DSPy leaves there after it has traced the program.
        if getattr(vars(module).get("forward"), "__func__", None) in (forward_lined_up, type(module).forward):
            del module.forward


def _agents(program: dspy.Module) -> list[Any]:
    return [agent for _, agent in program.named_sub_modules(Agent)]
