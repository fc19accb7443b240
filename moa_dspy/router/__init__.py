"""Models behind a `litellm.Router`: a model may be a router's group of deployments."""

from moa_dspy.router.lm import AsyncRouterEngine, Deployment, RouterConfig, RouterEngine, as_engine, router_lm

__all__ = ["AsyncRouterEngine", "Deployment", "RouterConfig", "RouterEngine", "as_engine", "router_lm"]
