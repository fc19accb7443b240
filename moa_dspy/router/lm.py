"""Models behind a `litellm.Router`: a model may be a router's group of deployments."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any

import dspy

from moa_dspy.router.config import Deployment, RouterConfig
from moa_dspy.router.engine import AsyncRouterEngine, RouterEngine
from moa_dspy.router.wire import MARK, PREFIX
from moa_dspy.strict import nearest

__all__ = ["AsyncRouterEngine", "Deployment", "RouterConfig", "RouterEngine", "as_engine", "router_lm"]


def router_lm(group: str, router: Any, **options: Any) -> dspy.LM:
    """The LM of a router's group of deployments.

    Args:
        group: The group's name, with or without `router/` before it.
        router: A `RouterConfig`, a `litellm.Router`, or the `RouterEngine` of either. LMs of one engine
            share the router: its limits, failures and cooldowns.
        **options: What `dspy.LM` takes: `temperature`, `max_tokens`, `cache`, ... `num_retries` is 0 by
            default: the router retries by itself, and DSPy would repeat all of its retries and fallbacks.

    Raises:
        ValueError: If the router has no such group.
        TypeError: If `router` is no router.

    Example:
        >>> deployment = Deployment(model_name="fast", litellm_params={"model": "openai/gpt-5-mini"})
        >>> router_lm("fast", RouterConfig(model_list=[deployment])).model
        'router/fast'
    """
    engine = as_engine(router)
    group = group.removeprefix(PREFIX)
    if not any(fnmatchcase(group, known) for known in engine.groups):
        raise ValueError(f"The router has no group {group!r}. {nearest(group, engine.groups)}")
    # DSPy's cache knows a model by its name: other deployments under that name must not get these answers.
    options["metadata"] = {**options.get("metadata", {}), MARK: engine.fingerprint(group)}
    options.setdefault("num_retries", 0)
    return dspy.LM(PREFIX + group, engine=engine, async_engine=AsyncRouterEngine(engine), **options)


def as_engine(router: Any) -> RouterEngine:
    """The engine over this router.

    Raises:
        TypeError: If it is no router.
    """
    return router if isinstance(router, RouterEngine) else RouterEngine(router)
