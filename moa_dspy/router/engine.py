"""DSPy's engines over a `litellm.Router`."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from dspy.clients.engines.lifecycle import aclosing_stream, closing_stream
from dspy.clients.engines.litellm_errors import litellm_errors
from dspy.lm15 import ConfigurationError, Request, Response

from moa_dspy.router.config import RouterConfig
from moa_dspy.router.wire import Chunks, Event, arguments, litellm, response
from moa_dspy.secrets import is_secret

__all__ = ["AsyncRouterEngine", "RouterEngine"]


class RouterEngine:
    """DSPy's synchronous engine over a router. It repeats nothing itself: the router does.

    Args:
        router: A `RouterConfig`, from which the router is made at the first call, or a `litellm.Router`.

    Raises:
        TypeError: If it is neither.
    """

    def __init__(self, router: Any) -> None:
        if not isinstance(router, RouterConfig) and not hasattr(router, "get_available_deployment"):
            raise TypeError(f"A router is a RouterConfig or a litellm.Router, not {type(router).__name__}.")
        self.config = router if isinstance(router, RouterConfig) else None
        self._router: Any = None if self.config else router
        self._lock = threading.Lock()

    @property
    def groups(self) -> list[str]:
        """The names of the router's groups."""
        return self.config.groups if self.config else list(self._router.get_model_names())

    @property
    def router(self) -> Any:
        """The `litellm.Router`.

        Raises:
            ConfigurationError: If an environment variable is not set that a deployment names.
        """
        with self._lock:
            if self._router is None and self.config is not None:
                variable = self.config.missing_variable()
                if variable:
                    # LiteLLM would go on without, and send this deployment another provider's key.
                    raise ConfigurationError(
                        f"The environment variable {variable}, which a deployment of the router names, is not set. "
                        "Set it, or take the deployment out."
                    )
                self._router = litellm().Router(**self.config.model_dump(exclude_none=True))
            return self._router

    def missing_key(self) -> str | None:
        """The environment variable that a deployment names and that is not set."""
        return self.config.missing_variable() if self.config and self._router is None else None

    def secrets(self) -> list[str]:
        """The keys of its deployments, also those whose environment variables have harmless names."""
        if self.config:
            rows = [row.litellm_params for row in self.config.model_list]
        else:
            rows = [row["litellm_params"] for row in self._router.get_model_list() or []]
        values = [str(value) for row in rows for name, value in row.items() if is_secret(name) and value]
        return [os.environ.get(value.removeprefix("os.environ/"), value) for value in values]

    def fingerprint(self, group: str) -> str:
        """A short hash of what the group's deployments are, their secrets left out."""
        if self.config:
            rows = [row.litellm_params for row in self.config.model_list if row.model_name == group]
        else:
            rows = [row["litellm_params"] for row in self._router.get_model_list(model_name=group) or []]
        public = [{name: value for name, value in row.items() if not is_secret(name)} for row in rows]
        return hashlib.sha256(json.dumps(public, sort_keys=True, default=str).encode()).hexdigest()[:12]

    def complete(self, request: Request) -> Response:
        given = arguments(request)
        with litellm_errors(model=request.model):
            return response(self.router, self.router.completion(**given), request)

    def stream(self, request: Request) -> Iterator[Event]:
        chunks = Chunks(request)
        given = arguments(request, stream=True)
        with litellm_errors(model=request.model), closing_stream(self.router.completion(**given)) as source:
            for chunk in source:
                yield from chunks.feed(chunk)
            yield chunks.end(self.router)

    def close(self) -> None:
        """Nothing to close: the connections are LiteLLM's."""

    def dump_state(self) -> dict[str, Any]:
        """The router's config, which holds no secrets.

        Raises:
            TypeError: If the engine was made of a `litellm.Router`, which holds them.
        """
        if self.config is None:
            raise TypeError(
                "An LM on a litellm.Router cannot be saved: the router holds keys and connections. Describe it as a "
                "RouterConfig, or save the program without this LM and set it again after loading."
            )
        return {"router": self.config.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> RouterEngine:
        """The engine that was saved; the keys come from the environment."""
        return cls(RouterConfig.model_validate(state["router"]))

    def __deepcopy__(self, memo: dict[int, Any]) -> RouterEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load_state, (self.dump_state(),)


class AsyncRouterEngine:
    """DSPy's asynchronous engine over the router of a `RouterEngine`."""

    def __init__(self, engine: RouterEngine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        given = arguments(request)
        with litellm_errors(model=request.model):
            router = await self._router()
            return response(router, await router.acompletion(**given), request)

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        chunks = Chunks(request)
        given = arguments(request, stream=True)
        with litellm_errors(model=request.model):
            router = await self._router()
            async with aclosing_stream(await router.acompletion(**given)) as source:
                async for chunk in source:
                    for event in chunks.feed(chunk):
                        yield event
                yield chunks.end(router)

    async def aclose(self) -> None:
        """Nothing to close: the connections are LiteLLM's."""

    def dump_state(self) -> dict[str, Any]:
        """The router's config."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncRouterEngine:
        """The engine that was saved."""
        return cls(RouterEngine.load_state(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncRouterEngine:
        return self

    async def _router(self) -> Any:
        # The first call imports LiteLLM, which would hold up the event loop for seconds.
        return self.engine._router or await asyncio.to_thread(lambda: self.engine.router)
