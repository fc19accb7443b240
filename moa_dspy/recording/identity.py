"""Who was asked, in one line: so that answers of two mixtures do not end up side by side unseen."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import dspy

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.moa import MoA
from moa_dspy.secrets import without_secrets
from moa_dspy.strategies.answers import Answer
from moa_dspy.values import hash_of

__all__ = ["PANEL", "aggregator_fingerprint", "describe_changes", "fingerprints", "identity"]

_PARTS = {
    "task": "the task (fields, types or instructions)",
    "models": "the proposers' models, names, samples or layers",
    "settings": "the proposers' settings",
    "prompts": "the proposers' prompts or demos",
    "aggregator": "the aggregator (model, strategy, settings or prompts)",
}
PANEL = ("task", "models", "settings", "prompts")

# What changes how a model is reached, and not what it answers.
_NO_IDENTITY = (
    *("api_base", "api_version", "base_url", "cache", "callbacks", "default_headers", "extra_headers", "headers"),
    *("history", "max_retries", "num_retries", "organization", "prices", "timeout"),
)


def identity(moa: MoA) -> str:
    """A mixture in words, with fingerprints of its parts, the same in every process.

    They cover what decides the answers: signature, prompts, demos, models and their settings, strategy; not keys,
    addresses, limits and prices.

    Examples:
        >>> moa = MoA("question -> answer", ["simulated/alice", "simulated/bob"], "simulated/judge")
        >>> identity(moa).partition(" [")[0]
        'synthesis of alice+bob by judge'
    """
    adopt_lms(moa.agents)
    fields = {name: str(field.annotation) for name, field in moa.signature.fields.items()}
    panels = [[_settings(agent) for agent in panel.agents] for panel in moa.panels]
    who, options, prompts = ([[one[part] for one in panel] for panel in panels] for part in range(3))
    parts = {
        "task": hash_of([fields, moa.signature.instructions], 8),
        "models": hash_of([*who, *(panel.samples for panel in moa.panels)], 8),
        "settings": hash_of(options, 8),
        "prompts": hash_of(prompts, 8),
        "aggregator": aggregator_fingerprint(moa.aggregator),
    }
    names = " then ".join("+".join(panel.names) for panel in moa.panels)
    judge = (_model(moa.aggregator) or "").rsplit("/", 1)[-1] if moa.strategy.has_aggregator else ""
    words = f"{moa.strategy.name} of {names}{f' by {judge}' if judge else ''}"
    return f"{words} [{', '.join(f'{name} {value}' for name, value in parts.items())}]"


def aggregator_fingerprint(aggregator: Agent) -> str:
    """What decides how an aggregator decides: its model, its strategy's settings and prompts."""
    strategy: Any = aggregator.program
    # Hashed under the names, and in the forms, that they always had: files of earlier versions stay resumable.
    options = {
        name: value._asdict() if isinstance(value, Answer) else value
        for name, value in vars(strategy).items()
        if not name.startswith("_") and name not in _NO_IDENTITY and not isinstance(value, dspy.Module)
    }
    keys = ("who", "options", "prompts")
    return hash_of([dict(zip(keys, _settings(aggregator), strict=True)), strategy.name, options], 8)


def fingerprints(identity: str) -> dict[str, str]:
    """The fingerprints of a mixture's parts; none if nobody was asked.

    Examples:
        >>> fingerprints("vote of a [task 12, models 34, aggregator 56]")["models"]
        '34'
    """
    return dict(re.findall(r"(\w+) (\w+)", identity.rpartition(" [")[2]))


def describe_changes(there: str, now: str, parts: Iterable[str] = tuple(_PARTS)) -> str:
    """What differs between two mixtures, in words; empty if nothing does in these parts."""
    before, after = fingerprints(there), fingerprints(now)
    return " and ".join(_PARTS[part] for part in parts if before.get(part) != after.get(part))


def _settings(agent: Agent) -> tuple[Any, Any, Any]:
    """Who an agent is, its LM's settings, and its prompts."""
    lm: Any = agent.lm or dspy.settings.lm
    options = without_secrets(getattr(lm, "kwargs", {}))[0]
    options = {name: value for name, value in options.items() if name not in _NO_IDENTITY and value is not None}
    states = {name: predictor.dump_state() for name, predictor in agent.named_predictors()}
    prompts = {name: [state["signature"], [dict(demo) for demo in state["demos"]]] for name, state in states.items()}
    return [agent.name, _model(agent), type(agent.program).__qualname__], options, prompts


def _model(agent: Agent) -> str | None:
    return agent.model or getattr(dspy.settings.lm, "model", None)
