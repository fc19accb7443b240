"""What a file says of a mixture: its config with its signature, and what has no place in a file."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import to_jsonable_python

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.config import SAVED
from moa_dspy.limits import Limits
from moa_dspy.lm_data import describe_lm
from moa_dspy.proposers import AGGREGATOR
from moa_dspy.rollouts import Rollout
from moa_dspy.router import RouterEngine
from moa_dspy.secrets import without_secrets
from moa_dspy.signature_data import describe_signature
from moa_dspy.strategies import STRATEGIES, Strategy

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["FORMAT", "SavedMixture", "agents_of", "describe_mixture", "take_settings"]

FORMAT = 2


class SavedMixture(BaseModel):
    """A mixture as it stands in a file.

    Attributes:
        format: The version of the format.
        version: The version of moa-dspy that wrote it.
        config: The data of a `MoAConfig`, with its `signature`.
        lms: Path of an agent -> its model's entry, where that is another one than the config's.
        rollouts: Path of an agent -> id and temperature of the sample that it was asked for.
        left_out: Path of an agent -> the settings of its LM that are not in the file: secrets, and what is no JSON.
        lost: Path of an agent -> why its LM cannot be made from the file.
        code: What no file can bring back: programs and strategies of the user's own, functions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: int
    version: str
    config: dict[str, Any]
    lms: dict[str, dict[str, Any]] = {}
    rollouts: dict[str, tuple[int, float | None]] = {}
    left_out: dict[str, list[str]] = {}
    lost: dict[str, str] = {}
    code: list[str] = []

    @classmethod
    def of(cls, state: Any) -> SavedMixture:
        """What DSPy's state holds of a mixture.

        Raises:
            ValueError: If it holds none, or one of a newer format.
        """
        found = state.get(SAVED) if isinstance(state, Mapping) else None
        if not isinstance(found, Mapping):
            around = [str(name).rpartition(".")[0] for name in state if str(name).endswith(f".{SAVED}")]
            if around:
                raise ValueError(
                    f"This is a program around a mixture ({around[0]}). Build it in code and use its own load()."
                )
            raise ValueError("This holds no mixture: MoA.save writes one.")
        if isinstance(found.get("format"), int) and found["format"] > FORMAT:
            raise ValueError(
                f"The mixture was saved in format {found['format']} (by moa-dspy {found.get('version')}), and this "
                f"version reads formats up to {FORMAT}. Upgrade moa-dspy, or save it again with this version."
            )
        try:
            return cls.model_validate(_upgraded(found) if found.get("format") == 1 else found)
        except (KeyError, TypeError, ValidationError) as error:
            problem = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": repr(error)}
            raise ValueError(
                f"This is no saved mixture: {'.'.join(map(str, (SAVED, *problem['loc'])))}: {problem['msg']}."
            ) from None

    def data(self) -> dict[str, Any]:
        """The mixture as JSON-able data, without what is not set."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def buildable(self) -> dict[str, Any]:
        """The data of the config from which the mixture is built.

        Raises:
            ValueError: If no file can bring back what it is made of.
        """
        if self.format == 1:
            raise ValueError(
                f"It was saved by moa-dspy {self.version}, in format 1. To convert it, build the mixture in code as it "
                "was, load() the file, and save() it again."
            )
        lost = [*self.code, *(f"the LM of {path} cannot be saved: {why}" for path, why in self.lost.items())]
        if lost:
            raise ValueError(
                f"No file can bring code back: {'; '.join(lost)}. Build the mixture in code and use load()."
            )
        return self.config

    def entry(self, path: str) -> dict[str, Any]:
        """The model's entry of the agent at this path; empty if it has none."""
        named = {entry["name"]: entry for entry in self.config["proposer_models"]}
        usual: dict[str, Any] = self.config.get(path + "_model") or named.get(path.rpartition(".")[2]) or {}
        return self.lms.get(path, usual)

    def differences(self, here: SavedMixture) -> list[str]:
        """In what this is another mixture than that of the program, in words."""
        return list(_differences(self, here))


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
    strategy, code = _describe_strategy(moa.strategy)
    proposers = []
    for agent in moa.panels[0].agents:
        if agent.name in moa.own_programs:
            path = f"{type(agent.program).__module__}:{type(agent.program).__qualname__}"
            code.append(f"agent {agent.name!r} runs a program of its own ({path})")
        entry = lms[f"proposers.{agent.name}"].entry if agent.lm is not None else {}
        told = {"instructions": agent.instructions} if agent.instructions else {}
        proposers.append({**entry, "name": agent.name, **told})
    engines: list[Any] = [getattr(agent.lm, "engine", None) for agent in agents.values()]
    routers = [engine.config for engine in engines if isinstance(engine, RouterEngine) and engine.config]
    if any(router != routers[0] for router in routers):
        code.append("its models are behind several routers")
    optional = {
        "aggregator_model": lms[AGGREGATOR].entry if AGGREGATOR in lms else None,
        "router": routers[0] if routers else None,
    }
    return SavedMixture(
        format=FORMAT,
        version=_version(),
        config={
            "signature": describe_signature(moa.signature),
            "proposer_models": proposers,
            "num_proposals_per_model": moa.panels[0].samples,
            "aggregation_strategy": strategy,
            "use_specialized_prompts": moa.use_specialized_prompts,
            "layers": len(moa.panels),
            "limits": moa.limits.model_dump(mode="json", exclude_none=True),
            **{name: value for name, value in optional.items() if value is not None},
        },
        lms={
            path: lm.entry
            for path, lm in lms.items()
            if path != AGGREGATOR and lm != lms.get(f"proposers.{path.rpartition('.')[2]}")
        },
        rollouts={path: (it.id, it.temperature) for path, agent in agents.items() if (it := agent._rollout)},
        left_out={path: lm.left_out for path, lm in lms.items() if lm.left_out},
        lost={path: lm.lost for path, lm in lms.items() if lm.lost},
        code=code,
    )


def take_settings(moa: MoA, saved: SavedMixture) -> None:
    """Take over what is learned or chosen: the strategy's options (with a vote's weights), samples, limits, rollouts.

    Raises:
        ValueError: If there are no such settings.
    """
    limits, strategy = Limits(**saved.config["limits"]), moa.strategy
    given = saved.config["aggregation_strategy"]
    options = {} if isinstance(given, str) else {name: value for name, value in given.items() if name != "name"}
    if unknown := sorted(options.keys() - {*_option_names(strategy)}):
        raise ValueError(f"The file has options that {strategy.name} does not know: {', '.join(unknown)}.")
    if type(strategy) in STRATEGIES.values():
        try:
            fresh: Any = type(strategy)(**options)  # which refuses what makes no sense
        except TypeError as error:
            raise ValueError(f"The options that the file has for {strategy.name} do not fit: {error}.") from None
        fresh.bind(moa.signature, moa.panels[0].names)
        options = {name: getattr(fresh, name) for name in _option_names(strategy)}
    for name, value in options.items():
        setattr(strategy, name, value)
    moa.limits = limits
    for panel in moa.panels:
        panel.limits, panel.samples = limits, saved.config["num_proposals_per_model"]
    for path, agent in agents_of(moa).items():
        agent._rollout = Rollout(*saved.rollouts[path]) if path in saved.rollouts else None


def _version() -> str:
    try:
        return importlib.metadata.version("moa-dspy")
    except importlib.metadata.PackageNotFoundError:  # a folder on the path
        return "unknown"


def _describe_strategy(strategy: Strategy) -> tuple[str | dict[str, Any], list[str]]:
    """The strategy with the options that are not its constructor's defaults, and what of it is code.

    Secrets are not in the file: in the program that it is loaded into, they stay as they are.
    """
    code, options = [], dict[str, Any]()
    if STRATEGIES.get(strategy.name) is not type(strategy):
        path = f"{type(strategy).__module__}:{type(strategy).__qualname__}"
        code.append(f"the strategy {strategy.name!r} is one of its own ({path})")
    kept, _ = without_secrets({name: getattr(strategy, name) for name in _option_names(strategy)})
    defaults = vars(type(strategy)()) if type(strategy) in STRATEGIES.values() else {}
    for name, value in kept.items():
        if name in defaults and value == defaults[name]:
            continue
        try:
            options[name] = to_jsonable_python(value, inf_nan_mode="null")
        except ValueError:
            code.append(f"the option {name} of {strategy.name} is code ({value!r:.100})")
    return {"name": strategy.name, **options} if options else strategy.name, code


def _option_names(strategy: Strategy) -> list[str]:
    parameters = inspect.signature(type(strategy).__init__).parameters
    return [name for name in parameters if name != "callbacks" and hasattr(strategy, name)]


def _upgraded(old: Mapping[str, Any]) -> dict[str, Any]:
    """What `load` needs of a mixture in format 1."""
    fields = {kind: {f["name"]: f.get("type", {}) for f in old["signature"][kind]} for kind in ("inputs", "outputs")}
    return {
        "format": 1,
        "version": old["version"],
        "code": [f"agent {p['name']!r} runs a program of its own" for p in old["proposers"] if "program" in p],
        "config": {
            "signature": {**fields, "instructions": old["signature"]["instructions"]},
            "proposer_models": [{"name": proposer["name"]} for proposer in old["proposers"]],
            "aggregation_strategy": {"name": old["strategy"]["name"], **old["strategy"].get("options", {})},
            **{name: old[name] for name in ("num_proposals_per_model", "use_specialized_prompts", "layers", "limits")},
        },
    }


def _differences(saved: SavedMixture, here: SavedMixture) -> Iterator[str]:
    for kind in ("inputs", "outputs"):
        fields = [{n: _type_of(f) for n, f in one.config["signature"][kind].items()} for one in (saved, here)]
        if fields[0].keys() != fields[1].keys() or (fields[0] != fields[1] and saved.format > 1):
            texts = [", ".join(f"{name}: {text}" for name, text in one.items()) for one in fields]
            yield f"its {kind} are ({texts[0]}) in the file and ({texts[1]}) here"
    names = [[entry["name"] for entry in one.config["proposer_models"]] for one in (saved, here)]
    if names[0] != names[1]:
        yield f"its proposers are {', '.join(names[0])} in the file and {', '.join(names[1])} here"
    own = [{text.partition(" (")[0] for text in one.code if text.startswith("agent ")} for one in (saved, here)]
    yield from (f"{text} in one of the two only" for text in sorted(own[0] ^ own[1]))
    for name in ("layers", "use_specialized_prompts"):
        if saved.config[name] != here.config[name]:
            yield f"{name} is {saved.config[name]} in the file and {here.config[name]} here"
    strategies = [one.config["aggregation_strategy"] for one in (saved, here)]
    named = [given if isinstance(given, str) else given["name"] for given in strategies]
    if named[0] != named[1]:
        yield f"the strategy is {named[0]} in the file and {named[1]} here"


def _type_of(field: Any) -> str:
    return field if isinstance(field, str) else str(field.get("type", "str"))
