"""A copy of a mixture in which no two agents share a prompt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.moa import MoA
from moa_dspy.signatures import for_role, tell_apart

__all__ = ["specialized"]


def specialized(moa: MoA) -> MoA:
    """A copy with a prompt per proposer; what they shared so far, instructions and demos, each has for itself.

    Args:
        moa: A mixture; it stays as it is.

    Example:
        >>> from moa_dspy import MoA
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> [name for name, _ in specialized(moa).named_predictors()][:2]
        ['proposers.alice.program.predict', 'proposers.bob.program.predict']
    """
    copy = moa.deepcopy()
    held = Counter(id(agent.program) for panel in copy.panels for agent in panel.agents)
    for panel in copy.panels:
        shared = vars(panel).pop("shared", None)
        for agent in panel.agents:
            if agent.program is not None and held[id(agent.program)] > 1:
                role = f"{agent.name}, layer {panel.layer}" if agent.program is shared else None
                setattr(panel, agent.name, _on_its_own(agent, agent.program, role))
    copy.use_specialized_prompts = True
    tell_apart(copy.named_predictors())
    return copy


def _on_its_own(agent: Agent, program: dspy.Module, role: str | None) -> Agent:
    own = program.deepcopy()
    if role is not None:
        predictors: list[Any] = own.predictors()
        for predictor in predictors:
            predictor.signature = for_role(predictor.signature, role)
    return agent.running(own)
