"""One request asked of a `litellm.Router`, as an HTTP request is sent and answered.

DSPy writes the request and reads the reply in OpenAI's dialect; between them stands this transport in the place of a
connection.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from dspy.lm15 import Request, TransportError

from moa_dspy.secrets import mask

if TYPE_CHECKING:
    from moa_dspy.router import RouterEngine

__all__ = ["MARK", "PREFIX", "AsyncRouterCall", "RouterCall"]

PREFIX: Final = "router/"
MARK: Final = "router_deployments"
"""The name under which an LM carries its deployments' fingerprint: for DSPy's cache, not for the provider."""


class RouterCall:
    """Stands where DSPy sends its HTTP requests: hands one to the router, and is the reply."""

    http_version, reason = "HTTP/1.1", ""

    def __init__(self, engine: RouterEngine, request: Request) -> None:
        self.engine, self.request = engine, request
        self.given: dict[str, Any] = {}
        self.answer: Any = None
        self.chunks: list[Any] = []
        self.status, self.headers = 200, [("content-type", "application/json")]

    def stream(self, http: Any) -> RouterCall:
        """Take the request, as DSPy writes it for OpenAI, as what the router shall be asked."""
        self.given = {**json.loads(http.body), "model": self.request.model.removeprefix(PREFIX)}
        metadata = {name: value for name, value in self.given.pop("metadata", {}).items() if name != MARK}
        self.given |= {"metadata": metadata} if metadata else {}
        if self.request.config.top_k is not None:  # no field of OpenAI's dialect; LiteLLM knows who takes it
            self.given["top_k"] = self.request.config.top_k
        return self

    def __enter__(self) -> RouterCall:
        router = self.engine.router
        try:
            self.answer = router.completion(**self.given)
        except Exception as error:
            self.fail(error)
        return self

    def __exit__(self, *problem: Any) -> None:
        if callable(close := getattr(self.answer, "close", None)):
            close()

    def read(self) -> Any:
        """The whole reply."""
        return self.json(self.answer, self.answer)

    def __iter__(self) -> Iterator[bytes]:
        with _broken_streams():
            for chunk in self.answer:
                yield self.frame(chunk)

    def fail(self, error: Exception) -> None:
        """Say what went wrong as OpenAI would, so that DSPy knows what kind of error it is."""
        kind, status = type(error).__name__, getattr(error, "status_code", None)
        body = getattr(error, "body", None)
        detail = body.get("error", body) if isinstance(body, dict) else {}
        code = _CODES.get(kind) or (detail.get("code") if isinstance(detail, dict) else None)
        self.status = 429 if kind == "RouterRateLimitError" else status if isinstance(status, int) else 500
        self.answer = {"error": {"message": str(getattr(error, "message", None) or error), "code": code, "type": kind}}

    def frame(self, chunk: Any) -> bytes:
        """A piece of a stream; the one that says the usage says the cost too."""
        self.chunks.append(chunk)
        whole = None
        if getattr(chunk, "usage", None):
            from litellm import stream_chunk_builder

            whole = stream_chunk_builder(self.chunks)
        return b"data: " + self.json(chunk, whole) + b"\n\n"

    def json(self, part: Any, priced: Any) -> bytes:
        if isinstance(part, dict):
            return json.dumps(part).encode()
        account = {} if priced is None else _account(self.engine.router, priced, part)
        return json.dumps({**part.model_dump(mode="json"), **account}).encode()


class AsyncRouterCall(RouterCall):
    """The same on an event loop."""

    async def __aenter__(self) -> AsyncRouterCall:
        # The first call imports LiteLLM, which would hold up the event loop for seconds.
        router = await asyncio.to_thread(lambda: self.engine.router)
        try:
            self.answer = await router.acompletion(**self.given)
        except Exception as error:
            self.fail(error)
        return self

    async def __aexit__(self, *problem: Any) -> None:
        close: Any = getattr(self.answer, "aclose", None)
        if close is not None:
            await close()

    async def read(self) -> bytes:
        return self.json(self.answer, self.answer)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _broken_streams():
            async for chunk in self.answer:
                yield self.frame(chunk)


_CODES = {"ContextWindowExceededError": "context_length_exceeded", "NotFoundError": "model_not_found"}


@contextmanager
def _broken_streams() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise TransportError(f"The router's stream broke off: {error}") from error


def _account(router: Any, priced: Any, marked: Any) -> dict[str, Any]:
    """What LiteLLM says that an answer cost in USD (None if it has no price for who answered), and who did."""
    hidden, marks = [getattr(one, "_hidden_params", None) or {} for one in (priced, marked)]  # as its docs say
    deployment = router.get_deployment(model_id=marks.get("model_id") or "")
    params, name = getattr(deployment, "litellm_params", None), marks.get("model_id")
    cost = hidden.get("response_cost")
    # The router enters a deployment without a price as one that is free: only the user can say that it is.
    if not cost and getattr(params, "input_cost_per_token", None) != 0:
        cost = None
    if params is not None and re.fullmatch("[0-9a-f]{64}", str(name)):  # LiteLLM's, and not of the user's own
        name = params.model + (f" at {mask(params.api_base, ())}" if params.api_base else "")
    return {"response_cost": cost, "deployment": name}
