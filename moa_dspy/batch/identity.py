"""Who answers a batch, in one line: so that two mixtures' answers do not end up in one file unseen."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import dspy

from moa_dspy.agent import Agent
from moa_dspy.moa import MoA

__all__ = ["identity"]


def identity(moa: MoA) -> str:
    """The mixture in words and a fingerprint, the same in every process.

    The fingerprint covers what decides the answers: signature, prompts, demos, models and their settings,
    strategy, limits. Keys are left out: another key makes no other mixture.

    Example:
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> identity(moa).partition(" [")[0]
        'synthesis of alice+bob by judge'
    """
    parts = {
        "signature": {name: str(field.annotation) for name, field in moa.signature.fields.items()},
        "prompts": {name: predictor.dump_state() for name, predictor in moa.named_predictors()},
        "agents": [_agent(agent) for agent in moa.agents],
        "strategy": [moa.strategy.name, _plain(_settings(moa.strategy))],
        "samples": [panel.samples for panel in moa.panels],
        "limits": moa.limits.model_dump(),
    }
    text = json.dumps(_plain(parts), sort_keys=True)
    fingerprint = hashlib.sha256(text.encode(errors="replace")).hexdigest()[:8]
    panels = " then ".join("+".join(panel.names) for panel in moa.panels)
    judge = (_model(moa.aggregator) or "").rsplit("/", 1)[-1]
    return f"{moa.strategy.name} of {panels}{f' by {judge}' if judge else ''} [{fingerprint}]"


def _agent(agent: Agent) -> list[Any]:
    kwargs = getattr(agent.lm, "kwargs", {})
    settings = {name: value for name, value in kwargs.items() if not _SECRET.search(name)}
    return [agent.name, _model(agent), settings, type(agent.program).__qualname__]


def _model(agent: Agent) -> str | None:
    return agent.model or getattr(dspy.settings.lm, "model", None)


# Not `max_tokens`.
_SECRET = re.compile(r"(?i)key|secret|passw|credential|auth|headers|token(?!s)")


def _settings(strategy: dspy.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(strategy).items()
        if not name.startswith("_") and name not in ("callbacks", "history") and not isinstance(value, dspy.Module)
    }


def _plain(value: Any) -> Any:
    """The value without what differs between processes: addresses and the order of sets."""
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    name = getattr(value, "__qualname__", type(value).__qualname__)
    return name if " at 0x" in repr(value) else repr(value)
