"""Models behind a `litellm.Router`: a model may be a router's group of deployments.

DSPy writes each request and reads each reply in OpenAI's dialect; the router stands in the place of a connection.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import dspy
from dspy.clients.costs import estimate_cost
from dspy.clients.engines.litellm_errors import litellm_errors
from dspy.lm15 import (
    AsyncOpenAIChatLM,
    ConfigurationError,
    OpenAIChatLM,
    Request,
    Response,
    response_from_openai_chat,
)

from moa_dspy.files import read_data
from moa_dspy.secrets import advise, find_secrets, unset_references, without_secrets
from moa_dspy.values import hash_of

__all__ = ["PREFIX", "AsyncRouterEngine", "RouterEngine", "as_engine", "router_lm"]

PREFIX: Final = "router/"
_MARK = "router_deployments"  # an LM's fingerprint of its deployments: for DSPy's cache, not for the provider


def router_lm(group: str, router: Any, **options: Any) -> dspy.LM:
    """The LM of a router's group of deployments.

    Args:
        group: The group's name, with or without `router/` before it.
        router: A `litellm.Router`, or what it is made of as litellm's proxy reads it (`model_list`,
            `router_settings`), as a dict or the path of its YAML file; or the `RouterEngine` of either. LMs of one
            engine share the router: its limits, failures and cooldowns.
        **options: What `dspy.LM` takes. `num_retries` is 0 by default: the router retries by itself, and DSPy would
            repeat all of its retries and fallbacks.

    Raises:
        ValueError: If the router has no such group, or holds a key.
        TypeError: If `router` is no router.

    Examples:
        >>> deployment = {"model_name": "fast", "litellm_params": {"model": "openai/gpt-5-mini"}}
        >>> router_lm("fast", {"model_list": [deployment]}).model
        'router/fast'
    """
    engine, group = as_engine(router), group.removeprefix(PREFIX)
    groups = list(dict.fromkeys(row["model_name"] for row in engine.deployments))
    if not any(fnmatchcase(group, known) for known in groups):
        raise ValueError(f"The router has no group {group!r}. Its groups: {', '.join(groups)}.")
    # DSPy's cache knows a model by its name: other deployments under that name must not get these answers.
    rows = [without_secrets(row["litellm_params"])[0] for row in engine.deployments if row["model_name"] == group]
    options["metadata"] = {**options.get("metadata", {}), _MARK: hash_of(rows, digits=12)}
    options.setdefault("num_retries", 0)
    return dspy.LM(PREFIX + group, engine=engine, async_engine=AsyncRouterEngine(engine), **options)


def as_engine(router: Any) -> RouterEngine:
    """The engine over this router; see `router_lm`."""
    return router if isinstance(router, RouterEngine) else RouterEngine(router)


class RouterEngine:
    """DSPy's synchronous engine over a router, which repeats by itself; `config` is what it is made of, if given so."""

    def __init__(self, router: Any) -> None:
        router = read_data(router) if isinstance(router, (str, Path)) else router
        if not isinstance(router, Mapping) and not hasattr(router, "get_model_list"):
            raise TypeError(
                f"A router is a litellm.Router, or a mapping with a `model_list`, not {type(router).__name__}."
            )
        self.config: dict[str, Any] | None = _check(router) if isinstance(router, Mapping) else None
        self._router: Any = None if self.config else router
        self._lock = threading.Lock()

    @property
    def deployments(self) -> list[Any]:
        """Its `model_list`."""
        if self.config:
            return list(self.config["model_list"])
        registry = getattr(self._router, "registry", None)  # LiteLLM's newer name for it
        return list((registry().deployments(None) if registry else self._router.get_model_list()) or ())

    @property
    def router(self) -> Any:
        """The `litellm.Router`."""
        with self._lock:
            if self._router is None and self.config is not None:
                if unset := unset_references(self.deployments):
                    # LiteLLM would go on without, and send this deployment another provider's key.
                    raise ConfigurationError(
                        f"The environment variable {' and '.join(unset)}, which a deployment of the router names, is "
                        "not set. Set it, or take the deployment out."
                    )
                self._router = _make_router(self.config)
            return self._router

    def complete(self, request: Request) -> Response:
        return _open_chat(OpenAIChatLM, _Call(self, request)).complete(request)

    def stream(self, request: Request) -> Iterator[Any]:
        yield from _open_chat(OpenAIChatLM, _Call(self, request)).stream(request)

    def dump_state(self) -> dict[str, Any]:
        """What the router is made of, which holds no secrets."""
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


class AsyncRouterEngine:
    """DSPy's asynchronous engine over the router of a `RouterEngine`."""

    def __init__(self, engine: RouterEngine) -> None:
        self.engine = engine

    async def complete(self, request: Request) -> Response:
        return await _open_chat(AsyncOpenAIChatLM, _AsyncCall(self.engine, request)).complete(request)

    async def stream(self, request: Request) -> AsyncIterator[Any]:
        async for event in _open_chat(AsyncOpenAIChatLM, _AsyncCall(self.engine, request)).stream(request):
            yield event

    def dump_state(self) -> dict[str, Any]:
        """What the router is made of."""
        return self.engine.dump_state()

    @classmethod
    def load_state(cls, state: Mapping[str, Any]) -> AsyncRouterEngine:
        """The engine that was saved."""
        return cls(RouterEngine.load_state(state))


def _check(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a router is made of, refused where it could not be one; the rest is litellm's to judge."""
    for path in find_secrets(config):
        where = ".".join(map(str, path))
        raise ValueError(f"router.{where}: this holds a secret, and is saved and logged. {advise(path, config)}")
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

    status, http_version, reason, headers = 200, "HTTP/1.1", "", (("content-type", "application/json"),)

    def __init__(self, engine: RouterEngine, request: Request) -> None:
        self.engine, self.request = engine, request
        self.given: dict[str, Any] = {}
        self.answer: Any = None

    def stream(self, http: Any) -> _Call:
        """Take the request, as DSPy writes it for OpenAI, as what the router shall be asked."""
        self.given = {**json.loads(http.body), "model": self.request.model.removeprefix(PREFIX)}
        metadata = {name: value for name, value in self.given.pop("metadata", {}).items() if name != _MARK}
        self.given |= {"metadata": metadata} if metadata else {}
        if self.request.config.top_k is not None:  # no field of OpenAI's dialect; LiteLLM knows who takes it
            self.given["top_k"] = self.request.config.top_k
        return self

    def __enter__(self) -> _Call:
        with litellm_errors(model=self.request.model):
            self.answer = self.engine.router.completion(**self.given)
        return self

    def __exit__(self, *problem: Any) -> None:
        if callable(close := getattr(self.answer, "close", None)):
            close()

    def read(self) -> Any:
        """The whole reply."""
        return self._json(self.answer)

    def __iter__(self) -> Iterator[bytes]:
        with litellm_errors(model=self.request.model):
            for chunk in self.answer:
                yield b"data: " + self._json(chunk) + b"\n\n"

    def _json(self, part: Any) -> bytes:
        """A reply or a piece of a stream; what says the usage says the cost too."""
        data = part.model_dump(mode="json")
        if data.get("usage"):
            data |= {"response_cost": _cost(self.engine.deployments, data), "deployment": data.get("model")}
        return json.dumps(data).encode()


class _AsyncCall(_Call):
    """The same on an event loop."""

    async def __aenter__(self) -> _AsyncCall:
        # The first call imports LiteLLM, which would hold up the event loop for seconds.
        router = await asyncio.to_thread(lambda: self.engine.router)
        with litellm_errors(model=self.request.model):
            self.answer = await router.acompletion(**self.given)
        return self

    async def __aexit__(self, *problem: Any) -> None:
        close: Any = getattr(self.answer, "aclose", None)
        if close is not None:
            await close()

    async def read(self) -> bytes:
        return self._json(self.answer)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with litellm_errors(model=self.request.model):
            async for chunk in self.answer:
                yield b"data: " + self._json(chunk) + b"\n\n"


def _cost(deployments: list[Any], answer: Mapping[str, Any]) -> float | None:
    """What an answer costs in USD; None where those that may have given it have several prices, or an unknown one."""
    params, model, usage = [row["litellm_params"] for row in deployments], answer.get("model") or "", answer["usage"]
    # Providers date their names: gpt-5-2026-01-01 is of gpt-5.
    named = [one for one in params if f"/{one['model']}".endswith(f"/{model}")]
    named = named or [one for one in params if model.startswith(one["model"].rpartition("/")[2])]

    def price(one: Mapping[str, Any]) -> float | None:
        stated: list[Any] = [one.get(f"{kind}_cost_per_token") for kind in ("input", "output")]
        if None not in stated:
            return float(usage["prompt_tokens"] * stated[0] + usage["completion_tokens"] * stated[1])
        said = [{"message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}]
        told = response_from_openai_chat({"model": model, "usage": usage, "choices": said})
        provider = one["model"].partition("/")[0] if "/" in one["model"] else "openai"
        known: float | None = estimate_cost(told, provider=provider, requested_model=model)[0]
        return known

    costs = set(map(price, named or params))
    return costs.pop() if len(costs) == 1 else None
