"""What is secret, answered once: by its name, by its looks, and by whose it is.

A reference to an environment variable (`os.environ/GROQ_API_KEY`) is no secret: it says where one is.
"""

from __future__ import annotations

import base64
import copy
import io
import json
import logging
import os
import pickle
import re
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote, unquote

import cloudpickle  # type: ignore[import-untyped]
import dspy

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


def reference_name(value: Any) -> str | None:
    """The environment variable that `os.environ/NAME` (or `Bearer os.environ/NAME`) refers to; None if it is none."""
    found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return found and found.group(1)


def unset_references(settings: Any) -> list[str]:
    """The environment variables that settings name and that are not set."""
    names = dict.fromkeys(reference_name(value) for _, value in _leaves(settings))
    return [name for name in names if name and not os.environ.get(name)]


def find_secrets(data: Any, known: Iterable[str] = ()) -> list[KeyPath]:
    """Where secrets stand in the data; numbers are none, whatever they are called.

    Args:
        data: Mappings and lists.
        known: Texts that are secret wherever they stand.

    Examples:
        >>> find_secrets({"models": [{"model": "groq/x", "api_key": "abc"}]})
        [('models', 0, 'api_key')]
    """

    def is_one(path: KeyPath, value: Any) -> bool:
        if value is None or isinstance(value, (bool, int, float)) or reference_name(value):
            return False
        return any(map(is_secret, path)) or (isinstance(value, str) and mask(value, known) != value)

    return [path for path, value in _leaves(data) if is_one(path, value)]


def advise(path: KeyPath, data: Any) -> str:
    """What to write in the place of the secret at this path of the data."""
    name = next((step for step in reversed(path) if isinstance(step, str)), "api_key")
    variable = "MY_" + re.sub("[^A-Z0-9]", "_", name.upper())
    for step in path:
        if name == "api_key" and isinstance(data, Mapping) and "/" in (model := str(data.get("model"))):
            variable = f"{re.sub('[^A-Z0-9]', '_', model.split('/')[0].upper())}_API_KEY"  # as its provider has it
        data = data[step]
    if re.search("base|url|endpoint", name):
        return f"Leave the login out of {name}, and name the variable that holds the key: api_key: os.environ/MY_KEY."
    return f"Name the environment variable that holds it: {name}: os.environ/{variable}."


def without_secrets(
    settings: Mapping[str, Any], lm: dspy.BaseLM | dspy.Predict | None = None
) -> tuple[dict[str, Any], list[str]]:
    """The settings without what is secret, at any depth, and the dotted names of what is not in them.

    Args:
        settings: The settings, of an LM for instance.
        lm: The LM they belong to: its secrets are found under other names too.

    Examples:
        >>> without_secrets({"max_tokens": 9, "api_key": "k", "extra_body": {"user": "me", "token": "t"}})
        ({'max_tokens': 9, 'extra_body': {'user': 'me'}}, ['api_key', 'extra_body.token'])
    """
    found = dict.fromkeys(find_secrets(settings, secret_values(lm)))

    def clean(value: Any, path: KeyPath = ()) -> Any:
        if isinstance(value, Mapping):
            return {key: clean(item, (*path, key)) for key, item in value.items() if (*path, key) not in found}
        if isinstance(value, (list, tuple)):
            return [clean(item, (*path, i)) for i, item in enumerate(value) if (*path, i) not in found]
        return value

    return clean(settings), [".".join(map(str, path)) for path in found]


def secret_values(*lms: dspy.BaseLM | dspy.Predict | None) -> list[str]:
    """The secrets in the LMs' settings and in the environment, the longest first."""
    found: set[str] = set()
    for lm in lms:
        settings = getattr(lm, "kwargs", None) or getattr(lm, "config", {})  # of an LM, of a predictor
        for path, value in _leaves([settings, getattr(getattr(lm, "engine", None), "deployments", ())]):
            if variable := reference_name(value):
                found.add(os.environ.get(variable, ""))
            elif isinstance(value, str):
                found |= _secrets_of(value, any(map(is_secret, path)))
    short = {text for text in found if 4 <= len(text) < _SHORTEST and text.lower() not in _NO_KEYS}
    for name, text in os.environ.items():
        if not text.startswith("/"):  # PWD and SSH_AUTH_SOCK hold paths; SPARE_KEY_2 holds a key
            found |= _secrets_of(text, is_secret(name) or bool(re.search("(_|^)(KEY|TOKEN)_", name)))
    whole = {text for text in found if len(text) >= _SHORTEST}
    forms = {form for text in whole for form in (quote(text, safe=""), json.dumps(text)[1:-1])}
    return sorted(whole | forms | short, key=len, reverse=True)


def _secrets_of(text: str, is_named: bool) -> set[str]:
    """What of a setting's text is secret: the logins in addresses, and all of it if its name says so."""
    logins = set(map(unquote, _LOGIN.findall(text)))
    found = logins | {login.partition(":")[2] for login in logins} | {value for _, value in _QUERY.findall(text)}
    found |= {base64.b64encode(login.encode()).decode() for login in logins}  # as it is sent
    if is_named:
        # A header says "Bearer" before the key; a key of several lines is escaped in as many ways.
        found |= {text, text.split(" ")[-1], *text.split("\n")}
        with suppress(ValueError):  # credentials may be the text of their JSON
            for _, value in _leaves(json.loads(text) if text.lstrip().startswith("{") else ()):
                found |= _secrets_of(value, True) if isinstance(value, str) else set()
    return found


def _leaves(data: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(data, (Mapping, list, tuple)):
        for key, item in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _leaves(item, (*path, key))
    else:
        yield path, data


# Texts that leave.


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


def remember(holder: Holder) -> Holder:
    """The LM or the predictor: as long as it lives, its secrets are known wherever texts are masked."""
    _SEEN[id(holder)] = holder
    return holder


def remembered() -> list[Any]:
    """The LMs and predictors that `remember` was given, as far as they live."""
    return [holder for ref in _SEEN.valuerefs() if (holder := ref()) is not None]


def scrub(error: BaseException, *lms: dspy.BaseLM | None) -> BaseException:
    """The error, with what it and all those behind it say masked in place: it may end in a log or a traceback."""
    return _scrub(error, secret_values(*lms, *remembered()), {})


def _scrub(error: BaseException, values: Sequence[str], done: dict[int, BaseException]) -> BaseException:
    if id(error) in done:
        return done[id(error)]
    done[id(error)] = error
    said = {name: getattr(error, name, None) for name in ("args", "filename", "strerror", "__notes__")}
    for name, value in {**vars(error), **said}.items():
        tells = name in ("request", "_request") and mask(repr(value), values) != repr(value)
        if (clean := None if tells else _mask_within(value, values)) is not value:
            with suppress(AttributeError, TypeError):
                setattr(error, name, clean)
    suppressed = error.__suppress_context__  # which setting the cause would change
    for link in ("__cause__", "__context__"):
        if (behind := getattr(error, link)) is not None:
            setattr(error, link, _scrub(behind, values, done))
    error.__suppress_context__ = suppressed
    for one in getattr(error, "exceptions", ()):
        _scrub(one, values, done)
    if (told := str(error)) != (masked := mask(told, values)):  # it says more than stands in what can be set
        done[id(error)] = type(type(error).__name__, (Exception,), {})(masked)
    return done[id(error)]


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


# Objects that leave.


class Keyless(dspy.Module):
    """A module whose pickles hold no secret: its LMs take their keys from the environment again.

    Copies within the process share the LMs as they are.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        written = io.BytesIO()
        _KeylessPickler(written).dump(self)
        return pickle.loads, (written.getvalue(),)

    def __copy__(self) -> Any:
        return self._cloned({}, lambda state: state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self._cloned(memo, lambda state: copy.deepcopy(state, memo))

    def _cloned(self, memo: dict[int, Any], copied: Callable[[Any], Any]) -> Any:
        memo[id(self)] = clone = object.__new__(type(self))
        clone.__setstate__(copied(self.__getstate__()))
        return clone


class _KeylessPickler(cloudpickle.Pickler):
    """Writes LMs, and the settings of predictors, without their secrets, wherever a module holds them."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, dspy.BaseLM):
            return strip_lm(obj).__reduce_ex__(4)
        if isinstance(obj, Keyless):
            return object.__reduce_ex__(obj, 4)
        if isinstance(obj, dspy.Predict) and obj.config:
            reduced: Any = obj.__reduce_ex__(4)
            make, given, state, *rest = reduced
            return make, given, {**state, "config": without_secrets(obj.config, obj)[0]}, *rest
        return super().reducer_override(obj)


def strip_lm(lm: dspy.BaseLM) -> dspy.BaseLM:
    """The LM without its secrets and its history, which holds each call's headers: a copy, if it has any."""
    settings = {name: value for name, value in vars(lm).items() if isinstance(value, (str, dict))}
    clean, left_out = without_secrets(settings, lm)
    if not left_out and not lm.history:
        return lm
    copied = lm.copy()
    vars(copied).update({name: clean.get(name) for name in settings})
    return copied
