"""A mixture as it stands in a file: described, compared, and its settings taken over."""

from __future__ import annotations

import importlib.metadata
import inspect
from typing import TYPE_CHECKING, Any

from pydantic_core import to_jsonable_python

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.certainty import Calibration
from moa_dspy.config import make_strategy
from moa_dspy.limits import Limits
from moa_dspy.proposers import AGGREGATOR
from moa_dspy.router import RouterEngine
from moa_dspy.saved_mixture import FORMAT, SavedMixture
from moa_dspy.saving.lms import describe_lm
from moa_dspy.secrets import without_secrets
from moa_dspy.signature_data import describe_signature
from moa_dspy.strategies import BY_NAME, Strategy

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["agents_of", "describe_mixture", "find_differences", "take_settings"]


def agents_of(moa: MoA) -> dict[str, Agent]:
    """The agents by their paths in the program."""
    panels = zip(moa.panel_names, moa.panels, strict=True)
    found = {f"{name}.{agent.name}": agent for name, panel in panels for agent in panel.agents}
    return {**found, AGGREGATOR: moa.aggregator}


def describe_mixture(moa: MoA) -> SavedMixture:
    """The mixture as it stands in a file; what was put into its predictors is taken over first."""
    adopt_lms(moa.agents)
    agents = agents_of(moa)
    lms = {path: describe_lm(agent.lm) for path, agent in agents.items() if agent.lm is not None}
    entries = {path: lm.entry for path, lm in lms.items()}
    strategy, code = _describe_strategy(moa.strategy)
    code |= {f"the LM of {path}": f"cannot be saved: {lm.lost}" for path, lm in lms.items() if lm.lost}
    proposers = []
    for agent in moa.panels[0].agents:
        if agent.name in moa.own_programs:
            code[f"agent {agent.name!r}"] = f"runs a program of its own ({_class_path(agent.program)})"
        told = {"instructions": agent.instructions} if agent.instructions else {}
        proposers.append({**entries.get(f"proposers.{agent.name}", {}), "name": agent.name, **told})
    engines: list[Any] = [getattr(agent.lm, "engine", None) for agent in agents.values()]
    routers = [engine.config for engine in engines if isinstance(engine, RouterEngine) and engine.config]
    if any(router != routers[0] for router in routers):
        code["the router"] = "is one of several"
    return SavedMixture(
        format=FORMAT,
        version=_version(),
        config={
            **({"name": moa.config_name} if moa.config_name else {}),
            "signature": describe_signature(moa.signature),
            "proposer_models": proposers,
            **({"aggregator_model": entries[AGGREGATOR]} if AGGREGATOR in entries else {}),
            "num_proposals_per_model": moa.panels[0].samples,
            "aggregation_strategy": strategy,
            "use_specialized_prompts": moa.use_specialized_prompts,
            "layers": len(moa.panels),
            "limits": moa.limits.model_dump(mode="json", exclude_none=True),
            **({"router": routers[0]} if routers else {}),
        },
        lms={
            path: entry
            for path, entry in entries.items()
            if path != AGGREGATOR and entry != entries.get(f"proposers.{path.rpartition('.')[2]}")
        },
        left_out={path: lm.left_out for path, lm in lms.items() if lm.left_out},
        calibration=None if moa.calibration is None else moa.calibration.model_dump(),
        code=code,
    )


def find_differences(saved: SavedMixture, here: SavedMixture) -> list[str]:
    """In what two mixtures have different shapes, in words."""
    pairs = zip(_shape(saved).items(), _shape(here).values(), strict=True)
    return [f"{what} {there} in the file and {mine} here" for (what, there), mine in pairs if there != mine]


def take_settings(moa: MoA, saved: SavedMixture) -> None:
    """Take over what is learned or chosen: the strategy's options and weights, samples, limits, the calibration."""
    limits, strategy, given = Limits(**saved.config["limits"]), moa.strategy, saved.config["aggregation_strategy"]
    calibration = None if saved.calibration is None else Calibration.model_validate(saved.calibration)
    if type(strategy) in BY_NAME.values():
        fresh = make_strategy(given)  # which refuses what makes no sense
        fresh.bind(moa.signature, moa.panels[0].names)
        _take_options(strategy, fresh)
    elif not isinstance(given, str):
        for name in given.keys() - {"name"}:
            setattr(strategy, name, given[name])
    moa.limits, moa.calibration = limits, calibration
    for panel in moa.panels:
        panel.limits, panel.samples = limits, saved.config["num_proposals_per_model"]


def _take_options(strategy: Strategy, fresh: Strategy) -> None:
    for name in _option_names(strategy):
        mine, value = getattr(strategy, name), getattr(fresh, name)
        if isinstance(mine, Strategy):
            _take_options(mine, value)
        elif name != "verifiers":  # code, which the program has
            setattr(strategy, name, value)


def _shape(saved: SavedMixture) -> dict[str, Any]:
    """What must be the same in a file and the program that loads it, by what is said of it."""
    config, strategy = saved.config, saved.config["aggregation_strategy"]
    types = {
        kind: [f"{name}: {field if isinstance(field, str) else field.get('type', 'str')}" for name, field in of.items()]
        for kind, of in config["signature"].items()
        if kind in ("inputs", "outputs")
    }
    return {
        "its inputs are": f"({', '.join(types['inputs'])})",
        "its outputs are": f"({', '.join(types['outputs'])})",
        "its proposers are": ", ".join(entry["name"] for entry in config["proposer_models"]),
        "with a program of its own there is": ", ".join(w for w in saved.code if w.startswith("agent ")) or "none",
        "layers is": config["layers"],
        "use_specialized_prompts is": config["use_specialized_prompts"],
        "the strategy is": _named(strategy),
    }


def _named(strategy: str | dict[str, Any]) -> str:
    if isinstance(strategy, str):
        return strategy
    return strategy["name"] + (f" of {_named(strategy['draft'])}" if "draft" in strategy else "")


def _describe_strategy(strategy: Strategy) -> tuple[str | dict[str, Any], dict[str, str]]:
    """The strategy with the options that are not its constructor's defaults, and what of it is code.

    Secrets are not in the file: in the program that it is loaded into, they stay as they are.
    """
    code, options, defaults = dict[str, str](), dict[str, Any](), dict[str, Any]()
    if type(strategy) in BY_NAME.values():
        fresh = type(strategy)()
        defaults = {name: getattr(fresh, name) for name in _option_names(fresh)}
    else:
        code[f"the strategy {strategy.name!r}"] = f"is one of its own ({_class_path(strategy)})"
    kept, _ = without_secrets({name: getattr(strategy, name) for name in _option_names(strategy)})
    for name, value in kept.items():
        if isinstance(value, Strategy):
            options[name], more = _describe_strategy(value)
            code |= more
        elif name not in defaults or value != defaults[name]:
            try:
                options[name] = to_jsonable_python(value, inf_nan_mode="null")
            except ValueError:
                code[f"the option {name} of {strategy.name}"] = f"is code ({value!r:.100})"
    return {"name": strategy.name, **options} if options else strategy.name, code


def _option_names(strategy: Strategy) -> list[str]:
    parameters = inspect.signature(type(strategy).__init__).parameters
    return [name for name in parameters if name != "callbacks" and hasattr(strategy, name)]


def _class_path(value: object) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _version() -> str:
    try:
        return importlib.metadata.version("moa-dspy")
    except importlib.metadata.PackageNotFoundError:  # a folder on the path
        return "unknown"
