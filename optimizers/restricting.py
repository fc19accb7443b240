"""A mixture of some of a mixture's agents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dspy

from moa_dspy.moa import MoA
from moa_dspy.proposers import as_aggregator
from moa_dspy.strategies import Strategy, Voting, as_strategy

__all__ = ["restricted", "voting_of"]


def restricted(
    moa: MoA,
    agents: Sequence[str],
    *,
    samples: int | None = None,
    strategy: str | Strategy | None = None,
    aggregator: dspy.BaseLM | None = None,
) -> MoA:
    """A copy with these proposers only, their prompts and demos as they are.

    Args:
        moa: A mixture of one layer; it stays as it is.
        agents: Names of proposers.
        samples: Proposals of each, if not as before.
        strategy: Another strategy, with `aggregator` as its model.
        aggregator: None: nobody is asked.

    Raises:
        ValueError: If the strategy cannot do without an aggregator.
    """
    copy = moa.deepcopy()
    [panel] = copy.panels
    for name in panel.names:
        if name not in agents:
            delattr(panel, name)
    panel.names = [name for name in panel.names if name in agents]
    panel.samples = samples or panel.samples
    if all(agent.program is not getattr(panel, "shared", None) for agent in panel.agents):
        vars(panel).pop("shared", None)
    copy.own_programs = [name for name in copy.own_programs if name in panel.names]
    if strategy is not None:
        bound = as_strategy(strategy)
        bound.bind(copy.signature, panel.names)
        copy.aggregator = as_aggregator(aggregator, bound)
    return copy


def voting_of(strategy: Strategy, weights: Mapping[str, float]) -> Voting:
    """A vote with these weights that counts as the strategy does, if that is a vote."""
    copy = as_strategy(strategy)
    voting = copy if isinstance(copy, Voting) else Voting()
    voting.weights = dict(weights)
    return voting
