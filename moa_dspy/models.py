"""From a model's name to its LM, and what is known of the model: its window, its price, its key."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from typing import Any

import dspy
from dspy.clients.model_metadata import model_info
from dspy.lm15 import LM15Error, LMRouter, Resolution, RouterConfig, registered_providers
from pydantic import BaseModel, ConfigDict, Field

from moa_dspy.secrets import reference_name, remember, unset_references

__all__ = [
    "CLIENT_OPTIONS",
    "Prices",
    "as_lm",
    "context_window",
    "known_of",
    "load_backend",
    "missing_key",
    "prices_of",
]


class Prices(BaseModel):
    """What a model's tokens cost, where DSPy does not know it: an endpoint of your own, a negotiated price.

    Attributes:
        input: USD per million prompt tokens.
        output: USD per million completion tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    input: float = Field(ge=0, allow_inf_nan=False)
    output: float = Field(ge=0, allow_inf_nan=False)

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """What a call costs in USD."""
        return (prompt_tokens * self.input + completion_tokens * self.output) / 1e6


def as_lm(
    model: str | dspy.BaseLM, *, prices: Prices | Mapping[str, float] | None = None, **options: Any
) -> dspy.BaseLM:
    """The LM of this name, or the given LM with these options.

    Args:
        model: A name such as `"openai/gpt-5-mini"` or `"simulated/alice"`, or an LM.
        prices: What its calls cost, in USD per million tokens: `{"input": 0.15, "output": 0.6}`.
        **options: What `dspy.LM` takes: `temperature`, `max_tokens`, `api_base`, ... A key may be named by the
            environment variable that holds it: `api_key="os.environ/GROQ_API_KEY"`.

    Raises:
        TypeError: If `model` is neither.
        ValueError: If it names a router's group, or if the options do not suit it.
    """
    options = _resolve({name: value for name, value in options.items() if value is not None})
    if isinstance(model, dspy.BaseLM):
        lm = model.copy(**options) if options or prices is not None else model
    elif not isinstance(model, str):
        raise TypeError(
            f"A model is a name such as 'openai/gpt-5-mini' or a dspy.LM, not {type(model).__name__}. "
            "Wrap a module as Agent(program=...)."
        )
    elif model.startswith("simulated/"):
        from moa_dspy.simulated import simulated_lm

        lm = simulated_lm(model, **options)
    elif model.startswith("router/"):
        raise ValueError(
            f"{model!r} names a group of a router, and there is no router here. Name it in a MoAConfig with a "
            f"`router`, or give its LM: router_lm({model.removeprefix('router/')!r}, router)."
        )
    else:
        lm = dspy.LM(model, **options)
    if prices is not None:
        # On the LM and not among its options: those go to the provider.
        vars(lm)["prices"] = Prices.model_validate(prices)
    return remember(lm)


def missing_key(lm: dspy.BaseLM) -> str | None:
    """The environment variable that should hold this LM's key and does not.

    Silent where it cannot know: custom engines, endpoints and keys given in code, gateways named in the
    environment, cloud credentials, and what only litellm serves (that fails at the first call, naming it then).
    A key that was named before its variable was set is taken over here.
    """
    engine: Any = getattr(remember(lm), "engine", None)
    deployments = getattr(engine, "deployments", None)  # of a router
    if deployments is None:
        lm.kwargs.update(_resolve(lm.kwargs))
    if unset := unset_references(lm.kwargs if deployments is None else deployments):
        return " and ".join(unset)
    by_dspy = engine in ("auto", "lm15") and lm.model_type != "text"
    if not by_dspy or any(lm.kwargs.get(name) for name in _OWN_ACCESS):
        return None
    prefix = lm.model.split("/", 1)[0].upper()
    if any(os.environ.get(f"{prefix}_{name}") for name in ("API_BASE", "BASE_URL")):
        return None
    resolution = _resolution(lm.model)
    variable = resolution and resolution.env_key
    return variable if variable and not os.environ.get(variable) else None


def load_backend(lm: dspy.BaseLM) -> None:
    """Import what will ask this LM's provider: LiteLLM takes seconds, which no call's time should be spent on."""
    engine: Any = getattr(lm, "engine", None)
    by_dspy = lm.model_type != "text" and _NATIVE.issuperset(CLIENT_OPTIONS.intersection(lm.kwargs))
    if engine == "litellm" or (engine == "auto" and not (by_dspy and _resolution(lm.model))):
        for name in ("litellm", "openai.resources.chat"):  # the second is what LiteLLM imports at its first call
            with suppress(ImportError):
                import_module(name)


def context_window(model: str) -> int | None:
    """How many tokens the model reads at most; None if DSPy's model metadata does not say."""
    window = known_of(model).get("max_input_tokens")
    return window if isinstance(window, int) else None


def prices_of(lm: dspy.BaseLM) -> Prices | None:
    """What the model's tokens cost: as its user stated it, else as DSPy's model metadata says; None if neither does."""
    if (stated := vars(lm).get("prices")) is not None:
        return Prices.model_validate(stated)
    info = {} if lm.model.startswith("simulated/") else known_of(lm.model)
    known: dict[str, Any] = {kind: info.get(f"{kind}_cost_per_token") for kind in ("input", "output")}
    if not all(isinstance(price, (int, float)) for price in known.values()):
        return None
    return Prices(**{kind: 1e6 * price for kind, price in known.items()})


@lru_cache(maxsize=256)
def known_of(model: str) -> Mapping[str, Any]:
    """What DSPy's model metadata says of a model; empty if it does not know it."""
    provider, name = model.split("/", 1) if "/" in model else ("openai", model)
    info: Mapping[str, Any] = model_info(provider, name)
    return info


_OWN_ACCESS = (
    *("api_key", "api_base", "base_url", "headers", "extra_headers"),
    *("azure_ad_token", "azure_ad_token_provider", "custom_llm_provider"),
)


_NATIVE = frozenset(("api_key", "api_base", "base_url", "timeout"))
CLIENT_OPTIONS = _NATIVE | {*_OWN_ACCESS, "api_version", "organization", "project", "extra_query"}
"""Options of an LM that say how its provider is reached, and not what it is asked."""


def _resolution(model: str) -> Resolution | None:
    """How DSPy reaches the model by itself; None if it leaves it to litellm."""
    providers = tuple(provider.definition for provider in registered_providers())
    try:
        return LMRouter(RouterConfig(env=dict(os.environ), providers=providers)).resolve_openai_chat(model)
    except LM15Error:
        return None


def _resolve(settings: Any) -> Any:
    """The settings with the values of the environment variables that they name, as far as those are set."""
    if isinstance(settings, Mapping):
        return {name: _resolve(value) for name, value in settings.items()}
    name = reference_name(settings)
    return settings.replace(f"os.environ/{name}", os.environ[name]) if name and os.environ.get(name) else settings
