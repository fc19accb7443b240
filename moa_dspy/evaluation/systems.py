"""Who takes part in an evaluation: what a mixture's models and strategies are as systems of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import dspy

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.evaluation.records import Kind, System
from moa_dspy.moa import MoA
from moa_dspy.panel import Panel
from moa_dspy.proposers import as_aggregator
from moa_dspy.strategies import STRATEGIES, Strategy, as_strategy

__all__ = ["ORACLE", "VOTE", "Field"]

VOTE, ORACLE = "plain vote", "oracle"


class Field:
    """All that are compared.

    Args:
        moa: The mixture.
        strategies: Which to compare; None means all built-in ones that there is an aggregator for, and the
            mixture's own.
        others: Name -> further modules.
        aggregator_alone: Whether the aggregator's model takes part on its own.

    Raises:
        ValueError: If a strategy is unknown, or an API key is missing.

    Attributes:
        systems: In the order in which they are reported.
        judge: The aggregator's model alone, with the proposers' prompt; None if it is a proposer anyway.
        aggregators: System -> the aggregator with that strategy.
        others: System -> module.
    """

    def __init__(
        self,
        moa: MoA,
        strategies: Sequence[str | Strategy] | None = None,
        others: Mapping[str, dspy.Module] | None = None,
        aggregator_alone: bool = True,
    ) -> None:
        adopt_lms(moa.agents)
        for agent in moa.agents:
            agent.check_key()
        self.moa = moa
        self.systems: list[System] = []
        proposers = moa.panels[0].agents
        for agent in proposers:
            self._enter(agent.name, "proposer", [agent])
        self.judge = _judge_alone(moa) if aggregator_alone else None
        self.judge_name = self._enter(self.judge.names[0], "aggregator", self.judge.agents) if self.judge else None
        self._enter(VOTE, "vote", proposers)
        self.aggregators: dict[str, Agent] = {}
        for strategy in _chosen(moa, strategies):
            aggregator = _aggregator(moa, strategy)
            self.aggregators[self._enter(_name(strategy), "strategy", [*proposers, aggregator])] = aggregator
        self.others = {self._enter(name, "other", []): module for name, module in (others or {}).items()}
        self._enter(ORACLE, "oracle", proposers)

    def _enter(self, name: str, kind: Kind, agents: Sequence[Agent]) -> str:
        taken, number = {system.name for system in self.systems}, 2
        unique = name
        while unique in taken:
            unique, number = f"{name} {number}", number + 1
        models = dict.fromkeys(agent.model for agent in agents if agent.model is not None)
        self.systems.append(System(unique, kind, tuple(models)))
        return unique


def _judge_alone(moa: MoA) -> Panel | None:
    lm = moa.aggregator.lm or dspy.settings.lm
    panel = moa.panels[0]
    if lm is None or lm.model in [agent.model for agent in panel.agents]:
        return None
    agent = Agent(lm)
    # The prompt that the proposers share, also a compiled one: what is compared is mixing, not prompting.
    shared = getattr(panel, "shared", None)
    return Panel(moa.signature, [agent if shared is None else agent.running(shared)], limits=moa.limits)


def _chosen(moa: MoA, strategies: Sequence[str | Strategy] | None) -> list[str | Strategy]:
    if strategies is not None:
        return list(strategies)
    can_ask = moa.aggregator.lm is not None or dspy.settings.lm is not None
    built_in = [name for name, strategy in STRATEGIES.items() if can_ask or not strategy.needs_aggregator]
    return list(dict.fromkeys([*built_in, moa.strategy.name]))


def _aggregator(moa: MoA, strategy: str | Strategy) -> Agent:
    if strategy == moa.strategy.name:
        return moa.aggregator
    bound = as_strategy(strategy)
    bound.bind(moa.signature, moa.panels[0].names)
    return as_aggregator(moa.aggregator.lm, bound)


def _name(strategy: str | Strategy) -> str:
    return strategy if isinstance(strategy, str) else strategy.name
