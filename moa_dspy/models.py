"""From a model's name to its LM, and what is known of the model."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import dspy
from dspy.clients.backend_selection import select_backend
from dspy.clients.engines.lm15_engine import LM15Engine
from dspy.clients.model_metadata import model_info
from dspy.lm15 import LM15Error, RouterConfig

__all__ = ["as_lm", "context_window", "mask", "missing_key", "redact", "secret_values"]

_SIMULATED = "simulated/"
_ROUTED = "router/"


def as_lm(model: str | dspy.BaseLM, **options: Any) -> dspy.BaseLM:
    """The LM of this name, or the given LM with these options.

    Args:
        model: A name such as `"openai/gpt-5-mini"` or `"simulated/alice"`, or an LM.
        **options: What `dspy.LM` takes: `temperature`, `max_tokens`, `api_base`, ...

    Raises:
        TypeError: If it is neither.
        ValueError: If it names a router's group: only a config knows the router.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if isinstance(model, dspy.BaseLM):
        return model.copy(**options) if options else model
    if not isinstance(model, str):
        raise TypeError(
            f"A model is a name such as 'openai/gpt-5-mini' or a dspy.LM, not {type(model).__name__}. "
            "Wrap a module as Agent(program=...)."
        )
    if model.startswith(_SIMULATED):
        from moa_dspy.simulated import simulated_lm

        return simulated_lm(model, **options)
    if model.startswith(_ROUTED):
        group = model.removeprefix(_ROUTED)
        raise ValueError(
            f"{model!r} names a group of a router, and there is no router here. Name it in a MoAConfig with a "
            f"`router`, or give its LM: router_lm({group!r}, router)."
        )
    return dspy.LM(model, **options)


def missing_key(lm: dspy.BaseLM) -> str | None:
    """The environment variable that should hold this LM's key and does not.

    Silent where it cannot know: custom engines, endpoints and keys given in code, gateways named in the
    environment, cloud credentials, and what only litellm serves (that fails at the first call, naming it then).
    """
    engine: Any = getattr(lm, "engine", None)
    if hasattr(engine, "missing_key"):
        return engine.missing_key()
    if not isinstance(engine, str) or any(lm.kwargs.get(name) for name in _OWN_ACCESS):
        return None
    providers = tuple(binding.definition for binding in getattr(lm, "_providers", ()))
    config = RouterConfig(env=dict(os.environ), providers=providers)
    try:
        if not select_backend(lm).native:
            return None
        variable: str | None = LM15Engine(config, model_type=lm.model_type).resolve(lm.model).env_key
    except LM15Error:
        return None
    return variable if variable and not os.environ.get(variable) else None


@lru_cache(maxsize=256)
def context_window(model: str) -> int | None:
    """How many tokens the model reads at most; None if DSPy's model metadata does not say."""
    provider, name = model.split("/", 1) if "/" in model else ("openai", model)
    window = model_info(provider, name).get("max_input_tokens")
    return window if isinstance(window, int) else None


def redact(text: str, *lms: dspy.BaseLM | None) -> str:
    """The text with the LMs' secrets, those of the environment, and whatever looks like one, masked."""
    return mask(text, secret_values(*lms))


def secret_values(*lms: dspy.BaseLM | None) -> list[str]:
    """The secrets in the LMs' settings and in the environment, the longest first."""
    secrets = [value for lm in lms for value in _secrets(getattr(lm, "kwargs", {}))]
    engines: list[Any] = [getattr(lm, "engine", None) for lm in lms]
    secrets += [value for engine in engines if hasattr(engine, "secrets") for value in engine.secrets()]
    secrets += [value for name, value in os.environ.items() if _SECRET_NAME.search(name)]
    return sorted({value for value in secrets if len(value) >= 8}, key=len, reverse=True)


def mask(text: str, secrets: Iterable[str]) -> str:
    """The text with these, and whatever looks like a secret, masked."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return _SECRET_VALUE.sub("***", text)


_OWN_ACCESS = ("api_key", "api_base", "base_url", "azure_ad_token", "azure_ad_token_provider")
_SECRET_NAME = re.compile(r"(?i)key|token|secret|password|passwd|credential|authorization|headers")
_SECRET_VALUE = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|pplx|nvapi|ghp|gho|xoxb|AKIA|AIza|ya29|eyJ)[-_A-Za-z0-9.]{12,}"
    r"|(?<=[Bb]earer )[^\s\"']+|(?<=[Bb]asic )[A-Za-z0-9+/=]{12,}"
)


def _secrets(settings: object, named: bool = False) -> list[str]:
    if isinstance(settings, str):
        return [settings, settings.split(" ")[-1]] if named else []  # a header says "Bearer" before the key
    if isinstance(settings, Mapping):
        return [
            found
            for name, value in settings.items()
            for found in _secrets(value, named or bool(_SECRET_NAME.search(str(name))))
        ]
    return []
