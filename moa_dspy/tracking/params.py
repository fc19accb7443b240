"""A mixture's configuration: whole, without secrets, and flat as MLflow's parameters."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import dspy

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.lm_data import describe_lm
from moa_dspy.moa import MoA
from moa_dspy.saved_mixture import describe_mixture
from moa_dspy.secrets import mask, secret_values, without_secrets
from moa_dspy.values import to_jsonable

from .naming import metric_names

__all__ = ["LONGEST", "config_of", "optimizer_params", "params_of"]

LONGEST = 6000
"""Characters of a parameter that MLflow keeps."""


def config_of(moa: MoA) -> dict[str, Any]:
    """The whole configuration without secrets; prompts and demos are apart.

    Example:
        >>> config = config_of(MoA("question -> answer", ["simulated/alice"], "simulated/judge"))
        >>> config["strategy"]["name"], config["agents"]["alice"]["model"]
        ('synthesis', 'simulated/alice')
    """
    adopt_lms(moa.agents)
    mixture = describe_mixture(moa)
    saved = mixture.config
    strategy = saved["aggregation_strategy"]
    config = {
        "signature": moa.signature.signature,
        "strategy": {"name": strategy} if isinstance(strategy, str) else strategy,
        "layers": saved["layers"],
        "num_proposals_per_model": saved["num_proposals_per_model"],
        "use_specialized_prompts": saved["use_specialized_prompts"],
        "limits": saved["limits"],
        "versions": {name: importlib.metadata.version(name) for name in ("dspy", "mlflow")}
        | {"moa_dspy": mixture.version},
        "agents": {name: _agent(agent) for name, agent in _named(moa)},
        "fields": saved["signature"],
    }
    return _masked(to_jsonable(config), secret_values(*(lm for agent in moa.agents for lm in agent.lms)))


def params_of(config: Mapping[str, Any]) -> dict[str, str]:
    """The configuration as MLflow's parameters, `alice/temperature` for an agent's; what is too long is cut.

    Example:
        >>> params_of({"strategy": {"name": "voting"}, "agents": {"alice": {"model": "m", "temperature": 0.7}}})
        {'strategy': 'voting', 'alice/model': 'm', 'alice/temperature': '0.7'}
    """
    general = {name: value for name, value in config.items() if name not in ("agents", "fields")}
    agents = config.get("agents", {})
    names = metric_names(agents, taken=[name.partition("/")[0] for name, _ in _flat(general)])
    flat = [*_flat(general), *_flat({names[agent]: settings for agent, settings in agents.items()})]
    # What a reader looks for is `strategy`, not `strategy/name`.
    shown = [(path.removesuffix("/name"), value) for path, value in flat]
    valid = metric_names(path for path, _ in shown)
    return {valid[path]: _text(value) for path, value in shown}


def optimizer_params(optimizer: Any, inputs: Mapping[str, Any], group: str = "optimizer") -> dict[str, str]:
    """An optimizer's class, settings and what `compile` was given, as far as a parameter can say it.

    Models and functions are said by their names, examples by their number.
    """
    given = {**inputs, **inputs.get("kwargs", {})}
    settings = {name: _said(value) for name, value in {**optimizer.get_params(), **given}.items()}
    own = {name: value for name, value in settings.items() if not name.startswith("_") and name not in _NO_SETTINGS}
    kept, _ = without_secrets({name: value for name, value in own.items() if value not in (None, [], {})})
    return params_of(_masked({group: {"name": type(optimizer).__name__, **kept}}, secret_values()))


_NO_SETTINGS = frozenset({"kwargs", "student", "teacher"})


def _named(moa: MoA) -> Iterator[tuple[str, Agent]]:
    for number, panel in enumerate(moa.panels, start=1):
        for agent in panel.agents:
            # The layers ask the same models, unless somebody gave one of them another.
            if number == 1 or agent.lm is not getattr(moa.panels[0], agent.name).lm:
                yield agent.name if number == 1 else f"layer_{number}.{agent.name}", agent
    yield moa.aggregator.name, moa.aggregator


def _agent(agent: Agent) -> dict[str, Any]:
    saved = None if agent.lm is None else describe_lm(agent.lm)
    settings = {} if saved is None else {name: value for name, value in saved.entry.items() if name != "model"}
    for engine in ("engine", "async_engine"):
        if isinstance(settings.get(engine), Mapping):  # one of somebody's own: what its state holds is not for all eyes
            settings[engine] = settings[engine].get("class")
    inner = dict.fromkeys(lm.model for lm in agent.lms if lm is not agent.lm)
    return {
        **({} if agent.model is None else {"model": agent.model}),
        **settings,
        **({"left_out": saved.left_out} if saved is not None and saved.left_out else {}),
        **({"models": list(inner)} if inner else {}),
        **({"instructions": agent.instructions} if agent.instructions else {}),
        "program": type(agent.program).__name__,
    }


def _masked(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: _masked(item, secrets) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item, secrets) for item in value]
    return mask(value, secrets) if isinstance(value, str) else value


def _said(value: Any) -> Any:
    """A setting as a parameter can say it; None where it cannot."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dspy.BaseLM):
        return value.model
    if isinstance(value, Mapping):
        return {str(name): _said(item) for name, item in value.items()}
    if isinstance(value, Sequence):
        is_plain = all(isinstance(item, (bool, int, float, str)) for item in value)
        return list(value) if is_plain else f"{len(value)} items"
    if isinstance(value, (FunctionType, type)):
        return value.__name__
    return type(value).__name__ if type(value).__module__.startswith(("dspy.", "moa_dspy.")) else None


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and (value or not path):
        for name, item in value.items():
            yield from _flat(item, f"{path}/{name}" if path else str(name))
    else:
        yield path, value


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - len(_CUT)]}{_CUT}"


_CUT = " [... cut; whole in config.json]"
