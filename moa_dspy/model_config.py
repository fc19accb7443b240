"""A model as data, and what all parts of a config have in common: no unknown keys, no secrets, errors in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import dspy
from dspy.utils.exceptions import DSPyError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from moa_dspy.agent import Agent, check_name
from moa_dspy.limits import name_nearest
from moa_dspy.models import Prices, as_lm
from moa_dspy.router import PREFIX, RouterEngine, router_lm
from moa_dspy.secrets import advise, find_secrets

__all__ = ["OF_SAVED", "ConfigPart", "Model", "ModelConfig"]

OF_SAVED: Final = {"saved": True}
"""Pydantic's context for what a mixture had: that is no slip of the pen, however it is called."""

Part = TypeVar("Part", bound="ConfigPart")
KeyPath = tuple[int | str, ...]

_MOST_PROBLEMS = 10  # that one error tells
_TAGS = ("<name>", "<settings>")  # pydantic adds those of unions to its paths: they are no keys of the data


class ConfigPart(BaseModel):
    """A part of a config: frozen, without unknown keys and without secrets.

    Its errors do not hold the data that was given: there may be a secret in it, in the wrong place.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        protected_namespaces=(),
    )

    @model_validator(mode="wrap")
    @classmethod
    def _check(cls: type[Part], data: Any, handler: Any) -> Part:
        # What fields are called is no setting: a task may well ask for a `key`.
        settings = {n: v for n, v in data.items() if n != "signature"} if isinstance(data, Mapping) else {}
        if found := find_secrets(settings):
            text = "a config holds no secrets, as it is saved, shared and logged."
            raise _refuse((path, f"{text} {advise(path, settings)}") for path in found)
        try:
            made: Part = handler(data)
        except ValidationError as error:
            raise _refuse(map(cls._in_words, error.errors())) from None
        return made

    @classmethod
    def _in_words(cls, problem: Mapping[str, Any]) -> tuple[KeyPath, str]:
        path: KeyPath = tuple(step for step in problem["loc"] if step not in _TAGS)
        if problem["type"] == "extra_forbidden" and len(path) == 1:
            return path, f"unknown key. {name_nearest(path[-1], cls.model_fields)}"
        return path, problem["msg"].removeprefix("Value error, ")


def _model_name(name: str) -> str:
    if not name.strip() or name != name.strip():
        raise ValueError("a model's name cannot be empty or have spaces around it. Example: openai/gpt-5-mini.")
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]


class ModelConfig(ConfigPart):
    """A model with its settings: these, and every other option of `dspy.LM` by its name.

    What is not given is the provider's or DSPy's default. A key is named by the environment variable that holds it,
    `api_key: os.environ/GROQ_API_KEY`; headers likewise.

    Attributes:
        model: Its name: `openai/gpt-5-mini`, `simulated/alice`, or `router/GROUP`.
        name: The agent's name; by default made of the model's.
        temperature: Sampling temperature.
        max_tokens: Most tokens of an answer.
        instructions: What this proposer is told beside the task's instructions; with specialized prompts only.
        api_base: The endpoint, for a model that is served elsewhere than at its provider.
        num_retries: How often a call is repeated after a transient error.
        timeout: Seconds that one attempt may take.
        prices: What its tokens cost, in USD per million: `{input: 0.15, output: 0.60}`.
        lm_state: DSPy's own state of an LM that is not made by its name and options; from saved mixtures.

    Examples:
        >>> ModelConfig(model="openai/gpt-4o", temperature=0.5, top_p=0.9).lm().kwargs["top_p"]
        0.9
    """

    model_config = ConfigDict(extra="allow")

    model: ModelName
    name: Annotated[str, AfterValidator(check_name)] | None = None
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    instructions: str | None = Field(default=None, min_length=1)
    api_base: str | None = Field(default=None, min_length=1)
    num_retries: int | None = Field(default=None, ge=0)
    timeout: float | None = Field(default=None, gt=0)
    prices: Prices | None = None
    lm_state: dict[str, Any] | None = None

    if TYPE_CHECKING:  # it takes more than its fields

        def __init__(self, model: str, **settings: Any) -> None: ...

    @model_validator(mode="after")
    def _makes_an_agent(self, info: ValidationInfo) -> ModelConfig:
        if self.model.startswith(PREFIX):
            for name in ("api_base", "api_key", "timeout"):
                if getattr(self, name, None) is not None:
                    raise ValueError(f"the router does not see {name} of {self.model}: set it in the router.")
        elif self.lm_state is None and info.context is not OF_SAVED:
            try:
                Agent(self.model, name=self.name, instructions=self.instructions, **self._options())
            except (DSPyError, TypeError) as error:
                raise ValueError(str(error)) from None
        return self

    def lm(self, engine: RouterEngine | None = None, *, allow_unsafe_lm_state: bool = False) -> dspy.BaseLM:
        """The LM; models of a router ask `engine`."""
        if self.lm_state is not None:
            lm = dspy.BaseLM.load_state(self.lm_state, allow_custom_lm_class=allow_unsafe_lm_state)
            return as_lm(lm, prices=self.prices)
        options = self._options()
        if self.model.startswith(PREFIX) and engine is not None:
            prices = options.pop("prices", None)
            return as_lm(router_lm(self.model, engine, **options), prices=prices)
        return as_lm(self.model, **options)

    def _options(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True, exclude={"model", "name", "instructions", "lm_state"})


def _kind(model: object) -> str | None:
    if isinstance(model, str):
        return _TAGS[0]
    return _TAGS[1] if isinstance(model, (Mapping, ModelConfig)) else None


Model = Annotated[
    Annotated[ModelName, Tag(_TAGS[0])] | Annotated[ModelConfig, Tag(_TAGS[1])],
    Discriminator(
        _kind,
        custom_error_type="config",
        custom_error_message="a model is its name, such as openai/gpt-5-mini, or a mapping with its `model`.",
    ),
]


def _refuse(problems: Iterable[tuple[KeyPath, str]]) -> ValidationError:
    """The error that says what is wrong where, and holds nothing that was given."""
    found = list(problems)
    found[_MOST_PROBLEMS:] = [((), "and more: the first are told.")] if found[_MOST_PROBLEMS:] else []
    details = [
        InitErrorDetails(type=PydanticCustomError("config", "{text}", {"text": text}), loc=path, input=None)
        for path, text in found
    ]
    return ValidationError.from_exception_data("config", details, hide_input=True)
