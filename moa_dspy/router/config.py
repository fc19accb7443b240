"""A router as data: deployments in groups, and what happens when one fails."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from moa_dspy.strict import ConfigModel, nearest, refuse_unknown, refused

__all__ = ["Deployment", "RouterConfig"]

# LiteLLM passes on to the provider what it does not know, so a slip would go unnoticed.
_MODEL = ("model", "custom_llm_provider", "api_base", "base_url", "api_key", "api_version", "organization")
_LOAD = ("rpm", "tpm", "weight", "order", "max_parallel_requests", "timeout", "stream_timeout", "max_retries")
_SAMPLING = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed", "stop", "reasoning_effort")
_EXTRA = ("thinking", "drop_params", "region_name", "watsonx_region_name")
_PRICE = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
_AZURE = ("azure_ad_token", "azure_scope", "tenant_id", "client_id", "client_secret")
_VERTEX = ("vertex_project", "vertex_location", "vertex_credentials")
_AWS = (
    "access_key_id",
    "secret_access_key",
    "session_token",
    "session_name",
    "profile_name",
    "role_name",
    "region_name",
)
PARAMS = (*_MODEL, *_LOAD, *_SAMPLING, *_EXTRA, *_PRICE, *_AZURE, *_VERTEX, *(f"aws_{name}" for name in _AWS))

_VARIABLE = "os.environ/"


def _params(params: Any) -> Any:
    refuse_unknown(params, PARAMS)
    if isinstance(params, Mapping) and not (isinstance(params.get("model"), str) and params["model"].strip()):
        raise ValueError("a deployment needs its `model`, with the provider's prefix: model: openai/gpt-5-mini.")
    return params


class Deployment(ConfigModel):
    """One way to reach a model.

    Attributes:
        model_name: The group it belongs to; a proposer names it `router/MODEL_NAME`.
        litellm_params: `model`, `api_base`, `rpm`, `tpm`, ... as LiteLLM takes them. A key is named by its
            environment variable: `api_key: os.environ/NAME`.
    """

    model_name: str = Field(min_length=1)
    litellm_params: Annotated[dict[str, Any], BeforeValidator(_params)]

    @property
    def variables(self) -> list[str]:
        """The environment variables that it names."""
        values = [value for value in self.litellm_params.values() if isinstance(value, str)]
        return [value.removeprefix(_VARIABLE) for value in values if value.startswith(_VARIABLE)]


Fallbacks = list[dict[str, list[str]]]


class RouterConfig(ConfigModel):
    """What `litellm.Router` is built from, with its argument names; what is not given is LiteLLM's default.

    For more than this build the `litellm.Router` yourself and pass it as `router`.

    Attributes:
        model_list: The deployments; those of one `model_name` are a group, and share its calls.
        fallbacks: Each `{group: [group, ...]}` says which groups are asked, in order, when the first has failed.
        context_window_fallbacks: The same, for prompts that are too long for the first.
        num_retries: How often a group is asked again before its fallbacks are.
        retry_after: Seconds to wait at least before a group's only deployment is asked again.
        timeout: Seconds that a call may take.
        routing_strategy: How a deployment of a group is picked.
        allowed_fails: Failures per minute that a deployment may have before it is left alone for a while.
        cooldown_time: Seconds for which it is left alone.

    Example:
        >>> deployment = Deployment(model_name="fast", litellm_params={"model": "openai/gpt-5-mini"})
        >>> RouterConfig(model_list=[deployment]).groups
        ['fast']
    """

    model_list: list[Deployment] = Field(min_length=1)
    fallbacks: Fallbacks = Field(default_factory=list)
    context_window_fallbacks: Fallbacks = Field(default_factory=list)
    num_retries: int | None = Field(default=None, ge=0)
    retry_after: int | None = Field(default=None, ge=0)
    timeout: float | None = Field(default=None, gt=0)
    routing_strategy: (
        Literal[
            "simple-shuffle",
            "least-busy",
            "usage-based-routing",
            "usage-based-routing-v2",
            "latency-based-routing",
            "cost-based-routing",
        ]
        | None
    ) = None
    allowed_fails: int | None = Field(default=None, ge=0)
    cooldown_time: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _known_groups(self) -> RouterConfig:
        problems = [
            ((key, index), f"the group {group!r} has no deployment. {nearest(group, self.groups)}")
            for key in ("fallbacks", "context_window_fallbacks")
            for index, row in enumerate(getattr(self, key))
            for group in (*row, *(name for names in row.values() for name in names))
            if group not in self.groups
        ]
        if problems:
            raise refused(*problems)
        return self

    @property
    def groups(self) -> list[str]:
        """The names of the groups."""
        return list(dict.fromkeys(deployment.model_name for deployment in self.model_list))

    def missing_variable(self) -> str | None:
        """The first environment variable that a deployment names and that is not set."""
        names = (name for deployment in self.model_list for name in deployment.variables)
        return next((name for name in names if not os.environ.get(name)), None)
