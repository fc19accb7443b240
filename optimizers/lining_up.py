"""Traces that line up with the predictors: what one model per predictor is trained on.

With `multitask=False` DSPy's BootstrapFinetune takes the n-th step of a trace for the n-th predictor's.
"""

from __future__ import annotations

import logging
from itertools import groupby
from types import MethodType
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.panel import Panel
from moa_dspy.strategies import Strategy

__all__ = ["forward_lined_up", "is_never_asked", "lined_up", "refuse_repetition", "trains_per_predictor"]

logger = logging.getLogger(__name__)


def trains_per_predictor(optimizer: Any) -> bool:
    """Whether the optimizer, or one inside it, trains one model per predictor."""
    inner = getattr(optimizer, "optimizers", {}).values()
    return getattr(optimizer, "multitask", True) is False or any(map(trains_per_predictor, inner))


def is_never_asked(agent: Agent) -> bool:
    """Whether it is an aggregator without an LM for a vote that does without."""
    return isinstance(agent.program, Strategy) and not agent.program.needs_aggregator and agent.lm is None


def refuse_repetition(program: dspy.Module) -> None:
    """Refuse a program whose traces cannot line up.

    Raises:
        ValueError: Naming the agent or the setting.
    """
    agents: list[Any] = [agent for _, agent in program.named_sub_modules(Agent)]
    panels: list[Any] = [panel for _, panel in program.named_sub_modules(Panel)]
    reason = ""
    for agent in agents:
        if is_never_asked(agent):
            reason = f"the agent {agent.name!r} is never asked"
        elif len(list(agent._leaves())) > 1 and not agent._own_lms:
            reason = f"the agent {agent.name!r} has several predictors, and an agent runs on one LM"
    for predictor in program.predictors():
        if sum(leaf is predictor for agent in agents for _, leaf in agent._leaves()) > 1:
            reason = "several agents share a prompt, so its predictor is asked several times for one example"
    if any(panel.samples > 1 for panel in panels):
        reason = "with num_proposals_per_model > 1 a predictor is asked several times for one example"
    if reason:
        raise ValueError(
            f"multitask=False takes the n-th step of a trace for the n-th predictor's, and {reason}: models would be "
            "trained on what others said. Use multitask=True."
        )


def lined_up(program: Any) -> Any:
    """The program, which from now on leaves out of its traces what does not stand at its predictor's place."""
    program.forward = MethodType(forward_lined_up, program)
    return program


def forward_lined_up(self: Any, **inputs: Any) -> Any:
    """The `forward` of such a program."""
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
