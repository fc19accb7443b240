"""A mixture as it stands in a file: its models without their secrets, its strategy, its settings."""

from __future__ import annotations

import importlib.metadata
import inspect
import json
import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.certainty import Calibration
from moa_dspy.config import FORMAT, SavedMixture, make_strategy
from moa_dspy.limits import Limits, give_limits
from moa_dspy.model_config import OF_SAVED, ModelConfig
from moa_dspy.models import as_lm
from moa_dspy.proposers import AGGREGATOR
from moa_dspy.router import PREFIX, RouterEngine, as_engine, router_lm
from moa_dspy.secrets import is_secret, redact, without_secrets
from moa_dspy.signature_data import describe_signature
from moa_dspy.strategies import BY_NAME, Strategy

if TYPE_CHECKING:
    from moa_dspy.moa import MoA


def agents_of(moa: MoA) -> dict[str, Agent]:
    """The agents by their paths in the program."""
    panels = zip(moa.panel_names, moa.panels, strict=True)
    found = {f"{name}.{agent.name}": agent for name, panel in panels for agent in panel.agents}
    return {**found, AGGREGATOR: moa.aggregator}


def describe_mixture(moa: MoA) -> SavedMixture:
    """The mixture as it stands in a file; what was put into its predictors is taken over first."""
    adopt_lms(moa.agents)
    strategy, code = _describe_strategy(moa.strategy)
    lms: dict[str, dict[str, Any]] = {}
    left_out: dict[str, list[str]] = {}
    routers: list[dict[str, Any]] = []
    for path, agent in agents_of(moa).items():
        if agent.lm is not None:
            lms[path], left_out[path], lost = describe_lm(agent.lm)
            code |= {f"the LM of {path}": f"cannot be saved: {lost}"} if lost else {}
            engine = getattr(agent.lm, "engine", None)
            routers += [engine.config] if isinstance(engine, RouterEngine) and engine.config else []
    if any(router != routers[0] for router in routers):
        code["the router"] = "is one of several"
    first = moa.panels[0]
    for name in moa.own_programs:
        [program] = [agent.program for agent in first.agents if agent.name == name]
        code[f"agent {name!r}"] = f"runs a program of its own ({_class_path(program)})"
    usual = {agent.name: lms.get(f"proposers.{agent.name}", {}) for agent in first.agents}
    told = {agent.name: {"instructions": agent.instructions} if agent.instructions else {} for agent in first.agents}
    config = {
        "name": moa.config_name,
        "signature": describe_signature(moa.signature),
        "proposer_models": [{**entry, "name": name, **told[name]} for name, entry in usual.items()],
        "aggregator_model": lms.pop(AGGREGATOR, None),
        "num_proposals_per_model": first.samples,
        "aggregation_strategy": strategy,
        "use_specialized_prompts": moa.use_specialized_prompts,
        "layers": len(moa.panels),
        "limits": moa.limits.model_dump(mode="json", exclude_none=True),
        "router": routers[0] if routers else None,
    }
    return SavedMixture(
        format=FORMAT,
        version=_version(),
        config={name: value for name, value in config.items() if value is not None},
        lms={path: entry for path, entry in lms.items() if entry != usual[path.rpartition(".")[2]]},
        left_out={path: names for path, names in left_out.items() if names},
        calibration=None if moa.calibration is None else moa.calibration.model_dump(),
        code=code,
    )


def find_differences(saved: SavedMixture, here: SavedMixture) -> list[str]:
    """In what two mixtures have different shapes, in words."""
    pairs = zip(_shape(saved).items(), _shape(here).values(), strict=True)
    return [f"{what} {there} in the file and {mine} here" for (what, there), mine in pairs if there != mine]


def _shape(saved: SavedMixture) -> dict[str, Any]:
    config, strategy = saved.config, saved.config["aggregation_strategy"]

    def fields(kind: str) -> str:
        types = {n: f if isinstance(f, str) else f.get("type", "str") for n, f in config["signature"][kind].items()}
        return f"({', '.join(f'{name}: {text}' for name, text in types.items())})"

    return {
        "its inputs are": fields("inputs"),
        "its outputs are": fields("outputs"),
        "its proposers are": ", ".join(entry["name"] for entry in config["proposer_models"]),
        "with a program of its own there is": ", ".join(w for w in saved.code if w.startswith("agent ")) or "none",
        "layers is": config["layers"],
        "use_specialized_prompts is": config["use_specialized_prompts"],
        "the strategy is": " of ".join(_names_of(strategy)),
    }


def _names_of(strategy: str | dict[str, Any]) -> list[str]:
    if isinstance(strategy, str):
        return [strategy]
    return [strategy["name"], *(_names_of(strategy["draft"]) if "draft" in strategy else ())]


def take_settings(moa: MoA, saved: SavedMixture) -> None:
    """Take over what is learned or chosen: the strategy's options and weights, samples, limits, the calibration."""
    limits, strategy, given = Limits(**saved.config["limits"]), moa.strategy, saved.config["aggregation_strategy"]
    calibration = None if saved.calibration is None else Calibration.model_validate(saved.calibration)
    if type(strategy) in BY_NAME.values():
        fresh = make_strategy(given)  # which refuses what makes no sense
        fresh.bind(moa.signature, moa.panels[0].names)
        _take_options(strategy, {name: getattr(fresh, name) for name in _option_names(fresh)})
    elif not isinstance(given, str):
        _take_options(strategy, {name: value for name, value in given.items() if name != "name"})
    moa.calibration = calibration
    give_limits(moa, limits)
    for panel in moa.panels:
        panel.samples = saved.config["num_proposals_per_model"]


def _take_options(strategy: Strategy, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, Strategy):
            _take_options(getattr(strategy, name), {name: getattr(value, name) for name in _option_names(value)})
        elif name != "verifiers":  # code, which the program has
            setattr(strategy, name, value)


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
    with suppress(importlib.metadata.PackageNotFoundError):  # a folder on the path
        return importlib.metadata.version("moa-dspy")
    return "unknown"


# LMs as entries of a config.


def describe_lm(lm: dspy.BaseLM) -> tuple[dict[str, Any], list[str], str | None]:
    """What `ModelConfig` takes of an LM, what of it is not in there, and why it cannot be made of it, if it cannot.

    A key that an environment variable holds is named by that variable; other secrets, and what is no JSON, are left
    out.

    Examples:
        >>> describe_lm(dspy.LM("openai/gpt-4o", api_key="k", user="me"))
        ({'model': 'openai/gpt-4o', 'user': 'me'}, ['api_key'], None)
    """
    entry: dict[str, Any] = {"model": lm.model}
    if prices := getattr(lm, "prices", None):
        entry["prices"] = prices.model_dump()
    try:
        state = lm.dump_state()
    except Exception as error:  # an engine of somebody's own that cannot be saved, for whatever reason
        return entry, [], redact(str(error), lm)
    usual: Mapping[str, Any] = {}  # the state of an LM that is made by the name alone
    engine: Any = getattr(lm, "engine", None)
    with suppress(Exception):  # there is none of that name
        usual = (router_lm(lm.model, engine) if lm.model.startswith(PREFIX) else as_lm(lm.model)).dump_state()
    settings = {name: value for name, value in state.items() if value != usual.get(name)}
    # What no name and option makes is saved as DSPy's own state.
    objects = [settings.get(name) for name in ("engine", "async_engine", "prompt_cache")]
    is_own = "_dspy_lm_class" in settings or any(isinstance(value, dict) for value in objects)
    settings = {**(state if is_own else settings), "api_key": getattr(lm, "kwargs", {}).get("api_key")}
    kept, secret = without_secrets(_name_keys(settings), lm)
    kept = {name: value for name, value in kept.items() if value not in (None, {})}
    data = {name: value for name, value in kept.items() if _is_json(value)}
    return {**entry, **({"lm_state": data} if is_own else data)}, sorted({*secret, *kept} - {*data}), None


def make_lm(saved: SavedMixture, path: str, router: Any = None, unsafe: bool = False) -> dspy.BaseLM:
    """The LM of a saved agent."""
    engine = None if router is None else as_engine(router)
    return ModelConfig.model_validate(saved.entry(path), context=OF_SAVED).lm(engine, allow_unsafe_lm_state=unsafe)


def with_settings(lm: dspy.BaseLM, saved: Mapping[str, Any], trusted: bool) -> dspy.BaseLM:
    """The program's LM, with its key and its connections, and what the file says of its settings; itself if the same.

    Args:
        lm: The program's, of the same model.
        saved: The LM's entry in the file, or its state.
        trusted: Whether the file may say where requests go.
    """
    try:
        state = lm.dump_state()
    except Exception:  # an engine of somebody's own that cannot be saved: the file has no settings of it
        return lm
    here, _ = without_secrets(_name_keys(state), lm)
    told = {**saved, **saved.get("lm_state", {})}
    kept = {"instructions", "lm_state", "model", "name", "prices", *filter(is_secret, told)}
    kept |= {"_dspy_lm_class", "async_engine", "engine", "prompt_cache"}  # objects, which only the program has
    kept |= set() if trusted else _addresses(told)
    changed = {
        name: {**state[name], **value} if isinstance(value, dict) and isinstance(state.get(name), dict) else value
        for name, value in told.items()
        if name not in kept and value != here.get(name) and "os.environ/" not in json.dumps(value, default=str)
    }
    return lm.copy(**changed) if changed else lm


def warn_of_missing(saved: SavedMixture, path: str) -> None:
    """Say what an agent's LM is made without; a missing key is told at the first call."""
    if missing := ", ".join(name for name in saved.left_out.get(path, ()) if name != "api_key"):
        warnings.warn(
            f"From the file, the LM of {path} is made without {missing}: secrets are in no file, and addresses, where "
            "your keys and data go, are taken only from one that you trust (allow_unsafe_lm_state=True). What the "
            "environment does not give, give in code: set the agent's `.lm`.",
            stacklevel=5,
        )


def distrust(saved: SavedMixture) -> SavedMixture:
    """What was saved, without what says where requests go and the keys that would go there: they are left out."""
    left_out = dict(saved.left_out)

    def strip(path: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        if dropped := _addresses(entry):
            left_out[path] = sorted({*left_out.get(path, ()), *dropped})
        return {name: value for name, value in entry.items() if name not in dropped}

    config = {name: value for name, value in saved.config.items() if name != "router"}
    config["proposer_models"] = [strip(f"proposers.{entry['name']}", entry) for entry in config["proposer_models"]]
    if judge := config.get("aggregator_model"):
        config["aggregator_model"] = strip(AGGREGATOR, judge)
    lms = {path: strip(path, entry) for path, entry in saved.lms.items()}
    return saved.model_copy(update={"config": config, "lms": lms, "left_out": left_out})


# A key that says where requests go: as DSPy, we take such only from files that are trusted.
_ADDRESS = re.compile(r'"[^"]*(api_base|base_url|_url|endpoint|proxy|model_list)[^"]*": ', re.IGNORECASE)


def _addresses(entry: Mapping[str, Any]) -> set[str]:
    told = {name: value for name, value in entry.items() if name not in ("instructions", "model", "name")}
    found = {name for name, value in told.items() if _ADDRESS.search(json.dumps({name: value}, default=str))}
    return found | set(filter(is_secret, entry)) if found else found  # the key of an address goes to no other


def _name_keys(settings: Any, named: bool = False) -> Any:
    """The settings with the names of the environment variables that hold their keys."""
    if isinstance(settings, Mapping):
        return {name: _name_keys(value, named or is_secret(name)) for name, value in settings.items()}
    if not named or not isinstance(settings, str):
        return settings
    scheme, space, key = settings.rpartition(" ")
    holders = sorted(name for name, value in os.environ.items() if value == key and is_secret(name))
    return f"{scheme}{space}os.environ/{holders[0]}" if holders else settings


def _is_json(value: Any) -> bool:
    with suppress(TypeError, ValueError):
        json.dumps(value, allow_nan=False)
        return True
    return False
