"""What is secret, answered once: by its name, by its looks, and by whose it is.

A reference to an environment variable (`os.environ/GROQ_API_KEY`) is no secret: it says where one is.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import dspy

__all__ = [
    "Keyless",
    "find_secrets",
    "is_secret",
    "mask",
    "redact",
    "reference_name",
    "secret_values",
    "strip_lm",
    "strip_module",
    "without_secrets",
]

KeyPath = tuple[int | str, ...]

_SECRET = re.compile(
    r"(^|_)(auth|authorization|bearer|cookies?|credentials?|jwt|passphrase|passwd|passwords?|pwd|sas|secrets?|sig)(_|$)"
    r"|(^|_)(headers?|key|pass|token)$|(access|account|ad|api|auth|private|session|signing)_?(key|token)s?(_|$)"
    r"|connection_?string"
)
_PUBLIC = re.compile(r"(cache|sort)_key$|cost_per_|(bos|eos|pad|stop|unk)_token")
_REFERENCE = re.compile(r"(?:(?:Bearer|Basic) )?os\.environ/([A-Za-z_]\w*)")
_LOOKS = re.compile(
    r"\b(?:sk|pk|rk|gsk|xai|hf|pplx|nvapi|ghp|gho|xoxb|AKIA|AIza|ya29|eyJ)[-_A-Za-z0-9.]{12,}"
    r"|(?<=[Bb]earer )(?!os\.environ/)(?=\S*\d)[^\s\"']+|(?<=[Bb]asic )(?=[A-Za-z]*[0-9+/=])[A-Za-z0-9+/=]{12,}"
)
_LOGIN = re.compile(r"(?<=://)[^/?#\s@'\"]+@")
_QUERY = re.compile(r"([?&][\w-]*(?:key|token|sig|secret|passw)[\w-]*=)[^&#\s'\"]+", re.IGNORECASE)
_SHORTEST = 8  # what is shorter stands in ordinary text too


def is_secret(name: object) -> bool:
    """Whether what is called so is a secret: a key, a token, headers, a password, a cloud's credentials.

    Example:
        >>> [is_secret(name) for name in ("apiKey", "X-Api-Key", "hf_token", "max_tokens", "prompt_cache_key")]
        [True, True, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", str(name)).lower().strip("_")
    return bool(_SECRET.search(words)) and not _PUBLIC.search(words)


def find_secrets(data: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    """Where data holds secrets, and what to write instead; never what they are.

    Example:
        >>> find_secrets({"models": [{"model": "groq/x", "api_key": "abc"}]})
        [(('models', 0, 'api_key'), 'Set an environment variable and name it: api_key: os.environ/GROQ_API_KEY.')]
    """
    return [(path, _advise(data, path)) for path, _ in _walk(data)]


def without_secrets(settings: Mapping[str, Any], lm: dspy.BaseLM | None = None) -> tuple[dict[str, Any], list[str]]:
    """The settings without what is secret, at any depth.

    Args:
        settings: The settings, of an LM for instance.
        lm: The LM they belong to: its secrets are found under other names too.

    Returns:
        What is left, and the names of what is not, dotted where it was nested.

    Example:
        >>> without_secrets({"max_tokens": 9, "api_key": "k", "extra_body": {"user": "me", "token": "t"}})
        ({'max_tokens': 9, 'extra_body': {'user': 'me'}}, ['api_key', 'extra_body.token'])
    """
    found = dict(_walk(settings, secret_values(lm)))

    def clean(value: Any, path: KeyPath = ()) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item, (*path, key)) for key, item in value.items() if (*path, key) not in found}
        if isinstance(value, (list, tuple)):
            return [clean(item, (*path, i)) for i, item in enumerate(value) if (*path, i) not in found]
        return value

    return clean(settings), [".".join(map(str, path)) for path in found]


def secret_values(*lms: dspy.BaseLM | None) -> list[str]:
    """The secrets in the LMs' settings and in the environment, the longest first."""
    settings = [found for lm in lms for found in _walk(getattr(lm, "kwargs", {}))]
    named = [value for path, value in settings if isinstance(value, str) and any(map(is_secret, path))]
    found = [*named, *(value.split(" ")[-1] for value in named)]  # a header says "Bearer" before the key
    engines: list[Any] = [getattr(lm, "engine", None) for lm in lms]
    found += [text for engine in engines if hasattr(engine, "secrets") for text in engine.secrets()]
    # SPARE_KEY_2 holds a key; PWD and SSH_AUTH_SOCK hold paths.
    held = {name: text for name, text in os.environ.items() if not text.startswith("/")}
    found += [text for name, text in held.items() if is_secret(name) or re.search("(_|^)(KEY|TOKEN)_", name)]
    return sorted({text for text in found if len(text) >= _SHORTEST}, key=len, reverse=True)


def mask(text: str, values: Iterable[str]) -> str:
    """The text with these, and whatever looks like a secret, masked.

    Example:
        >>> mask("https://me:pw@host/?token=abc says hunter2-hunter2", ["hunter2-hunter2"])
        'https://***@host/?token=*** says ***'
    """
    for value in values:
        text = text.replace(value, "***")
    return _QUERY.sub(r"\1***", _LOGIN.sub("***@", _LOOKS.sub("***", text)))


def redact(text: str, *lms: dspy.BaseLM | None) -> str:
    """The text with the LMs' secrets, those of the environment, and whatever looks like one, masked."""
    return mask(text, secret_values(*lms))


def reference_name(value: Any) -> str | None:
    """The environment variable that `os.environ/NAME` (or `Bearer os.environ/NAME`) refers to; None if it is none."""
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return found and found.group(1)


class Keyless(dspy.Module):
    """A module whose pickles hold no secret: its LMs take their keys from the environment again.

    Copies within the process share the LMs as they are.
    """

    def __getstate__(self) -> dict[str, Any]:
        return dspy.Module.__getstate__(strip_module(self))

    def __copy__(self) -> Any:
        clone: Any = object.__new__(type(self))
        clone.__setstate__(dspy.Module.__getstate__(self))
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone: Any = object.__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(dspy.Module.__getstate__(self), memo))
        return clone


def strip_module(module: Any) -> Any:
    """A copy of the module without the secrets of its LMs and of its predictors' own settings.

    The module itself where there are none: a part that is copied no longer shares predictors with the others.

    Raises:
        TypeError: If a secret is held by what cannot be copied.
    """
    held = list(_held_by(module))
    if not any(_tells(*one) for one in held):
        return module
    clone = copy.deepcopy(module, {id(item): item for _, _, item in held if isinstance(item, dspy.BaseLM)})
    originals = {id(module), *(id(item) for _, _, item in held)}
    stripped: dict[int, Any] = {}
    for holder, key, item in [one for one in _held_by(clone) if _tells(*one)]:
        if id(holder) in originals or isinstance(holder, tuple):
            raise TypeError(
                f"A secret is held by a {type(holder).__name__} that cannot be copied, so it cannot be left out of a "
                "pickle. Let the LM read its key from the environment."
            )
        if id(item) not in stripped:
            stripped[id(item)] = strip_lm(item) if isinstance(item, dspy.BaseLM) else without_secrets(item)[0]
        target: Any = vars(holder) if isinstance(holder, dspy.Module) else holder
        target[key] = stripped[id(item)]
    return clone


def strip_lm(lm: dspy.BaseLM) -> dspy.BaseLM:
    """A copy of the LM without its secrets and its history, which holds each call's headers."""
    settings = _settings_of(lm)
    clean, _ = without_secrets(settings, lm)
    copied = lm.copy()
    vars(copied).update({name: clean.get(name) for name in settings})
    return copied


def _walk(data: Any, known: Iterable[str] = (), path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Each secret in the data, with where it stands; numbers are none, whatever they are called."""
    if isinstance(data, (Mapping, list, tuple)):
        for key, item in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _walk(item, known, (*path, key))
    elif data is None or isinstance(data, (bool, int, float)) or reference_name(data):
        return
    elif any(map(is_secret, path)) or (isinstance(data, str) and mask(data, known) != data):
        yield path, data


def _advise(data: Any, path: KeyPath) -> str:
    """What to write in the place of the secret at this path."""
    provider = ""
    for step in path:
        if isinstance(data, Mapping) and isinstance(model := data.get("model"), str):
            provider = model.partition("/")[0] if "/" in model else "openai"
        data = data[step]
    name = next((step for step in reversed(path) if isinstance(step, str)), "it")
    leave = f"Leave the login out of {name}. " if re.search("base|url|endpoint", name) else ""
    name = "api_key" if leave else name
    variable = re.sub(r"\W+", "_", f"{provider}_{name}" if name == "api_key" and provider else name).upper()
    return f"{leave}Set an environment variable and name it: {name}: os.environ/{variable}."


# What of a module holds neither LMs nor settings; its history alone can be thousands of entries long.
_SKIPPED = frozenset({"history", "callbacks", "demos", "traces", "train"})


def _held_by(part: Any, seen: set[int] | None = None) -> Iterator[tuple[Any, Any, Any]]:
    """What a module holds in its attributes, lists and dicts: holder, name or place, item."""
    seen = set() if seen is None else seen
    if not isinstance(part, (dspy.Module, dict, list, tuple)) or id(part) in seen:
        return
    seen.add(id(part))
    named = vars(part) if isinstance(part, dspy.Module) else part
    for key, item in named.items() if isinstance(named, dict) else enumerate(named):
        if key not in _SKIPPED:
            yield part, key, item
            yield from _held_by(item, seen)


def _tells(holder: Any, key: Any, item: Any) -> bool:
    if isinstance(item, dspy.BaseLM):
        return bool(item.history) or any(_walk(_settings_of(item), secret_values(item)))
    return isinstance(holder, dspy.Predict) and key == "config" and any(_walk(item))


def _settings_of(lm: dspy.BaseLM) -> dict[str, Any]:
    return {name: value for name, value in vars(lm).items() if isinstance(value, (str, dict))}
