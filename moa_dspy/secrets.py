"""What is a secret by its name, and where a config holds one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from dspy.clients.engines.lm15_engine import LM15Engine
from dspy.lm15 import LM15Error, RouterConfig

__all__ = ["KeyPath", "is_secret", "secrets"]

KeyPath = tuple[int | str, ...]


def secrets(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Where there are secrets in a config, and what to write instead; never what they are."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            where = (*path, str(key))
            if _refers(where, value):
                continue
            if (is_secret(key) and isinstance(value, (str, Mapping, list))) or _logs_in(key, value):
                yield where, f"a config holds no secrets, as it is saved, shared and logged. {_instead(where, data)}"
            else:
                yield from secrets(value, where)
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from secrets(value, (*path, index))


def is_secret(name: object) -> bool:
    """Whether what is called so is a secret by its name."""
    text = str(name).lower()
    return bool(_SECRET.search(text)) and "cost_per" not in text


_SECRET = re.compile(
    r"api_?key|access_?key|private_?key|secret|passwd|password|credential|authorization|bearer|cookie"
    r"|headers?$|(^|_)(key|token)$"
)
_ADDRESS = re.compile(r"base|url|endpoint")
_LOGIN = re.compile(r"://[^/?#\s]+@|[?&][\w-]*(key|token|sig|secret|password)[\w-]*=", re.IGNORECASE)
_REFERENCE = re.compile(r"os\.environ/[A-Za-z_]\w*")


def _refers(path: KeyPath, value: Any) -> bool:
    """Whether a deployment names the variable that holds its key: LiteLLM reads it, the file holds no secret."""
    return path[-2:-1] == ("litellm_params",) and isinstance(value, str) and bool(_REFERENCE.fullmatch(value))


def _logs_in(name: object, value: Any) -> bool:
    return isinstance(value, str) and bool(_ADDRESS.search(str(name)) and _LOGIN.search(value))


def _instead(path: KeyPath, around: Mapping[Any, Any]) -> str:
    name = str(path[-1])
    if re.search("headers?$", name.lower()):
        return "Give headers in code: dspy.LM(model, extra_headers=...) is a proposer too."
    is_key = _ADDRESS.search(name) or re.search("api_?key", name.lower())
    variable = _variable(around.get("model")) if is_key else re.sub(r"\W+", "_", name).upper()
    if _ADDRESS.search(name):
        return f"Leave the login out of the address, and set the environment variable {variable}."
    if path[-2:-1] == ("litellm_params",):
        return f"Name the environment variable that holds it: {name}: os.environ/{variable}."
    return f"Remove it and set the environment variable {variable}."


def _variable(model: Any) -> str:
    """The environment variable in which the key of the model's provider is looked for."""
    provider = model.partition("/")[0] if isinstance(model, str) and "/" in model else "openai"
    try:
        found: str | None = LM15Engine(RouterConfig(env={})).resolve(f"{provider}/any").env_key
    except LM15Error:
        found = None
    return found or f"{re.sub(r'[^A-Za-z0-9]+', '_', provider).upper()}_API_KEY"
