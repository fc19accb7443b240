"""Models behind a `litellm.Router`: a model may be a router's group of deployments.

DSPy writes each request and reads each reply in OpenAI's dialect; the router stands in the place of a connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final, TypeAlias

import dspy
from dspy.lm15 import (
    AsyncOpenAIChatLM,
    ConfigurationError,
    OpenAIChatLM,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamErrorEvent,
    StreamStartEvent,
    TransportError,
)

from moa_dspy.files import read_data
from moa_dspy.secrets import find_secrets, is_secret, mask, reference_name, without_secrets
from moa_dspy.values import hash_of

__all__ = ["PREFIX", "AsyncRouterEngine", "RouterEngine", "as_engine", "router_lm"]

Event: TypeAlias = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent

PREFIX: Final = "router/"
_MARK = "router_deployments"  # an LM's fingerprint of its deployments: for DSPy's cache, not for the provider


def router_lm(group: str, router: Any, **options: Any) -> dspy.LM:
    """The LM of a router's group of deployments.

    Args:
        group: The group's name, with or without `router/` before it.
        router: A `litellm.Router`, or what it is made of as litellm's proxy reads it (`model_list`,
            `router_settings`), as a dict or the path of its YAML file; or the `RouterEngine` of either. LMs of one
            engine share the router: its limits, failures and cooldowns.
        **options: What `dspy.LM` takes: `temperature`, `max_tokens`, `cache`, ... `num_retries` is 0 by
            default: the router retries by itself, and DSPy would repeat all of its retries and fallbacks.

    Raises:
        ValueError: If the router has no such group, or holds a key.
        TypeError: If `router` is no router.

    Examples:
        >>> deployment = {"model_name": "fast", "litellm_params": {"model": "openai/gpt-5-mini"}}
        >>> router_lm("fast", {"model_list": [deployment]}).model
        'router/fast'
    """
    engine = as_engine(router)
    group = group.removeprefix(PREFIX)
    if not any(fnmatchcase(group, known) for known in engine.groups):
        raise ValueError(f"The router has no group {group!r}. Its groups: {', '.join(engine.groups)}.")
    # DSPy's cache knows a model by its name: other deployments under that name must not get these answers.
    options["metadata"] = {**options.get("metadata", {}), _MARK: engine.fingerprint(group)}
    options.setdefault("num_retries", 0)
    return dspy.LM(PREFIX + group, engine=engine, async_engine=AsyncRouterEngine(engine), **options)


def as_engine(router: Any) -> RouterEngine:
    """The engine over this router; see `router_lm`."""
    return router if isinstance(router, RouterEngine) else RouterEngine(router)


class RouterEngine:
    """DSPy's synchronous engine over a router. It repeats nothing itself: the router does.

    Attributes:
        config: What the router is made of; None if a `litellm.Router` was given.
    """

    def __init__(self, router: Any) -> None:
        router = read_data(router) if isinstance(router, (str, Path)) else router
        if not isinstance(router, Mapping) and not hasattr(router, "get_available_deployment"):
            raise TypeError(
                f"A router is a litellm.Router, or a mapping with a `model_list`, not {type(router).__name__}."
            )
        self.config: dict[str, Any] | None = _check(router) if isinstance(router, Mapping) else None
        self._router: Any = None if self.config else router
        self._lock = threading.Lock()

    @property
    def groups(self) -> list[str]:
        """The names of the router's groups."""
        return list(dict.fromkeys(row["model_name"] for row in self._deployments()))

    @property
    def router(self) -> Any:
        """The `litellm.Router`.

        Raises:
            ConfigurationError: If an environment variable is not set that a deployment names.
        """
        with self._lock:
            if self._router is None and self.config is not None:
                if (variable := self.missing_key()) is not None:
                    # LiteLLM would go on without, and send this deployment another provider's key.
                    raise ConfigurationError(
                        f"The environment variable {variable}, which a deployment of the router names, is not set. "
                        "Set it, or take the deployment out."
                    )
                self._router = _make_router(self.config)
            return self._router

    def missing_key(self) -> str | None:
        """The environment variables that deployments name and that are not set."""
        if self._router is not None:
            return None
        names = [reference_name(value) for _, value in self._params()]
        return " and ".join(dict.fromkeys(name for name in names if name and not os.environ.get(name))) or None

    def secrets(self) -> list[str]:
        """The keys of its deployments, also those whose environment variables have harmless names."""
        given = [value for name, value in self._params() if is_secret(name) and isinstance(value, str)]
        named = [reference_name(value) for _, value in self._params()]
        return [*given, *(os.environ[name] for name in named if name and name in os.environ)]

    def fingerprint(self, group: str) -> str:
        """A short hash of what the group's deployments are, their secrets left out."""
        rows = [row["litellm_params"] for row in self._deployments() if row["model_name"] == group]
        return hash_of([without_secrets(row)[0] for row in rows], digits=12)

    def complete(self, request: Request) -> Response:
        return _open_chat(OpenAIChatLM, _Call(self, request)).complete(request)

    def stream(self, request: Request) -> Iterator[Event]:
        yield from _open_chat(OpenAIChatLM, _Call(self, request)).stream(request)

    def close(self) -> None:
        """Nothing to close: the connections are LiteLLM's."""

    def dump_state(self) -> dict[str, Any]:
        """What the router is made of, which holds no secrets.

        Raises:
            TypeError: If a `litellm.Router` was given, which holds them.
        """
        if self.config is None:
            raise TypeError(
                "An LM on a litellm.Router cannot be saved: the router holds keys and connections. Give what it is "
                "made of (model_list, router_settings), or set this LM again after loading."
            )
        return {"router": self.config}

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> RouterEngine:
        """The engine that was saved; the keys come from the environment."""
        return cls(state["router"])

    def __deepcopy__(self, memo: dict[int, Any]) -> RouterEngine:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load_state, (self.dump_state(),)

    def _deployments(self) -> list[Any]:
        return (self.config["model_list"] if self.config else self._router.get_model_list()) or []

    def _params(self) -> list[tuple[str, Any]]:
        return [setting for row in self._deployments() for setting in row["litellm_params"].items()]


class AsyncRouterEngine:
    """DSPy's asynchronous engine over the router of a `RouterEngine`."""

    def __init__(self, engine: RouterEngine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        return await _open_chat(AsyncOpenAIChatLM, _AsyncCall(self.engine, request)).complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Event]:
        async for event in _open_chat(AsyncOpenAIChatLM, _AsyncCall(self.engine, request)).stream(request):
            yield event

    async def aclose(self) -> None:
        """Nothing to close: the connections are LiteLLM's."""

    def dump_state(self) -> dict[str, Any]:
        """What the router is made of."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncRouterEngine:
        """The engine that was saved."""
        return cls(RouterEngine.load_state(state))

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncRouterEngine:
        return self


def _check(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a router is made of, refused where it could not be one; the rest is litellm's to judge."""
    for path, advice in find_secrets(config):
        raise ValueError(f"router.{'.'.join(map(str, path))}: this holds a secret, and is saved and logged. {advice}")
    if proxys := sorted({"litellm_settings", "general_settings", "environment_variables"} & config.keys()):
        raise ValueError(f"router: {', '.join(proxys)} is the proxy's own. Give `model_list` and `router_settings`.")
    rows = config.get("model_list")
    if not isinstance(rows, list) or not rows:
        raise ValueError("router: a router needs its `model_list`, a list of deployments.")
    for index, row in enumerate(rows):
        match row:
            case {"model_name": str(), "litellm_params": {"model": str()}}:
                continue
        raise ValueError(
            f"router.model_list.{index}: a deployment has a `model_name`, its group, and `litellm_params` with the "
            "`model`: {model_name: fast, litellm_params: {model: openai/gpt-5-mini}}."
        )
    return dict(config)


def _make_router(config: Mapping[str, Any]) -> Any:
    try:
        import litellm
        from litellm.router import Router
    except ImportError:
        raise ConfigurationError("A router needs LiteLLM, which is not installed: pip install litellm.") from None
    litellm.suppress_debug_info = True  # else it prints advice on stdout with every error
    settings = {name: value for name, value in config.items() if name != "router_settings"}
    return Router(**settings, **config.get("router_settings", {}))


def _open_chat(dialect: Any, call: _Call) -> Any:
    """OpenAI's dialect over this call in the place of a connection; the deployments have their own keys."""
    return dialect(api_key="unused", base_url="http://router", transport=call)


class _Call:
    """Stands where DSPy sends its HTTP requests: hands one to the router, and is the reply."""

    http_version, reason, headers = "HTTP/1.1", "", (("content-type", "application/json"),)

    def __init__(self, engine: RouterEngine, request: Request) -> None:
        self.engine, self.request = engine, request
        self.status = 200
        self.given: dict[str, Any] = {}
        self.answer: Any = None
        self.chunks: list[Any] = []

    def stream(self, http: Any) -> _Call:
        """Take the request, as DSPy writes it for OpenAI, as what the router shall be asked."""
        self.given = {**json.loads(http.body), "model": self.request.model.removeprefix(PREFIX)}
        metadata = {name: value for name, value in self.given.pop("metadata", {}).items() if name != _MARK}
        self.given |= {"metadata": metadata} if metadata else {}
        if self.request.config.top_k is not None:  # no field of OpenAI's dialect; LiteLLM knows who takes it
            self.given["top_k"] = self.request.config.top_k
        return self

    def __enter__(self) -> _Call:
        router = self.engine.router
        try:
            self.answer = router.completion(**self.given)
        except Exception as error:
            self._fail(error)
        return self

    def __exit__(self, *problem: Any) -> None:
        if callable(close := getattr(self.answer, "close", None)):
            close()

    def read(self) -> Any:
        """The whole reply."""
        return self._json(self.answer, self.answer)

    def __iter__(self) -> Iterator[bytes]:
        with _broken_streams():
            for chunk in self.answer:
                yield self._frame(chunk)

    def _fail(self, error: Exception) -> None:
        """Say what went wrong as OpenAI would, so that DSPy knows what kind of error it is."""
        kind, status, body = type(error).__name__, getattr(error, "status_code", None), getattr(error, "body", None)
        detail = body.get("error", body) if isinstance(body, dict) else None
        code = _CODES.get(kind) or (detail.get("code") if isinstance(detail, dict) else None)
        self.status = 429 if kind == "RouterRateLimitError" else status if isinstance(status, int) else 500
        self.answer = {"error": {"message": str(getattr(error, "message", None) or error), "code": code, "type": kind}}

    def _frame(self, chunk: Any) -> bytes:
        """A piece of a stream; the one that says the usage says the cost too."""
        self.chunks.append(chunk)
        whole = None
        if getattr(chunk, "usage", None):
            from litellm import stream_chunk_builder

            whole = stream_chunk_builder(self.chunks)
        return b"data: " + self._json(chunk, whole) + b"\n\n"

    def _json(self, part: Any, priced: Any) -> bytes:
        if isinstance(part, dict):
            return json.dumps(part).encode()
        account = {} if priced is None else _account(self.engine.router, priced, part)
        return json.dumps({**part.model_dump(mode="json"), **account}).encode()


class _AsyncCall(_Call):
    """The same on an event loop."""

    async def __aenter__(self) -> _AsyncCall:
        # The first call imports LiteLLM, which would hold up the event loop for seconds.
        router = await asyncio.to_thread(lambda: self.engine.router)
        try:
            self.answer = await router.acompletion(**self.given)
        except Exception as error:
            self._fail(error)
        return self

    async def __aexit__(self, *problem: Any) -> None:
        close: Any = getattr(self.answer, "aclose", None)
        if close is not None:
            await close()

    async def read(self) -> bytes:
        return self._json(self.answer, self.answer)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _broken_streams():
            async for chunk in self.answer:
                yield self._frame(chunk)


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
