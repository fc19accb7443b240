"""A mixture as data: what `MoA` takes, as YAML or JSON, and mixtures that are ready to use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast, get_type_hints

import dspy
from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from moa_dspy.files import drafting, dump_data, format_of, read_data
from moa_dspy.limits import Limits, name_nearest
from moa_dspy.model_config import OF_SAVED, ConfigPart, Model, ModelConfig
from moa_dspy.router import RouterEngine
from moa_dspy.signature_data import UnknownTypes, describe_signature, read_signature
from moa_dspy.strategies import BY_NAME, Strategy

__all__ = [
    "FORMAT",
    "PRESETS",
    "SAVED",
    "MoAConfig",
    "ModelConfig",
    "Preset",
    "PresetName",
    "SavedMixture",
    "as_config",
    "is_saved",
    "make_strategy",
    "naming",
]

SAVED: Final = "moa_dspy"
"""The key of a mixture's own entry in what DSPy saves."""
FORMAT: Final = 2

PresetName = Literal["balanced", "max_quality", "budget", "together_moa", "moa_lite", "self_moa"]


def make_strategy(given: Any) -> Strategy:
    """The strategy of this name, or of this mapping of its `name` and options.

    Raises:
        ValueError: If there is none of that name, or an option is unknown or of another type.
    """
    if not isinstance(given, (str, Mapping)):
        raise ValueError("a strategy is a name, or a mapping such as {name: selection, rotations: 3}.")
    options: dict[str, Any] = {"name": given} if isinstance(given, str) else dict(given)
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in BY_NAME:
        # What stands for a name here may be anything, so it is told only if it is a name.
        what = f"there is no strategy {name!r}" if isinstance(name, str) else "the strategy has no name"
        raise ValueError(f"{what}. {name_nearest(name, BY_NAME)}")
    hints = get_type_hints(BY_NAME[name].__init__)
    hints.pop("return", None)
    for option, value in options.items():
        if option not in hints:
            raise ValueError(f"{option}: unknown key. {name_nearest(option, ['name', *hints])}")
        if option == "draft":
            options[option] = make_strategy(value)
            continue
        try:
            TypeAdapter(hints[option]).validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"{'.'.join(map(str, (option, *problem['loc'])))}: {problem['msg']}.") from None
    return BY_NAME[name](**options)


def _check_strategy(given: Any) -> Any:
    make_strategy(given)
    return to_jsonable_python(given)


def _check_signature(given: Any) -> Any:
    if isinstance(given, type) and issubclass(given, dspy.Signature):
        return describe_signature(given)
    if isinstance(given, (str, Mapping)):
        with suppress(UnknownTypes):  # whoever builds the mixture gives them
            read_signature(given)
    return given


def _check_router(given: Any) -> Any:
    return RouterEngine(given).config if isinstance(given, (str, Mapping)) else given


class MoAConfig(ConfigPart):
    """A mixture as data: the arguments of `MoA`, and the router that its models may be behind.

    It holds no secrets: keys come from the environment. `proposers`, `aggregator` and `strategy` are read too, as
    `MoA` calls them.

    Attributes:
        name: What it is called where it is served, in letters, digits, '.', '-' and '_'; by default as its file.
        signature: The task's signature: `"question -> answer: int"`, or a mapping of `inputs`, `outputs` (name -> type)
            and `instructions`. With it the config is enough to ask.
        proposer_models: Models that propose, each a name or a `ModelConfig`; one twice gives two answers.
        aggregator_model: The model that judges; None means `dspy.settings.lm`.
        num_proposals_per_model: Samples of each proposer.
        aggregation_strategy: `synthesis`, `selection`, `voting` or `fusion`; or a mapping of its `name` and
            the options of its constructor: `{name: selection, rotations: 3}`.
        use_specialized_prompts: Each proposer has a prompt of its own.
        layers: Layers of proposers; see `MoA`.
        limits: What the mixture may do.
        router: What the router is made of that models named `router/GROUP` are behind, as litellm's proxy reads it
            (`model_list`, `router_settings`), or the path of its file.

    Raises:
        ValueError: Naming what is wrong, the nearest known key for an unknown one, and never a secret.

    Examples:
        >>> from moa_dspy import MoA
        >>> config = MoAConfig(proposer_models=["simulated/alice", "simulated/bob"], aggregator_model="simulated/judge")
        >>> moa = MoA.from_config("question -> answer", config)
        >>> moa(question="What is the capital of Turkey?").answer
        'Ankara'
    """

    name: str | None = Field(default=None, pattern=r"^[\w.-]+$")
    signature: Annotated[str | dict[str, Any], BeforeValidator(_check_signature)] | None = None
    proposer_models: list[Model] = Field(min_length=1, validation_alias=AliasChoices("proposer_models", "proposers"))
    aggregator_model: Model | None = Field(
        default=None, validation_alias=AliasChoices("aggregator_model", "aggregator")
    )
    num_proposals_per_model: int = Field(default=1, ge=1, le=10_000)
    aggregation_strategy: Annotated[str | dict[str, Any], BeforeValidator(_check_strategy)] = Field(
        default="synthesis", validation_alias=AliasChoices("aggregation_strategy", "strategy")
    )
    use_specialized_prompts: bool = False
    layers: int = Field(default=1, ge=1, le=100)
    limits: Limits = Field(default_factory=Limits)
    router: Annotated[str | dict[str, Any], BeforeValidator(_check_router)] | None = None

    @classmethod
    def load(cls, path: str | Path) -> MoAConfig:
        """Read a `.yaml`, `.yml` or `.json` file: a config, or a mixture that `MoA.save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: Naming the file and the key; of a saved mixture, why it is no config.
        """
        data = read_data(path)
        with naming(path):
            if is_saved(data):
                return cls.model_validate(SavedMixture.of(data).buildable(), context=OF_SAVED)
            return cls.model_validate(data)

    @classmethod
    def preset(cls, name: PresetName) -> MoAConfig:
        """The preset of this name; see `PRESETS`. ValueError if there is none."""
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}. {name_nearest(name, PRESETS)}")
        return PRESETS[name].config.model_copy()

    def save(self, path: str | Path) -> None:
        """Write a `.yaml`, `.yml` or `.json` file that `load` reads."""
        target = Path(path).resolve()
        text = dump_data(self._data(), format_of(target))
        with drafting(target) as draft:
            draft.write_text(text, encoding="utf-8")

    def to_yaml(self) -> str:
        """The config as YAML."""
        return dump_data(self._data(), "YAML")

    def to_json(self) -> str:
        """The config as JSON."""
        return dump_data(self._data(), "JSON")

    def _data(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> MoAConfig:
        """A copy with other settings; checked, unlike pydantic's own."""
        return self.model_validate({**dict(self), **(update or {})})


class SavedMixture(BaseModel):
    """A mixture as it stands in a file.

    Attributes:
        format: The version of the format.
        version: The version of moa-dspy that wrote it.
        config: The data of a `MoAConfig`, with its `signature`.
        lms: Path of an agent -> its model's entry, where that is another one than the config's.
        left_out: Path of an agent -> the settings of its LM that are not in the file: secrets, and what is no JSON.
        calibration: The data of its `Calibration`, if it has one.
        code: What no file can bring back -> why: programs and strategies of the user's own, functions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    format: int
    version: str
    config: dict[str, Any]
    lms: dict[str, dict[str, Any]] = {}
    left_out: dict[str, list[str]] = {}
    calibration: dict[str, Any] | None = None
    code: dict[str, str] = {}

    @classmethod
    def of(cls, state: Any) -> SavedMixture:
        """What DSPy's state holds of a mixture; ValueError if that is none, or of another format."""
        found = state.get(SAVED) if isinstance(state, Mapping) else None
        if not isinstance(found, Mapping):
            raise ValueError(
                "This holds no mixture: MoA.save writes one. A program around a mixture is loaded by its own load()."
            )
        if (written := found.get("format")) != FORMAT:
            convert = (
                "Upgrade moa-dspy."
                if isinstance(written, int) and written > FORMAT
                else "To convert it, build the mixture in code, give each predictor its part of the file, "
                "`for name, part in moa.named_predictors(): part.load_state(data[name])`, and save() it again."
            )
            raise ValueError(
                f"The mixture was saved in format {written} (by moa-dspy {found.get('version')}), and this version "
                f"reads format {FORMAT}. {convert}"
            )
        return cls.model_validate(found)

    def data(self) -> dict[str, Any]:
        """The mixture as JSON-able data, without what is not set."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def buildable(self) -> dict[str, Any]:
        """The data of the config from which the mixture is built."""
        if self.code:
            code = "; ".join(f"{what} {why}" for what, why in self.code.items())
            raise ValueError(f"No file can bring code back: {code}. Build the mixture in code and use load().")
        return self.config

    def entry(self, path: str) -> dict[str, Any]:
        """The model's entry of the agent at this path; empty if it has none."""
        named = {entry["name"]: entry for entry in self.config["proposer_models"]}
        usual: dict[str, Any] = self.config.get(f"{path}_model") or named.get(path.rpartition(".")[2]) or {}
        return self.lms.get(path, usual)


def is_saved(data: Mapping[str, Any]) -> bool:
    """Whether this is what DSPy saves, and no config."""
    return SAVED in data or "metadata" in data


@dataclass(frozen=True)
class Preset:
    """A mixture that is ready to use: what it is, in a sentence, and its config."""

    about: str
    config: MoAConfig

    @property
    def calls(self) -> int:
        """LM calls of one answer, if nothing fails."""
        config = self.config
        return len(config.proposer_models) * config.num_proposals_per_model * config.layers + 1


def as_config(config: MoAConfig | str | Path) -> MoAConfig:
    """The config: as it is, by a preset's name, or from a file."""
    if isinstance(config, MoAConfig):
        return config
    is_name = isinstance(config, str) and not Path(config).suffix
    return MoAConfig.preset(cast(PresetName, config)) if is_name else MoAConfig.load(config)


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Errors that name the file, a sentence for each mistake in a config."""
    try:
        yield
    except ValidationError as error:
        found = [(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors()]
        lines = [": ".join(filter(None, (str(path), *one))) for one in found]
        raise ValueError("\n".join(lines)) from None
    except (TypeError, ValueError) as error:
        told = str(error)
        raise ValueError(told if told.startswith(str(path)) else f"{path}: {told}") from error
    except (AttributeError, LookupError) as error:
        raise ValueError(
            f"{path}: this is no whole file: something is missing or of another type ({error})."
        ) from error


PRESETS: dict[str, Preset] = {
    name: Preset(data.pop("about"), MoAConfig(**data))
    for name, data in read_data(Path(__file__).with_name("presets.yaml")).items()
}
