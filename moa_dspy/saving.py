"""Saving and loading mixtures: a file is the mixture's config with its signature, and DSPy's state.

A saved mixture is a JSON file of DSPy's: one entry per predictor, with its prompt and demos, and one of ours,
`moa_dspy`, from which the mixture is built (`SavedMixture`). Nothing that a file names is imported, and no address in
it is used, unless the caller says that it is trusted (`allow_unsafe_lm_state`). No secret is written.
"""

from __future__ import annotations

import json
import os
import tempfile
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
from moa_dspy.config import OF_SAVED, SAVED, MoAConfig, ModelConfig, as_config, naming
from moa_dspy.files import drafting, read_data
from moa_dspy.lm_data import describe_lm, is_same, without_addresses
from moa_dspy.router import as_engine
from moa_dspy.saved_mixture import SavedMixture, agents_of, describe_mixture, take_settings
from moa_dspy.secrets import Keyless, without_secrets
from moa_dspy.signature_data import read_signature
from moa_dspy.values import validated

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["Savable"]


class Savable(Keyless):
    """What a mixture can do with files and configs."""

    @classmethod
    def from_config(
        cls, signature: str | type[dspy.Signature] | None, config: MoAConfig | str | Path, router: Any = None
    ) -> Self:
        """The mixture that a config describes; of a file that `save` wrote, the mixture with its prompts and demos.

        A config is the caller's own: requests go to the addresses in it.

        Args:
            signature: The task's signature; None for the config's own.
            config: What to build: a `MoAConfig`, a preset's name, or the path of a file.
            router: A `litellm.Router` for models named `router/GROUP`, instead of the config's own.

        Raises:
            ValueError: If it does not make a mixture, or there is no signature.
        """
        if isinstance(config, MoAConfig):
            return cls._build(config, signature, router=router)
        with naming(config):
            data = read_data(config) if Path(config).suffix == ".json" else {}
            if SAVED in data:
                return cls._restore(data, signature, router=router, trusts_addresses=True)
            return cls._build(as_config(config), signature, router=router)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        signature: str | type[dspy.Signature] | None = None,
        custom_types: Mapping[str, type] | None = None,
        allow_unsafe_lm_state: bool = False,
    ) -> Self:
        """The mixture in a file: one that `save` wrote, or a config that has a `signature`.

        Keys come from the environment: the file holds no secrets.

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

        Example:
            ```python
            moa.save("moa.json")
            moa = MoA.from_file("moa.json")  # in another process
            ```
        """
        data, unsafe = read_data(path), allow_unsafe_lm_state
        if SAVED not in data and {"proposers", "proposer_models"} & data.keys():
            config = MoAConfig.load(path)
            with naming(path):
                return cls._build(config, signature, custom_types, allow_unsafe_lm_state=unsafe)
        with naming(path):
            return cls._restore(
                data, signature, custom_types, trusts_addresses=unsafe, allow_unsafe_lm_state=allow_unsafe_lm_state
            )

    @classmethod
    def _build(
        cls,
        config: MoAConfig,
        signature: str | type[dspy.Signature] | None,
        custom_types: Mapping[str, type] | None = None,
        *,
        router: Any = None,
        allow_unsafe_lm_state: bool = False,
    ) -> Self:
        if signature is None:
            if config.signature is None:
                raise ValueError(
                    "The config names no signature, so there is nothing to ask. Add one, `signature: question -> "
                    "answer`, or pass it."
                )
            signature = read_signature(config.signature, custom_types)
        return cls(**config.arguments(router, signature, allow_unsafe_lm_state=allow_unsafe_lm_state))

    @classmethod
    def _restore(
        cls,
        state: Mapping[str, Any],
        signature: str | type[dspy.Signature] | None,
        custom_types: Mapping[str, type] | None = None,
        *,
        router: Any = None,
        trusts_addresses: bool,
        allow_unsafe_lm_state: bool = False,
    ) -> Self:
        saved, unsafe = SavedMixture.of(state), allow_unsafe_lm_state
        data = saved.buildable() if trusts_addresses else without_trust(saved.buildable())
        config = MoAConfig.model_validate(data, context=OF_SAVED)
        moa = cls._build(config, signature, custom_types, router=router, allow_unsafe_lm_state=unsafe)
        if trusts_addresses:
            for path, entry in saved.lms.items():
                agents_of(cast("MoA", moa))[path].lm = make_lm(entry, router or config.router, unsafe)
        for path, names in saved.left_out.items():
            # A missing key is told at the first call, if the environment does not have it either.
            if missing := [name for name in names if name != "api_key"]:
                warnings.warn(
                    f"The file holds no secrets: the LM of {path} is made without {', '.join(missing)}. What the "
                    "environment does not give, give in code: set the agent's `.lm`.",
                    stacklevel=4,
                )
        moa.load_state(state, allow_unsafe_lm_state=unsafe)
        return moa

    def save(
        self, path: str | Path, save_program: bool = False, modules_to_serialize: list[ModuleType] | None = None
    ) -> None:
        """Save the mixture; see `dspy.Module.save`. No secret is written, and no code.

        `from_file` reads a JSON file without the code that built the mixture, unless agents run programs or the
        strategy is one of your own: then build it and use `load`. A file that is there already stays as it is if
        saving fails.

        Raises:
            FileNotFoundError: If there is no such folder.
            RuntimeError: If something in it has no place in such a file.
        """
        target = Path(path).resolve()
        if save_program or target.suffix not in (".json", ".pkl"):
            super().save(path, save_program=save_program, modules_to_serialize=modules_to_serialize)
            return
        if frozen := self._frozen():
            warnings.warn(
                f"{path} lacks the prompts and demos of {', '.join(frozen)}: DSPy freezes what was compiled before it "
                "became a part, and does not save it. Set its `_compiled` to False, or use save_program=True.",
                stacklevel=2,
            )
        with drafting(target) as draft:
            super().save(draft)
            os.replace(draft, target)

    def check_savable(self, path: str | Path = "moa.json") -> None:
        """Raise what `save` would raise, and leave nothing behind: to know it before a compile is paid for.

        Args:
            path: Where the mixture will be saved; a folder for `save_program=True`.
        """
        target = Path(path).resolve()
        if target.suffix in (".json", ".pkl"):
            with drafting(target) as draft:
                super().save(draft)
        else:
            with tempfile.TemporaryDirectory() as folder:
                super().save(Path(folder, "program"), save_program=True)

    def load(self, path: str | Path, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False) -> None:
        """Load what was saved of a mixture of the same shape; see `dspy.Module.load`.

        Where the file has the same LM as this program, the program's own stays, with its key and its connections.

        Raises:
            ValueError: Naming the file and the differences, if it holds another mixture; nothing is changed then.
        """
        if Path(path).suffix == ".json":
            data = read_data(path)
            with naming(path):
                SavedMixture.of(data)
        with naming(path):
            super().load(path, allow_pickle=allow_pickle, allow_unsafe_lm_state=allow_unsafe_lm_state)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's state without secrets, its demos as strict JSON."""
        return {name: _dump_part(part, json_mode) for name, part in self.named_parameters()}

    def load_state(self, state: Mapping[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Load what `dump_state` gave of a mixture of the same shape."""
        saved = SavedMixture.of(state)
        view = _Mixture(cast("MoA", self))
        view.check(saved)
        predictors = dict(self.named_predictors())
        parts = {name: part for name, part in state.items() if name == SAVED or not name.endswith(".bound")}
        names = [name for name, _ in self.named_parameters()]
        only_file = [name for name in parts if name not in (*names, "metadata") and saved.format > 1]
        if only_here := [name for name in names if name not in parts] or only_file:
            raise ValueError(
                "The file holds other predictors than this program, and nothing was loaded: "
                f"{', '.join(only_here)} {'in the file' if only_here is only_file else 'here'} alone."
            )
        kept = {
            name: part.lm for name, part in predictors.items() if _keeps_lm(part, parts[name], allow_unsafe_lm_state)
        }
        for name, predictor in predictors.items():
            parts[name] = _read_part(parts[name], predictor, name in kept, name)
        super().load_state(parts, allow_unsafe_lm_state=allow_unsafe_lm_state)
        for name, lm in kept.items():
            predictors[name].lm = lm

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Those of the agents, and the mixture's settings: DSPy saves and loads them with any program."""
        return [(SAVED, _Mixture(cast("MoA", self))), *super().named_parameters()]

    def _frozen(self) -> list[str]:
        """The predictors that DSPy leaves out of the state."""
        saved = {id(part) for part in self.parameters()}
        parts: Any = self.named_sub_modules(dspy.Predict)
        return [name.removeprefix("self.") for name, part in parts if id(part) not in saved]


class _Mixture(dspy.Module, Parameter):
    """A mixture's models and settings, as DSPy's own machinery saves and loads them.

    A view: made when DSPy asks for the parameters, it holds nothing itself. It is a module, as DSPy tells only
    modules whether a file is trusted; it takes no LM from `set_lm`, and says for `get_lm` what the predictors say.
    """

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.moa = moa

    @property
    def lm(self) -> dspy.BaseLM | None:
        return self.moa.predictors()[0].lm

    @lm.setter
    def lm(self, lm: dspy.BaseLM | None) -> None:
        pass

    def reset(self) -> None:
        """Nothing: a reset copy of a program answers with the same models, samples and weights."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The settings, as a program around the mixture asks for them.

        Raises:
            ValueError: If DSPy would go on to write secrets.
        """
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
        if different := saved.differences(describe_mixture(self.moa)):
            raise ValueError(
                f"The file holds another mixture than this program, and nothing was loaded: {'; '.join(different)}. "
                "Build the program as the file has it, or let MoA.from_file build it."
            )

    def load_state(self, state: Any, *, allow_unsafe_lm_state: bool = False) -> None:
        """Take the settings over, and the LMs that are not the program's already."""
        saved = SavedMixture.of({SAVED: state})
        self.check(saved)
        take_settings(self.moa, saved)
        if saved.format == 1:  # its LMs are those of the program it is loaded into
            return
        for path, agent in agents_of(self.moa).items():
            entry, left_out = saved.entry(path), saved.left_out.get(path, [])
            if entry is None:
                agent.lm = None
            elif not _has_lm(agent, entry, left_out, allow_unsafe_lm_state):
                if (lost := saved.lost.get(path)) is not None:
                    raise ValueError(f"The LM of {path} ({entry['model']}) is not in the file: {lost}")
                [trusted] = without_trust({"proposer_models": [entry]})["proposer_models"]
                router = saved.config.get("router")
                unsafe = allow_unsafe_lm_state
                agent.lm = make_lm(entry, router, unsafe) if unsafe else make_lm(trusted)


def _has_lm(agent: Agent, entry: Mapping[str, Any], left_out: list[str], trusted: bool) -> bool:
    if agent.lm is None:
        return "model" not in entry
    here = describe_lm(agent.lm)
    return is_same(entry, here.entry, [*left_out, *here.left_out], trusted)


def make_lm(entry: Mapping[str, Any], router: Any = None, unsafe: bool = False) -> dspy.BaseLM:
    """The LM of a saved entry."""
    engine = None if router is None else as_engine(router)
    return ModelConfig.model_validate(entry, context=OF_SAVED).lm(engine, allow_unsafe_lm_state=unsafe)


def without_trust(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config's data without addresses, with a warning of each that is left out.

    Raises:
        ValueError: If it has a router, which is nothing without them.
    """

    def clean(entry: Any) -> Any:
        kept, dropped = without_addresses(entry)
        if dropped:
            warnings.warn(
                f"From the file, the LM of {entry.get('name', 'the aggregator')} ({entry['model']}) is made without "
                f"{', '.join(dropped)}: a file could send your key and your data anywhere. Pass "
                "allow_unsafe_lm_state=True if you trust it.",
                stacklevel=5,
            )
        return kept

    if data.get("router"):
        raise ValueError(
            "The file names a router, which could send your keys and your data anywhere. Pass "
            "allow_unsafe_lm_state=True if you trust it."
        )
    judge = data.get("aggregator_model")
    cleaned = {"aggregator_model": clean(judge)} if judge else {}
    return {**data, **cleaned, "proposer_models": [clean(entry) for entry in data["proposer_models"]]}


def _dump_part(part: Any, json_mode: bool) -> dict[str, Any]:
    if isinstance(part, _Mixture):
        return describe_mixture(part.moa).data()
    state: dict[str, Any] = part.dump_state(json_mode=json_mode)
    if state.get("lm"):
        state["lm"] = without_secrets(state["lm"], part.lm)[0]
    if json_mode:
        state.update({name: _as_json(state[name]) for name in ("traces", "train", "demos") if name in state})
    return state


def _as_json(value: Any) -> Any:
    """The value as a file can hold it: what has no JSON form is text, as in DSPy's prompts."""
    try:
        data = to_jsonable_python(value, by_alias=False, fallback=str)
    except ValueError:
        return str(value)
    return _with_short_numbers(data)


def _with_short_numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _with_short_numbers(item) for name, item in data.items()}
    if isinstance(data, list):
        return [_with_short_numbers(item) for item in data]
    return str(data) if isinstance(data, int) and not -(2**63) <= data < 2**64 else data


def _keeps_lm(predictor: Any, part: Any, trusted: bool) -> bool:
    """Whether a predictor's own LM is the one that was saved: then it stays, with its key and its connections."""
    if predictor.lm is None or not isinstance(part, Mapping) or not part.get("lm"):
        return False
    try:
        here, left_out = without_secrets(predictor.lm.dump_state(), predictor.lm)
    except TypeError:  # it cannot be saved, so it is not the one that was
        return False
    return is_same(part["lm"], _as_json(here), left_out, trusted)


def _read_part(part: Any, predictor: Any, keeps_lm: bool, name: str) -> dict[str, Any]:
    """A predictor's state as it is loaded: its demos typed again, where that shows in no prompt."""
    if not isinstance(part, Mapping) or not isinstance(part.get("demos"), list) or "signature" not in part:
        raise ValueError(f"This is no saved mixture: {name} has no prompt and demos.")
    fields = predictor.signature.fields

    def typed(demo: Any) -> Any:
        values = {key: _typed(value, fields[key].annotation) for key, value in demo.items() if key in fields}
        return demo.copy(**values) if isinstance(demo, dspy.Example) else {**demo, **values}

    return {**part, "demos": [typed(demo) for demo in part["demos"]], "lm": None if keeps_lm else part.get("lm")}


def _typed(value: Any, annotation: Any) -> Any:
    if annotation is str:
        return value
    try:
        typed = validated(value, annotation)
    except ValueError:
        return value
    return typed if json.dumps(_as_json(typed)) == json.dumps(_as_json(value)) else value
