"""Weight optimizers: they read each predictor's LM off the predictor, where a mixture holds none."""

from __future__ import annotations

import logging
from functools import lru_cache
from itertools import groupby
from types import MethodType
from typing import Any, TypeVar

import dspy
from dspy.teleprompt import Teleprompter

from moa_dspy.agent import Agent, deliver_mail
from moa_dspy.panel import Panel

__all__ = ["tune_weights"]

logger = logging.getLogger(__name__)

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
        The compiled copy. `agent.model` names the trained models; saved state holds prompts only.

    Raises:
        ValueError: If it could not be right: agents on several LMs share a prompt, a predictor has
            no LM, or, with `multitask=False` (one model per predictor, on what it said itself),
            an agent has several predictors or a predictor is asked several times for one example.

    Example:
        ```python
        moa = MoA("question -> answer", ["openai/gpt-4.1-nano", "openai/gpt-4.1-mini"], "openai/gpt-4.1",
                  use_specialized_prompts=True)
        tuned = tune_weights(moa, dspy.BootstrapFinetune(metric=metric, multitask=False), trainset=train)
        ```
    """
    student = program.deepcopy()
    _bind(student)
    if _trains_per_predictor(optimizer):
        _refuse_repetition(student)
        if arguments.get("teacher") is not None:
            arguments["teacher"] = _in_line_all(arguments["teacher"])
        _in_line(student)
    tuned: ModuleT = optimizer.compile(student, **arguments)
    _free(tuned)
    return tuned


class _Bound(dspy.Predict):
    """A predictor whose `.lm` is there to be read: it asks the LM under which its agent runs it."""

    def forward(self, **kwargs: Any) -> dspy.Prediction:
        return super().forward(**{"lm": dspy.settings.lm, **kwargs})

    async def aforward(self, **kwargs: Any) -> dspy.Prediction:
        return await super().aforward(**{"lm": dspy.settings.lm, **kwargs})


@lru_cache(maxsize=None)
def _bound(kind: type[dspy.Predict]) -> type[dspy.Predict]:
    # Under the same name, which MIPROv2 shows to its prompt model.
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "free": kind}
    return type(kind)(kind.__name__, (_Bound, kind), names)


def _bind(program: dspy.Module) -> None:
    agents = _all(program, Agent)
    deliver_mail(agents)
    for name, predictor in program.named_predictors():
        holders = [(agent, path) for agent in agents for path, leaf in agent._leaves() if leaf is predictor]
        lms = list({id(lm): lm for agent, path in holders if (lm := _lm_of(agent, path)) is not None}.values())
        if len(lms) > 1:
            raise ValueError(
                f"The predictor {name} is the prompt of {len(lms)} LMs, and an optimizer trains one per predictor: "
                "the others would be lost. Build the mixture with use_specialized_prompts=True."
            )
        if not lms and predictor.lm is None:
            raise ValueError(f"The predictor {name} has no LM, so there is nothing to train. Give its agent one.")
        for agent, path in holders:
            if agent._own_lms.get(path) is None:
                agent.lm, agent._shows_lm = lms[0], True
                agent._seated[path] = predictor.lm = lms[0]
                predictor.__class__ = _bound(type(predictor))


def _lm_of(agent: Agent, path: str) -> dspy.BaseLM | None:
    return agent._own_lms.get(path) or agent.lm or dspy.settings.lm


def _free(program: dspy.Module) -> None:
    agents = _all(program, Agent)
    deliver_mail(agents)
    for agent in agents:
        agent._shows_lm = False
        for path, predictor in agent._leaves():
            if isinstance(predictor, _Bound):
                predictor.__class__ = predictor.free  # type: ignore[attr-defined]
            if path not in agent._own_lms:
                predictor.lm = None
                agent._seated.pop(path, None)
    for module in _all(program, dspy.Module):
        # Ours, or the class's own, which DSPy leaves there after it has traced the program.
        if getattr(vars(module).get("forward"), "__func__", None) in (_forward_in_line, type(module).forward):
            del module.forward


def _all(program: dspy.Module, kind: type[ModuleT]) -> list[ModuleT]:
    return [module for _, module in program.named_sub_modules(kind)]


# One model per predictor: BootstrapFinetune takes the n-th step of a trace for the n-th predictor's.


def _trains_per_predictor(optimizer: Any) -> bool:
    inner = getattr(optimizer, "optimizers", {}).values()
    return getattr(optimizer, "multitask", True) is False or any(map(_trains_per_predictor, inner))


def _refuse_repetition(program: dspy.Module) -> None:
    agents = _all(program, Agent)
    reason = ""
    for agent in agents:
        if len(list(agent._leaves())) > 1 and not agent._own_lms:
            reason = f"the agent {agent.name!r} has several predictors, and an agent runs on one LM"
    for _, predictor in program.named_predictors():
        if sum(leaf is predictor for agent in agents for _, leaf in agent._leaves()) > 1:
            reason = "several agents share a prompt, so its predictor is asked several times for one example"
    if any(panel.samples > 1 for panel in _all(program, Panel)):
        reason = "with num_proposals_per_model > 1 a predictor is asked several times for one example"
    if reason:
        raise ValueError(
            f"multitask=False takes the n-th step of a trace for the n-th predictor's, and {reason}: models would be "
            "trained on what others said. Use multitask=True."
        )


def _in_line_all(teachers: Any) -> Any:
    if isinstance(teachers, list):
        return [_in_line_all(teacher) for teacher in teachers]
    return _in_line(teachers.deepcopy())


def _in_line(program: ModuleT) -> ModuleT:
    program.forward = MethodType(_forward_in_line, program)
    return program


def _forward_in_line(self: Any, **inputs: Any) -> Any:
    """Run the program, and leave out of the trace what does not stand at its predictor's place."""
    with dspy.context(trace=[]):
        prediction = type(self).forward(self, **inputs)
        steps: list[Any] = dspy.settings.trace
    # A predictor that was asked again right away (a repair) is held to its last word.
    last = [list(run)[-1] for _, run in groupby(steps, key=lambda step: id(step[0]))]
    places = zip(last, self.predictors(), strict=False)
    kept = next((n for n, (step, predictor) in enumerate(places) if step[0] is not predictor), len(last))
    if kept < len(last):
        logger.warning("A predictor gave nothing to learn from: %d of %d steps left out.", len(last) - kept, len(last))
    if dspy.settings.trace is not None:
        dspy.settings.trace.extend(last[:kept])
    return prediction
