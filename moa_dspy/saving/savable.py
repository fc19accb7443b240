"""What a mixture can do with files and configs."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import dspy
from typing_extensions import Self

from moa_dspy.config import MoAConfig, as_config, naming
from moa_dspy.files import drafting, read_data
from moa_dspy.model_config import OF_SAVED
from moa_dspy.saved_mixture import SAVED, SavedMixture, is_saved
from moa_dspy.saving.lms import make_lm, without_addresses
from moa_dspy.saving.mixture import agents_of, describe_mixture
from moa_dspy.saving.state import MixtureParameter, dump_predictor, has_lm_of, type_demos
from moa_dspy.secrets import Keyless

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
        """The mixture that a config describes; of a file that `save` wrote, the mixture with its prompts and demos.

        A config is the caller's own: requests go to the addresses in it.

        Args:
            signature: The task's signature; None for the config's own.
            config: What to build: a `MoAConfig`, a preset's name, or the path of a file.
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
            if is_saved(data):
                return cls._restore(data, trusts_addresses, **given)
            return cls._build(MoAConfig.model_validate(data), **given)

    @classmethod
    def _build(cls, config: MoAConfig, **given: Any) -> Self:
        arguments = config.arguments(**given)
        if "signature" not in arguments:
            raise ValueError(
                "The config names no signature, so there is nothing to ask. Add one, `signature: question -> "
                "answer`, or pass it."
            )
        made = cls(**arguments)
        made.config_name = config.name
        return made

    @classmethod
    def _restore(cls, state: Mapping[str, Any], trusts_addresses: bool, **given: Any) -> Self:
        saved = SavedMixture.of(state)
        data = saved.buildable() if trusts_addresses else _without_trust(saved.buildable())
        config = MoAConfig.model_validate(data, context=OF_SAVED)
        moa, unsafe = cls._build(config, **given), given.get("allow_unsafe_lm_state", False)
        if trusts_addresses:
            for path, entry in saved.lms.items():
                agents_of(cast("MoA", moa))[path].lm = make_lm(entry, given.get("router") or config.router, unsafe)
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

    def load(self, path: str | Path, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False) -> None:
        """Load what was saved of a mixture of the same shape; see `dspy.Module.load`.

        Where the file has the same LM as this program, the program's own stays, with its key and its connections.

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
            else dump_predictor(part, json_mode)
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
            if has_lm_of(parts[name], predictor, allow_unsafe_lm_state):
                kept[name] = predictor.lm
            parts[name] = {
                **parts[name],
                "demos": type_demos(parts[name], predictor),
                "lm": None if name in kept else parts[name]["lm"],
            }
        super().load_state(parts, allow_unsafe_lm_state=allow_unsafe_lm_state)
        for name, predictor in self.named_predictors():
            predictor.lm = kept.get(name, predictor.lm)

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Those of the agents, and the mixture's settings: DSPy saves and loads them with any program."""
        return [(SAVED, MixtureParameter(cast("MoA", self))), *super().named_parameters()]

    def _frozen(self) -> list[str]:
        """The predictors that DSPy leaves out of the state."""
        saved = {id(part) for part in self.parameters()}
        parts: Any = self.named_sub_modules(dspy.Predict)
        return [name.removeprefix("self.") for name, part in parts if id(part) not in saved]


def _without_trust(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config's data without addresses; it is refused if it has a router, which is nothing without them."""
    if data.get("router"):
        raise ValueError(
            "The file names a router, which could send your keys and your data anywhere. Pass "
            "allow_unsafe_lm_state=True if you trust it."
        )
    judge = data.get("aggregator_model")
    cleaned = {"aggregator_model": without_addresses(judge)} if judge else {}
    return {**data, **cleaned, "proposer_models": list(map(without_addresses, data["proposer_models"]))}
