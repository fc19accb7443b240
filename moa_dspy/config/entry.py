"""A model as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import dspy
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from moa_dspy.agent import Agent, check_name
from moa_dspy.models import as_lm
from moa_dspy.router import RouterEngine, router_lm
from moa_dspy.router.wire import PREFIX
from moa_dspy.strict import MODEL_TAG, NAME_TAG, ConfigModel, refused

__all__ = ["Model", "ModelConfig", "entry"]


def _model_name(name: str) -> str:
    if not name.strip() or name != name.strip():
        raise ValueError("a model's name cannot be empty or have spaces around it. Example: openai/gpt-5-mini.")
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]


class ModelConfig(ConfigModel):
    """A model with its settings; what is not given is the provider's or DSPy's default.

    Attributes:
        model: Its name: `openai/gpt-5-mini`, `simulated/alice`, or `router/GROUP`.
        name: The agent's name; by default made of the model's.
        temperature: Sampling temperature.
        max_tokens: Most tokens of an answer.
        instructions: What this proposer is told beside the task's instructions; with specialized prompts only.
        api_base: The endpoint, for a model that is served elsewhere than at its provider.
        num_retries: How often a call is repeated after a transient error.
        timeout: Seconds that one attempt may take.
    """

    model: ModelName
    name: Annotated[str, AfterValidator(check_name)] | None = None
    temperature: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, ge=1)
    instructions: str | None = Field(default=None, min_length=1)
    api_base: str | None = Field(default=None, min_length=1)
    num_retries: int | None = Field(default=None, ge=0)
    timeout: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _router_has_its_own(self) -> ModelConfig:
        for name in ("api_base", "num_retries", "timeout"):
            if self.model.startswith(PREFIX) and getattr(self, name) is not None:
                where = "the deployment's litellm_params" if name == "api_base" else "the router"
                raise refused(((name,), f"the router does not see this setting of {self.model}. Set it in {where}."))
        return self

    def agent(self, engine: RouterEngine | None = None) -> Agent:
        """The proposer."""
        return Agent(self.lm(engine), name=self.name, instructions=self.instructions)

    def lm(self, engine: RouterEngine | None = None) -> dspy.BaseLM:
        """The LM; models of a router ask `engine`."""
        options = self.model_dump(exclude_none=True, exclude={"model", "name", "instructions"})
        if self.model.startswith(PREFIX) and engine is not None:
            return router_lm(self.model, engine, **options)
        return as_lm(self.model, **options)


def _kind(model: object) -> str | None:
    if isinstance(model, str):
        return NAME_TAG
    return MODEL_TAG if isinstance(model, (Mapping, ModelConfig)) else None


Model = Annotated[
    Annotated[ModelName, Tag(NAME_TAG)] | Annotated[ModelConfig, Tag(MODEL_TAG)],
    Discriminator(
        _kind,
        custom_error_type="config",
        custom_error_message="a model is its name, such as openai/gpt-5-mini, or a mapping with its `model`.",
    ),
]


def entry(model: str | ModelConfig) -> ModelConfig:
    """The model with its settings, of which a mere name has none."""
    return model if isinstance(model, ModelConfig) else ModelConfig(model=model)
