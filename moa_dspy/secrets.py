"""What is secret, answered once: by its name, by its looks, and by whose it is.

A reference to an environment variable (`os.environ/GROQ_API_KEY`) is no secret: it says where one is.
"""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import re
import traceback
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import dspy

__all__ = [
    "Keyless",
    "find_secrets",
    "is_secret",
    "mask",
    "redact",
    "reference_name",
    "remember",
    "remembered",
    "scrub",
    "secret_values",
    "strip_lm",
    "strip_module",
    "without_secrets",
]

KeyPath = tuple[int | str, ...]
Holder = TypeVar("Holder")

_SECRET = re.compile(
    r"(^|_)(auth|authorization|bearer|cookies?|credentials?|jwt|passphrase|passwd|passwords?|pwd|sas|secrets?|sig)(_|$)"
    r"|(^|_)(headers?|key|pass|token)$|(access|account|ad|api|auth|private|session|signing)_?(key|token)s?(_|$)"
    r"|connection_?string"
)
_PUBLIC = re.compile(r"(cache|sort)_key$|cost_per_|(bos|eos|pad|stop|unk)_token")
_REFERENCE = re.compile(r"(?:(?:Bearer|Basic) )?os\.environ/([A-Za-z_]\w*)")
_LOOKS = re.compile(
    r"\b(?:(?:[sprc]k|gsk|xai|hf|pplx|nvapi|gh[opsu]|github_pat|glpat|xox[abp]|r8|tgp)[-_]|AKIA|AIza|ya29|eyJ)"
    r"[-_A-Za-z0-9.]{12,}|(?<=PRIVATE KEY-----)[^-]+"
    r"|(?<=[Bb]earer )(?!os\.environ/)(?=\S*\d)[^\s\"']+|(?<=[Bb]asic )(?=[A-Za-z]*[0-9+/=])[A-Za-z0-9+/=]{12,}"
)
_LOGIN = re.compile(r"(?<=://)[^/?#\s'\"]+(?=@)")
_QUERY = re.compile(
    r"(?<=[?&;])([\w.%-]{0,40}(?:key|token|sig|signature|secret|passw\w{0,40}|pwd|auth|\bcode)=)([^&#;\s'\"]+)",
    re.IGNORECASE,
)
_SHORTEST = 8  # what is shorter stands in ordinary text too, so it is masked only as a word, and only an LM's own
_NO_KEYS = frozenset({"empty", "none", "null", "dummy", "fake", "local", "test", "unused", "ollama", "true"})
_SEEN: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()


def is_secret(name: object) -> bool:
    """Whether what is called so is a secret: a key, a token, headers, a password, a cloud's credentials.

    Examples:
        >>> [is_secret(name) for name in ("apiKey", "X-Api-Key", "hf_token", "max_tokens", "prompt_cache_key")]
        [True, True, True, False, False]
    """
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "_", str(name)).lower().strip("_")
    return bool(_SECRET.search(words)) and not _PUBLIC.search(words)


def find_secrets(data: Mapping[str, Any]) -> list[tuple[KeyPath, str]]:
    """Where data holds secrets, and what to write instead; never what they are.

    Examples:
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

    Examples:
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
    settings = [found for lm in lms for found in _walk(getattr(lm, "kwargs", None) or getattr(lm, "config", {}))]
    settings += [inside for path, value in settings for inside in _walk(_as_data(value), path=path)]
    texts = [value for _, value in settings if isinstance(value, str)]
    named = [value for path, value in settings if isinstance(value, str) and any(map(is_secret, path))]
    # A header says "Bearer" before the key; a key of several lines is escaped in as many ways.
    found = [part for value in named for part in (value, value.split(" ")[-1], *value.split("\n"))]
    engines: list[Any] = [getattr(lm, "engine", None) for lm in lms]
    found += [text for engine in engines if hasattr(engine, "secrets") for text in engine.secrets()]
    found += _in_addresses(texts)
    short = {text for text in found if 4 <= len(text) < _SHORTEST and text.lower() not in _NO_KEYS}
    # SPARE_KEY_2 holds a key; PWD and SSH_AUTH_SOCK hold paths.
    held = {name: text for name, text in os.environ.items() if not text.startswith("/")}
    found += [text for name, text in held.items() if is_secret(name) or re.search("(_|^)(KEY|TOKEN)_", name)]
    found += _in_addresses(text for text in held.values() if "://" in text)
    whole = {text for text in found if len(text) >= _SHORTEST}
    forms = {form for text in whole for form in (quote(text, safe=""), json.dumps(text)[1:-1])}
    return sorted(whole | forms | short, key=len, reverse=True)


def mask(text: str, values: Iterable[str]) -> str:
    """The text with these, and whatever looks like a secret, masked.

    Examples:
        >>> mask("https://me:pw@host/?token=abc says hunter2-hunter2", ["hunter2-hunter2"])
        'https://***@host/?token=*** says ***'
    """
    for value in values:
        if value in text:
            is_short = len(value) < _SHORTEST
            text = re.sub(rf"\b{re.escape(value)}\b", "***", text) if is_short else text.replace(value, "***")
    return _QUERY.sub(r"\1***", _LOGIN.sub("***", _LOOKS.sub("***", text)))


def redact(text: str, *lms: dspy.BaseLM | None) -> str:
    """The text with the secrets of the LMs and of the environment, and whatever looks like one, masked."""
    return mask(text, secret_values(*lms, *remembered()))


def scrub(error: BaseException, *lms: dspy.BaseLM | None) -> BaseException:
    """The error, with what it and all those behind it say masked in place: it may end in a log or a traceback."""
    return _scrub(error, secret_values(*lms, *remembered()), {})


def remember(holder: Holder) -> Holder:
    """The LM or the predictor: as long as it lives, its secrets are known wherever texts are masked."""
    _SEEN[id(holder)] = holder
    return holder


def remembered() -> list[Any]:
    """The LMs and predictors that `remember` was given, as far as they live."""
    return [holder for ref in _SEEN.valuerefs() if (holder := ref()) is not None]


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
    """
    held = list(_held_by(module))
    telling = list(filter(_tells, held))
    if not telling:
        return module
    # A copy shares its LMs, here those that tell nothing: a deep copy takes what stands in its memo.
    memo = {id(one): one for one in held if isinstance(one, dspy.BaseLM)}
    memo |= {id(one): strip_lm(one) if isinstance(one, dspy.BaseLM) else without_secrets(one)[0] for one in telling}
    clone = copy.deepcopy(module, memo)
    if any(map(_tells, _held_by(clone))):
        raise TypeError(
            "A secret is held by what cannot be copied, so it cannot be left out of a pickle. Let the LM read its key "
            "from the environment."
        )
    return clone


def strip_lm(lm: dspy.BaseLM) -> dspy.BaseLM:
    """A copy of the LM without its secrets and its history, which holds each call's headers."""
    settings = _settings_of(lm)
    clean, _ = without_secrets(settings, lm)
    copied = lm.copy()
    vars(copied).update({name: clean.get(name) for name in settings})
    return copied


def _scrub(error: BaseException, values: Sequence[str], done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:
        return done[id(error)]
    done[id(error)] = error
    for name, value in {**vars(error), **{name: getattr(error, name, None) for name in _OF_ERRORS}}.items():
        tells = name in ("request", "_request") and mask(repr(value), values) != repr(value)
        if (clean := None if tells else _mask_within(value, values)) is not value:
            with suppress(AttributeError, TypeError):
                setattr(error, name, clean)
    for link in ("__cause__", "__context__"):
        behind = getattr(error, link)
        if behind is not None and (clean := _scrub(behind, values, done)) is not behind:
            suppressed = error.__suppress_context__
            setattr(error, link, clean)
            error.__suppress_context__ = suppressed
    for one in getattr(error, "exceptions", ()):
        _scrub(one, values, done)
    if (told := str(error)) != (masked := mask(told, values)):  # it says more than stands in what can be set
        done[id(error)] = type(type(error).__name__, (Exception,), {})(masked)
    return done[id(error)]


_OF_ERRORS = ("args", "filename", "strerror", "__notes__")


def _mask_within(value: Any, values: Sequence[str], depth: int = 4) -> Any:
    """The value with its texts masked; the very same one if there is nothing to mask."""
    if isinstance(value, str):
        masked = mask(value, values)
        return value if masked == value else masked
    if not depth or not (isinstance(value, dict) or type(value) in (list, tuple)):
        return value
    items = list(value.values() if isinstance(value, dict) else value)
    clean = [_mask_within(item, values, depth - 1) for item in items]
    if all(new is old for new, old in zip(clean, items, strict=True)):
        return value
    return dict(zip(value, clean, strict=True)) if isinstance(value, dict) else type(value)(clean)


def _as_data(value: Any) -> Any:
    """Credentials that are given as the text of their JSON."""
    try:
        return json.loads(value) if isinstance(value, str) and value.lstrip().startswith("{") else None
    except ValueError:
        return None


def _in_addresses(texts: Iterable[str]) -> Iterator[str]:
    """The logins in URLs, as they are sent too, and the secret ones among their parameters."""
    for text in texts:
        for login in map(unquote, _LOGIN.findall(text)):
            yield from (login, login.partition(":")[2], base64.b64encode(login.encode()).decode())
        yield from (value for _, value in _QUERY.findall(text))


class _Masking(logging.Filter):
    """Masks what others log of our calls: at DEBUG, whole requests with their addresses and headers."""

    def filter(self, record: logging.LogRecord) -> bool:
        values = secret_values(*remembered())
        record.msg, record.args = mask(record.getMessage(), values), None
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            record.exc_text = mask("".join(traceback.format_exception(record.exc_info[1])).rstrip(), values)
        return True


for _name in ("LiteLLM", "LiteLLM Router", "LiteLLM Proxy", "httpx", "openai", "openai._base_client"):
    logging.getLogger(_name).addFilter(_Masking())


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


def _held_by(part: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """The LMs in a module's attributes, lists and dicts, and the settings of its predictors."""
    seen = set() if seen is None else seen
    if isinstance(part, dspy.BaseLM):
        yield part
    elif isinstance(part, (dspy.Module, dict, list, tuple)) and id(part) not in seen:
        seen.add(id(part))
        if isinstance(part, dspy.Predict):
            yield part.config
        held = vars(part) if isinstance(part, dspy.Module) else part
        for key, item in held.items() if isinstance(held, dict) else enumerate(held):
            if key not in _SKIPPED:
                yield from _held_by(item, seen)


def _tells(held: Any) -> bool:
    if isinstance(held, dspy.BaseLM):
        return bool(held.history) or any(_walk(_settings_of(held), secret_values(held)))
    return any(_walk(held))


def _settings_of(lm: dspy.BaseLM) -> dict[str, Any]:
    return {name: value for name, value in vars(lm).items() if isinstance(value, (str, dict))}
