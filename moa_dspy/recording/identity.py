"""Who was asked, in one line: so that answers of two mixtures do not end up side by side unseen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import dspy

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.moa import MoA
from moa_dspy.secrets import without_secrets
from moa_dspy.strategies import Strategy
from moa_dspy.values import hash_of

__all__ = ["PARTS", "aggregator_fingerprint", "describe_changes", "identity", "part_of"]

PARTS = {
    "task": "the task",
    "panel": "the proposers (models, settings, prompts or samples)",
    "aggregator": "the aggregator (model, strategy, settings or prompts)",
}

# What changes how a model is reached, and not what it answers.
_NO_IDENTITY = ("api_base", "base_url", "timeout", "num_retries", "prices", "cache", "callbacks", "history")


def identity(moa: MoA) -> str:
    """A mixture in words, with fingerprints of task, panel and aggregator, the same in every process.

    They cover what decides the answers: signature, prompts, demos, models and their settings, strategy. Keys,
    addresses, limits and prices are left out: another key makes no other mixture.

    Example:
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> identity(moa).partition(" [")[0]
        'synthesis of alice+bob by judge'
    """
    adopt_lms(moa.agents)
    task = {name: str(field.annotation) for name, field in moa.signature.fields.items()}
    panels = [[panel.samples, [_agent(agent) for agent in panel.agents]] for panel in moa.panels]
    names = " then ".join("+".join(panel.names) for panel in moa.panels)
    judge = (_model(moa.aggregator) or "").rsplit("/", 1)[-1] if moa.strategy.has_aggregator else ""
    fingerprints = (
        f"task {hash_of([task, moa.signature.instructions], 8)}, panel {hash_of(panels, 8)}, "
        f"aggregator {aggregator_fingerprint(moa.aggregator)}"
    )
    return f"{moa.strategy.name} of {names}{f' by {judge}' if judge else ''} [{fingerprints}]"


def aggregator_fingerprint(aggregator: Agent) -> str:
    """What decides how an aggregator decides: its model, its strategy's settings and prompts."""
    strategy: Any = aggregator.program
    return hash_of([_agent(aggregator), strategy.name, _settings(strategy)], 8)


def part_of(identity: str, part: str) -> str:
    """The fingerprint of one part, `task`, `panel` or `aggregator`; empty where there is none.

    Example:
        >>> part_of("vote of a [task 12, panel 34, aggregator 56]", "panel")
        '34'
    """
    found = re.search(rf"[\[ ]{part} (\w+)", identity)
    return found[1] if found else ""


def describe_changes(there: str, now: str, parts: Iterable[str] = tuple(PARTS)) -> str:
    """What differs between two mixtures, in words; empty if nothing does in these parts."""
    return " and ".join(PARTS[part] for part in parts if part_of(there, part) != part_of(now, part))


def _agent(agent: Agent) -> list[Any]:
    lm: Any = agent.lm or dspy.settings.lm
    settings = without_secrets(getattr(lm, "kwargs", {}))[0]
    kept = {name: value for name, value in settings.items() if name not in _NO_IDENTITY and value is not None}
    prompts = {name: _prompt(predictor) for name, predictor in agent.named_predictors()}
    return [agent.name, _model(agent), kept, type(agent.program).__qualname__, prompts]


def _prompt(predictor: Any) -> Any:
    state = predictor.dump_state()
    return [state["signature"], [{name: demo[name] for name in demo} for demo in state["demos"]]]


def _model(agent: Agent) -> str | None:
    return agent.model or getattr(dspy.settings.lm, "model", None)


def _settings(strategy: Strategy) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(strategy).items()
        if not name.startswith("_") and name not in ("callbacks", "history") and not isinstance(value, dspy.Module)
    }
