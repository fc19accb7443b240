"""Saving and loading mixtures: DSPy's own files, with what it takes to build the mixture again."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import dspy
from dspy.predict.parameter import Parameter
from typing_extensions import Self

from moa_dspy.agent import Agent
from moa_dspy.limits import Limits
from moa_dspy.saving.keyless import Keyless
from moa_dspy.saving.lm_state import read_lm
from moa_dspy.saving.loading import load_into, plain_state
from moa_dspy.saving.mixture_state import MixtureState
from moa_dspy.saving.saved_files import about, read
from moa_dspy.saving.saved_format import BOUND, MIXTURE, SavedLM, SavedMixture, checked
from moa_dspy.saving.signature_state import read_signature
from moa_dspy.strategies import STRATEGIES

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["Savable"]


class Savable(Keyless):
    """What a mixture can do with files: `save` and `load` as any DSPy program, and `from_file`."""

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        allow_unsafe_lm_state: bool = False,
        custom_types: Mapping[str, type] | None = None,
    ) -> Self:
        """The mixture that was saved to a file, without the code that built it.

        Keys come from the environment: the file holds no secrets. Models and enums of the signature are rebuilt.

        Args:
            path: A `.json` file that `save` wrote.
            allow_unsafe_lm_state: Whether to trust the file: to send requests to its addresses (`api_base`) and
                import the classes that it names, of engines and of the signature. Importing runs code.
            custom_types: Your own classes for types of the signature, by name, instead of rebuilt ones.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: Naming the file, if it holds no mixture, one of a newer format, or one with programs of
                your own: build that in code and use `load`.

        Example:
            ```python
            moa.save("moa.json")
            moa = MoA.from_file("moa.json")  # in another process
            ```
        """
        saved, state = read(path)
        with about(path):
            _refuse_own_code(saved)
            signature, lacks = read_signature(saved.signature, custom_types, allow_unsafe_lm_state)
            moa = _built(cls, saved, signature, state, allow_unsafe_lm_state)
            dspy.Module.load(moa, path, allow_unsafe_lm_state=allow_unsafe_lm_state)
        if lacks:
            warnings.warn(
                f"{path}: the types are rebuilt without what a file cannot hold: {', '.join(lacks)}. Give your own "
                "classes as custom_types=, or pass allow_unsafe_lm_state=True to import them if you trust the file.",
                stacklevel=2,
            )
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
        if not target.parent.is_dir():
            raise FileNotFoundError(f"There is no folder {target.parent} to save {target.name} in. Make it first.")
        if frozen := _frozen(self):
            warnings.warn(
                f"{path} lacks the prompts and demos of {', '.join(frozen)}: DSPy freezes what was compiled before it "
                "became a part, and does not save it. Set its `_compiled` to False, or use save_program=True.",
                stacklevel=2,
            )
        with tempfile.TemporaryDirectory(prefix=".moa-", dir=target.parent) as folder:
            super().save(Path(folder, target.name))
            os.replace(Path(folder, target.name), target)

    def load(self, path: str | Path, allow_pickle: bool = False, allow_unsafe_lm_state: bool = False) -> None:
        """Load what was saved of a mixture of the same shape; see `dspy.Module.load`.

        Where the file has the same LM as this program, the program's own stays, with its key and its connections.

        Raises:
            ValueError: Naming the file and the differences, if it holds another mixture; nothing is changed then.
        """
        if Path(path).suffix == ".json":
            read(path)
        with about(path):
            super().load(path, allow_pickle=allow_pickle, allow_unsafe_lm_state=allow_unsafe_lm_state)

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """DSPy's state without secrets, its demos as plain JSON."""
        return plain_state(cast("MoA", self), json_mode)

    def load_state(self, state: Mapping[str, Any], *, allow_unsafe_lm_state: bool = False) -> None:
        """Load what `dump_state` gave of a mixture of the same shape."""
        load_into(cast("MoA", self), state, super().load_state, allow_unsafe_lm_state)

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Those of the agents, and the mixture's shape and settings: DSPy saves and loads them with any program."""
        return [(MIXTURE, MixtureState(cast("MoA", self))), *super().named_parameters()]


def _built(
    cls: Any, saved: SavedMixture, signature: type[dspy.Signature], state: Mapping[str, Any], allow_unsafe: bool
) -> Any:
    def lm(agent: str) -> dspy.BaseLM | None:
        part: SavedLM = checked(SavedLM, state.get(f"{agent}.{BOUND}"), f"{agent}.{BOUND}")
        return read_lm(part, agent.rpartition(".")[2], allow_unsafe=allow_unsafe)

    _check_layers(saved, state)
    return cls(
        signature,
        [Agent(lm(f"proposers.{p.name}"), name=p.name, instructions=p.instructions) for p in saved.proposers],
        lm("aggregator"),
        STRATEGIES[saved.strategy.name](**saved.strategy.options),
        num_proposals_per_model=saved.num_proposals_per_model,
        use_specialized_prompts=saved.use_specialized_prompts,
        layers=saved.layers,
        limits=Limits(**saved.limits),
    )


def _check_layers(saved: SavedMixture, state: Mapping[str, Any]) -> None:
    # Before they are built: a broken number might be a very large one.
    last = f"layer_{saved.layers}.{saved.proposers[0].name}.{BOUND}"
    if saved.layers > 1 and last not in state:
        raise ValueError(f"This is no saved mixture: it has {saved.layers} layers, but no {last}.")


def _frozen(program: dspy.Module) -> list[str]:
    """The parts that DSPy leaves out of a program's state."""
    parts: Any = program.named_sub_modules(dspy.Module)
    return [
        name.removeprefix("self.")
        for name, part in parts
        if part is not program and part._compiled and not isinstance(part, Parameter) and part.predictors()
    ]


def _refuse_own_code(saved: SavedMixture) -> None:
    own = [f"agent {p.name!r} runs a program of its own ({p.program})" for p in saved.proposers if p.program]
    if saved.strategy.cls is not None or saved.strategy.name not in STRATEGIES:
        own.append(f"the strategy {saved.strategy.name!r} is one of its own ({saved.strategy.cls})")
    if own:
        raise ValueError(f"No file can bring code back: {'; '.join(own)}. Build the mixture in code and use load().")
