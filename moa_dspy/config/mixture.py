"""A mixture as data: what `MoA` takes, as YAML or JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from moa_dspy.config.conflicts import conflicts
from moa_dspy.config.entry import Model, ModelConfig, entry
from moa_dspy.config.files import as_text, read, to_json, to_yaml
from moa_dspy.config.strategy import checked_strategy, strategy_of
from moa_dspy.limits import Limits
from moa_dspy.router import RouterConfig, as_engine
from moa_dspy.strict import ConfigModel, refuse_unknown, refused

__all__ = ["MoAConfig", "ModelConfig"]


def _strict_limits(limits: Any) -> Any:
    if not isinstance(limits, Mapping):
        return limits
    refuse_unknown(limits, Limits.model_fields)
    return Limits.model_validate(limits, strict=True)


class MoAConfig(ConfigModel):
    """A mixture as data: the arguments of `MoA`, and the router that its models may be behind.

    It holds no secrets: keys come from the environment.

    Attributes:
        proposer_models: Models that propose, each a name or a `ModelConfig`; one twice gives two answers.
        aggregator_model: The model that judges; None means `dspy.settings.lm`.
        num_proposals_per_model: Samples of each proposer.
        aggregation_strategy: `synthesis`, `selection`, `voting` or `fusion`; or a mapping of its `name` and
            the options of its constructor: `{name: selection, rotations: 3}`.
        use_specialized_prompts: Each proposer has a prompt of its own.
        layers: Layers of proposers; see `MoA`.
        limits: What the mixture may do.
        router: The router that models named `router/GROUP` are behind.

    Raises:
        ValueError: Naming what is wrong, the nearest known key for an unknown one, and never a secret.

    Example:
        >>> from moa_dspy import MoA
        >>> config = MoAConfig(proposer_models=["simulated/alice", "simulated/bob"], aggregator_model="simulated/judge")
        >>> moa = MoA.from_config("question -> answer", config)
        >>> moa(question="What is the capital of Turkey?").answer
        'Ankara'
    """

    proposer_models: list[Model] = Field(min_length=1)
    aggregator_model: Model | None = None
    num_proposals_per_model: int = Field(default=1, ge=1)
    aggregation_strategy: Annotated[str | dict[str, Any], BeforeValidator(checked_strategy)] = "synthesis"
    use_specialized_prompts: bool = False
    layers: int = Field(default=1, ge=1)
    limits: Annotated[Limits, BeforeValidator(_strict_limits)] = Field(default_factory=Limits)
    router: RouterConfig | None = None

    @model_validator(mode="after")
    def _makes_a_mixture(self) -> MoAConfig:
        found = list(conflicts(self))
        if found:
            raise refused(*found)
        return self

    @classmethod
    def load(cls, path: str | Path) -> MoAConfig:
        """Read a `.yaml`, `.yml` or `.json` file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: Naming the file, the line and the key.
        """
        document = read(path)
        try:
            return cls.model_validate(document.data)
        except ValidationError as error:
            raise ValueError(document.explain(error)) from None

    @classmethod
    def preset(cls, name: str) -> MoAConfig:
        """The preset of this name; see `moa_dspy.config.presets`.

        Raises:
            ValueError: If there is none.
        """
        from moa_dspy.config.presets import preset

        return preset(name).config.model_copy()

    def save(self, path: str | Path) -> None:
        """Write a `.yaml`, `.yml` or `.json` file that `load` reads."""
        Path(path).write_text(as_text(path, self._data()), encoding="utf-8")

    def to_yaml(self) -> str:
        """The config as YAML."""
        return to_yaml(self._data())

    def to_json(self) -> str:
        """The config as JSON."""
        return to_json(self._data())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> MoAConfig:
        """A copy with other settings; checked, unlike pydantic's own."""
        return self.model_validate({**dict(self), **(update or {})})

    def arguments(self, router: Any = None) -> dict[str, Any]:
        """The keyword arguments of `MoA`.

        Args:
            router: A `litellm.Router` or a `RouterConfig` for models named `router/GROUP`, instead of the
                config's own.

        Raises:
            ValueError: If a model cannot be made, or names a group that no router has.
        """
        router = self.router if router is None else router
        engine = None if router is None else as_engine(router)
        judge = self.aggregator_model
        return {
            "proposers": [entry(model).agent(engine) for model in self.proposer_models],
            "aggregator": None if judge is None else entry(judge).lm(engine),
            "strategy": strategy_of(self.aggregation_strategy),
            "num_proposals_per_model": self.num_proposals_per_model,
            "use_specialized_prompts": self.use_specialized_prompts,
            "layers": self.layers,
            "limits": self.limits,
        }

    def _data(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)
