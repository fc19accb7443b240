"""Mixtures made of a mixture: with a prompt per agent, of some of the agents, of one agent alone."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import dspy

from moa_dspy.moa import MoA
from moa_dspy.proposers import as_aggregator
from moa_dspy.recording import Row, replay
from moa_dspy.signatures import for_role, tell_apart
from moa_dspy.strategies import Strategy, as_strategy

__all__ = ["alone", "restricted", "specialized", "up_to"]


def specialized(moa: MoA) -> MoA:
    """A copy with a prompt per proposer; what they shared so far, instructions and demos, each has for itself."""
    mixture = moa.deepcopy()
    held = Counter(id(agent.program) for panel in mixture.panels for agent in panel.agents)
    for panel in mixture.panels:
        shared = vars(panel).pop("shared", None)
        for agent in panel.agents:
            if agent.program is not None and held[id(agent.program)] > 1:
                own: Any = agent.program.deepcopy()
                for predictor in own.predictors() if agent.program is shared else ():
                    predictor.signature = for_role(predictor.signature, f"{agent.name}, layer {panel.layer}")
                setattr(panel, agent.name, agent.with_program(own))
    mixture.use_specialized_prompts = True
    tell_apart(mixture.named_predictors())
    return mixture


def restricted(
    moa: MoA,
    agents: Collection[str],
    samples: int,
    strategy: Strategy | None = None,
    aggregator: dspy.BaseLM | None = None,
) -> MoA:
    """A copy of a mixture of one layer with these proposers only, their prompts and demos as they are."""
    mixture = moa.deepcopy()
    mixture.drop_calibration()
    [panel] = mixture.panels
    _narrow(panel, agents, samples)
    mixture.own_programs = [name for name in mixture.own_programs if name in panel.names]
    if strategy is not None:
        _bind(mixture, strategy, aggregator)
    return mixture


def alone(moa: MoA, panel_name: str, agent: str, rows: Iterable[Row]) -> MoA:
    """The mixture with one of its agents alone, under the name that it has there: its proposal is the answer.

    `rows` hold what the layers before it proposed.
    """
    mixture = up_to(moa, panel_name, rows)
    panel: Any = copy.copy(getattr(moa, panel_name))
    _narrow(panel, [agent], 1)
    vars(panel).pop("shared", None)
    setattr(mixture, panel_name, panel)
    mixture.limits = panel.limits = moa.limits.model_copy(update={"min_proposals": 1})
    _bind(mixture, as_strategy("voting"), None)
    return mixture


def up_to(moa: MoA, panel_name: str, rows: Iterable[Row]) -> MoA:
    """The mixture's layers up to this one, those before it as recorded."""
    mixture: Any = copy.copy(moa)
    mixture.drop_calibration()
    replayed, place = replay(moa, rows), moa.panel_names.index(panel_name)
    for later in moa.panel_names[place + 1 :]:
        vars(mixture).pop(later)
    for earlier in moa.panel_names[:place]:
        setattr(mixture, earlier, getattr(replayed, earlier))
    mixture.panel_names = moa.panel_names[: place + 1]
    return mixture


def _narrow(panel: Any, agents: Collection[str], samples: int) -> None:
    """Leave out the other agents, and the prompt that they share, if none is left that does."""
    for name in panel.names:
        if name not in agents:
            vars(panel).pop(name)
    panel.names, panel.samples = [name for name in panel.names if name in agents], samples
    if all(agent.program is not getattr(panel, "shared", None) for agent in panel.agents):
        vars(panel).pop("shared", None)


def _bind(moa: MoA, strategy: Strategy, lm: dspy.BaseLM | None) -> None:
    bound = as_strategy(strategy)
    bound.has_aggregator = bound.needs_aggregator or lm is not None
    bound.bind(moa.signature, moa.panels[-1].names)
    moa.aggregator = as_aggregator(lm, bound)
