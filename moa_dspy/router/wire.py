"""Between DSPy's canonical requests and what `litellm.Router` takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

from dspy.clients._litellm import get_litellm
from dspy.clients.engines.base import validate_request
from dspy.clients.engines.litellm_engine import _ChatStream
from dspy.clients.lm15_boundary import request_kwargs, response_value
from dspy.lm15 import Request, Response, StreamDeltaEvent, StreamEndEvent, StreamStartEvent

__all__ = ["MARK", "PREFIX", "Chunks", "Event", "arguments", "litellm", "response"]

PREFIX = "router/"
MARK = "router_deployments"
"""The name under which an LM carries its deployments' fingerprint: for DSPy's cache, not for the provider."""

Event: TypeAlias = StreamStartEvent | StreamDeltaEvent | StreamEndEvent


def litellm() -> Any:
    """LiteLLM, imported when it is first needed: it takes seconds."""
    return get_litellm(feature="a router of models")


def arguments(request: Request, *, stream: bool = False) -> dict[str, Any]:
    """A request as `Router.completion` takes it."""
    validate_request(request)
    given = request_kwargs(request, "chat")
    metadata = {name: value for name, value in given.pop("metadata", {}).items() if name != MARK}
    if metadata:
        given["metadata"] = metadata
    if request.config.top_k is not None:  # no field of OpenAI's dialect; LiteLLM knows who takes it
        given["top_k"] = request.config.top_k
    if stream:
        given.update(stream=True, stream_options={"include_usage": True})
    return {**given, "model": request.model.removeprefix(PREFIX)}


def response(router: Any, raw: Any, request: Request) -> Response:
    """A router's answer as DSPy's canonical one, with its cost."""
    answer = response_value(raw, "chat", request)
    return replace(answer, provider_data=_with_cost(answer.provider_data, _cost(router, raw, raw)))


class Chunks(_ChatStream):
    """A router's stream as DSPy's canonical events; the last one has usage and cost."""

    def end(self, router: Any) -> StreamEndEvent:
        """The closing event."""
        event = self.finish(litellm())
        cost = _cost(router, litellm().stream_chunk_builder(self.chunks), self.chunks[-1])
        return replace(event, provider_data=_with_cost(event.provider_data, cost))


def _with_cost(provider_data: Mapping[str, Any] | None, cost: float | None) -> dict[str, Any]:
    return {**(provider_data or {}), "response_cost": cost}


def _cost(router: Any, raw: Any, marked: Any) -> float | None:
    """What LiteLLM says that the answer cost in USD; None if it has no price for who answered."""
    cost = _hidden(raw).get("response_cost")
    if cost:
        return float(cost)
    # The router enters a deployment without a price as one that is free: only the user can say that it is.
    deployment = router.get_deployment(model_id=_hidden(marked).get("model_id") or "")
    stated = getattr(getattr(deployment, "litellm_params", None), "input_cost_per_token", None)
    return 0.0 if stated == 0 else None


def _hidden(raw: Any) -> Mapping[str, Any]:
    return getattr(raw, "_hidden_params", None) or {}
