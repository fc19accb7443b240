"""Saving and loading mixtures: a file is the mixture's config with its signature, and DSPy's own state.

A saved mixture is a JSON file of DSPy's: one entry per predictor, with its prompt and demos, and one of ours,
`moa_dspy`, from which the mixture is built (`SavedMixture`). Nothing that a file names is imported, and no address in
it is used, unless the caller says that it is trusted (`allow_unsafe_lm_state`). No secret is written.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import dspy
from dspy.predict.parameter import Parameter
from pydantic_core import to_jsonable_python
from typing_extensions import Self

from moa_dspy.agent import Agent
from moa_dspy.config import SAVED, MoAConfig, SavedMixture, as_config, is_saved, make_strategy, naming
from moa_dspy.describing import (
    agents_of,
    describe_mixture,
    distrust,
    find_differences,
    make_lm,
    take_settings,
    warn_of_missing,
    with_settings,
)
from moa_dspy.files import drafting, read_data
from moa_dspy.model_config import OF_SAVED, ModelConfig
from moa_dspy.router import as_engine
from moa_dspy.secrets import Keyless, without_secrets
from moa_dspy.signature_data import read_signature

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["Savable"]


class Savable(Keyless):
    """What a mixture can do with files and configs.

    Attributes:
        config_name: What its config calls it.
    """

    config_name: str | None = None

    @classmethod
    def from_config(
        cls, signature: str | type[dspy.Signature] | None, config: MoAConfig | str | Path, router: Any = None
    ) -> Self:
        """The mixture that a config describes, which is the caller's own: requests go to the addresses in it.

        Args:
            signature: The task's signature; None for the config's own.
            config: A `MoAConfig`, a preset's name, or the path of a file; of one that `save` wrote, with its prompts.
            router: A `litellm.Router` for models named `router/GROUP`, instead of the config's own.

        Raises:
            ValueError: If it does not make a mixture, or there is no signature.
        """
        if isinstance(config, MoAConfig) or not Path(config).suffix:
            return cls._build(as_config(config), signature=signature, router=router)
        return cls._read(config, trusts_addresses=True, signature=signature, router=router)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        signature: str | type[dspy.Signature] | None = None,
        custom_types: Mapping[str, type] | None = None,
        allow_unsafe_lm_state: bool = False,
    ) -> Self:
        """The mixture in a file: one that `save` wrote, or a config with a `signature`; keys come from the environment.

        Args:
            path: The file.
            signature: The task's signature, where its types are classes of your own.
            custom_types: These classes by name, instead of the signature.
            allow_unsafe_lm_state: Whether to trust the file: to send requests to its addresses (`api_base`) and to
                import the classes of LMs and engines that it names. Importing runs code.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: Naming the file, if it holds no mixture, one of another format, or one with programs of
                your own: build that in code and use `load`.

        Examples:
            ```python
            moa.save("moa.json")
            moa = MoA.from_file("moa.json")  # in another process
            ```
        """
        unsafe = allow_unsafe_lm_state
        given: dict[str, Any] = {"signature": signature, "custom_types": custom_types, "allow_unsafe_lm_state": unsafe}
        return cls._read(path, trusts_addresses=unsafe, **given)

    @classmethod
    def _read(cls, path: str | Path, *, trusts_addresses: bool, **given: Any) -> Self:
        data = read_data(path)
        with naming(path):
            if not is_saved(data):
                return cls._build(MoAConfig.model_validate(data), **given)
            saved = SavedMixture.of(data)
            if saved.config.get("router") and not trusts_addresses:
                raise ValueError(
                    "The file names a router, which could send your keys and your data anywhere. Pass "
                    "allow_unsafe_lm_state=True if you trust it."
                )
            saved = saved if trusts_addresses else distrust(saved)
            config = MoAConfig.model_validate(saved.buildable(), context=OF_SAVED)
            moa, unsafe = cls._build(config, **given), given.get("allow_unsafe_lm_state", False)
            for where, agent in agents_of(cast("MoA", moa)).items():
                warn_of_missing(saved, where)
                if where in saved.lms:
                    agent.lm = make_lm(saved, where, given.get("router") or config.router, unsafe)
            moa.load_state(data, allow_unsafe_lm_state=unsafe)
            return moa

    @classmethod
    def _build(
        cls,
        config: MoAConfig,
        signature: str | type[dspy.Signature] | None = None,
        router: Any = None,
        custom_types: Mapping[str, type] | None = None,
        allow_unsafe_lm_state: bool = False,
    ) -> Self:
        if signature is None and config.signature is None:
            raise ValueError(
                "The config names no signature, so there is nothing to ask. Add one, `signature: question -> "
                "answer`, or pass it."
            )
        router = config.router if router is None else router
        engine = None if router is None else as_engine(router)

        def agent(model: str | ModelConfig) -> Agent:
            entry = ModelConfig(model=model) if isinstance(model, str) else model
            lm = entry.lm(engine, allow_unsafe_lm_state=allow_unsafe_lm_state)
            return Agent(lm, name=entry.name, instructions=entry.instructions)

        made = cast(Any, cls)(
            read_signature(config.signature, custom_types) if signature is None and config.signature else signature,
            [agent(model) for model in config.proposer_models],
            None if config.aggregator_model is None else agent(config.aggregator_model),
            make_strategy(config.aggregation_strategy),
            num_proposals_per_model=config.num_proposals_per_model,
            use_specialized_prompts=config.use_specialized_prompts,
            layers=config.layers,
            limits=config.limits,
        )
        made.config_name = config.name
        return cast(Self, made)

    def save(
        self, path: str | Path, save_program: bool = False, modules_to_serialize: list[ModuleType] | None = None
    ) -> None:
        """Save the mixture; see `dspy.Module.save`. No secret is written, and no code.

        `from_file` reads a JSON file without the code that built the mixture, unless agents run programs or the
        strategy is one of your own: then build it and use `load`. If saving fails, a file that is there stays.

        Raises:
            FileNotFoundError: If there is no such folder.
            RuntimeError: If something in it has no place in such a file.
        """
        target = Path(path).resolve()
        if save_program or target.suffix not in (".json", ".pkl"):
            super().save(path, save_program=save_program, modules_to_serialize=modules_to_serialize)
            return
        written, parts = {id(part) for part in self.parameters()}, cast(Any, self).named_sub_modules(dspy.Predict)
        if frozen := [name.removeprefix("self.") for name, part in parts if id(part) not in written]:
            warnings.warn(
                f"{path} lacks the prompts and demos of {', '.join(frozen)}: DSPy freezes what was compiled before it "
                "became a part, and does not save it. Set its `_compiled` to False, or use save_program=True.",
                stacklevel=2,
            )
        with drafting(target) as draft:
            super().save(draft)

    def load(self, path: str | Path, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False) -> None:
        """Load what was saved of a mixture of the same shape; see `dspy.Module.load`.

        Where the file has the same model as this program, the program's own LM stays, with its key, and takes the
        file's settings.

        Raises:
            ValueError: Naming the file and the differences, if it holds another mixture; nothing is changed then.
        """
        with naming(path):
            if Path(path).suffix == ".json":
                SavedMixture.of(read_data(path))  # which says what is wrong, where DSPy would fail
            super().load(path, allow_pickle=allow_pickle, allow_unsafe_lm_state=allow_unsafe_lm_state)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's state without secrets, its demos as strict JSON."""
        return {
            name: describe_mixture(part.moa).data()
            if isinstance(part, MixtureParameter)
            else _dump_predictor(part, json_mode)
            for name, part in self.named_parameters()
        }

    def load_state(self, state: Mapping[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Load what `dump_state` gave of a mixture of the same shape."""
        MixtureParameter(cast("MoA", self)).check(SavedMixture.of(state))
        parts = {name: part for name, part in state.items() if name != "metadata"}
        if others := sorted({name for name, _ in self.named_parameters()} ^ {*parts}):
            raise ValueError(
                f"Of the file and this program, only one has {', '.join(others)}, and nothing was loaded. Build the "
                "program as the file has it."
            )
        kept = {}
        for name, predictor in self.named_predictors():
            lm, saved = predictor.lm, parts[name].get("lm") or {}
            if lm is not None and saved.get("model") == lm.model:
                kept[name] = with_settings(lm, saved, allow_unsafe_lm_state)
                parts[name] = {**parts[name], "lm": None}
        super().load_state(parts, allow_unsafe_lm_state=allow_unsafe_lm_state)
        for name, predictor in self.named_predictors():
            predictor.lm = kept.get(name, predictor.lm)

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Those of the agents, and the mixture's settings: DSPy saves and loads them with any program."""
        return [(SAVED, MixtureParameter(cast("MoA", self))), *super().named_parameters()]


class MixtureParameter(dspy.Module, Parameter):
    """A mixture's models and settings, as DSPy's own machinery saves and loads them: a view, made when DSPy asks.

    It is a module, as DSPy tells only modules whether a file is trusted; it takes no LM from `set_lm`, and says for
    `get_lm` what the predictors say.
    """

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.moa = moa

    @property
    def lm(self) -> dspy.BaseLM | None:
        return next((predictor.lm for predictor in self.moa.predictors()), None)

    @lm.setter
    def lm(self, lm: dspy.BaseLM | None) -> None:
        pass

    def reset(self) -> None:
        """Nothing: a reset copy of a program answers with the same models, samples and weights."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The settings, as a program around the mixture asks for them."""
        for name, part in self.moa.named_predictors():
            if part.lm is not None and (found := without_secrets(part.lm.dump_state(), part.lm)[1]):
                raise ValueError(
                    f"Saved with the program around it, the mixture would tell secrets: DSPy writes the LM of {name} "
                    f"as it is, with {', '.join(found)}. Give the LM to the agent, as in Agent(lm, program), or save "
                    "the mixture by its own save()."
                )
        return describe_mixture(self.moa).data()

    def check(self, saved: SavedMixture) -> None:
        """Refuse what was saved of a mixture of another shape."""
        if different := find_differences(saved, describe_mixture(self.moa)):
            raise ValueError(
                f"The file holds another mixture than this program, and nothing was loaded: {'; '.join(different)}. "
                "Build the program as the file has it, or let MoA.from_file build it."
            )

    def load_state(self, state: Any, *, allow_unsafe_lm_state: bool = False) -> None:
        """Take the settings over, and the LMs that are not the program's already."""
        saved, unsafe = SavedMixture.of({SAVED: state}), allow_unsafe_lm_state
        self.check(saved)
        take_settings(self.moa, saved)
        saved = saved if unsafe else distrust(saved)
        for path, agent in agents_of(self.moa).items():
            model = saved.entry(path).get("model")
            if model is None:
                agent.lm = None
            elif agent.lm is None or agent.lm.model != model:
                if (why := saved.code.get(f"the LM of {path}")) is not None:
                    raise ValueError(f"The LM of {path} ({model}) is not in the file: it {why}")
                warn_of_missing(saved, path)
                agent.lm = make_lm(saved, path, saved.config.get("router"), unsafe)
            else:
                agent.lm = with_settings(agent.lm, saved.entry(path), unsafe)


def _dump_predictor(predictor: Any, json_mode: bool) -> dict[str, Any]:
    state: dict[str, Any] = predictor.dump_state(json_mode=json_mode)
    if state.get("lm"):
        state["lm"] = without_secrets(state["lm"], predictor.lm)[0]
    if json_mode:
        state |= {name: _as_json(state[name]) for name in ("traces", "train", "demos") if name in state}
    return state


def _as_json(value: Any) -> Any:
    """The value as a file can hold it: what has no JSON form is text, as in DSPy's prompts."""

    def short(digits: str) -> int | str:
        return int(digits) if -(2**63) <= int(digits) < 2**64 else digits

    return json.loads(json.dumps(to_jsonable_python(value, by_alias=False, fallback=str)), parse_int=short)
