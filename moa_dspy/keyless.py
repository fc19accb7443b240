"""Settings and programs without their secrets: for what is written into files and pickles."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import dspy

from moa_dspy.config_secrets import is_secret
from moa_dspy.models import redact

__all__ = ["Keyless", "lms_in", "without_secrets"]


def without_secrets(settings: Mapping[str, Any], lm: dspy.BaseLM | None = None) -> tuple[dict[str, Any], list[str]]:
    """The settings of an LM without what is a secret by its name or its looks, at any depth.

    Args:
        settings: The settings.
        lm: The LM they belong to: its secrets are found under other names too.

    Returns:
        What is left, and the names of what is not, dotted where it was nested.

    Example:
        >>> without_secrets({"max_tokens": 9, "api_key": "k", "extra_body": {"user": "me", "token": "t"}})
        ({'max_tokens': 9, 'extra_body': {'user': 'me'}}, ['api_key', 'extra_body.token'])
    """
    left_out: list[str] = []

    def clean(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            kept = {}
            for key, item in value.items():
                where = (*path, str(key))
                if _is_secret(where, item, lm):
                    left_out.append(".".join(where))
                else:
                    kept[key] = clean(item, where)
            return kept
        if isinstance(value, (list, tuple)):
            return type(value)(clean(item, path) for item in value if not _is_secret(path, item, lm))
        return value

    return clean(settings, ()), left_out


class Keyless(dspy.Module):
    """A module whose pickles hold no secret: its LMs take their keys from the environment again.

    Copies within the process share the LMs as they are.
    """

    def __getstate__(self) -> dict[str, Any]:
        state = dspy.Module.__getstate__(self)
        lms = list(lms_in(state))
        # Only where there is something to leave out: a copy of one part no longer shares predictors with others.
        if not any(_tells(lm) for lm in lms):
            return state
        return copy.deepcopy(state, {id(lm): _untold(lm) if _tells(lm) else lm for lm in lms})

    def __copy__(self) -> Any:
        return self._with(dspy.Module.__getstate__(self), {})

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        memo.update({id(lm): memo.get(id(lm), lm) for lm in lms_in(vars(self))})
        return self._with(dspy.Module.__getstate__(self), memo, deep=True)

    def _with(self, state: dict[str, Any], memo: dict[int, Any], deep: bool = False) -> Any:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(state, memo) if deep else state)
        return clone


def lms_in(part: Any, seen: set[int] | None = None) -> Iterator[dspy.BaseLM]:
    """The LMs that a module holds, under whatever attribute, in lists and dicts too."""
    seen = set() if seen is None else seen
    if id(part) in seen:
        return
    seen.add(id(part))
    if isinstance(part, dspy.BaseLM):
        yield part
    elif isinstance(part, (list, tuple)):
        for item in part:
            yield from lms_in(item, seen)
    elif isinstance(part, (dict, dspy.Module)):
        for name, item in (part if isinstance(part, dict) else vars(part)).items():
            if name not in _NO_PARTS:
                yield from lms_in(item, seen)


_NO_PARTS = frozenset({"history", "callbacks", "demos", "traces", "train"})
_ADDRESS_WITH_LOGIN = re.compile(r"://[^/?#\s]+@|[?&][\w-]*(key|token|sig|secret|password)[\w-]*=", re.IGNORECASE)
_NAMED_SO = re.compile(r"key|token|secret|passw|credential|(^|_)auth($|_)|authorization|bearer|cookie|headers", re.I)
_OPEN = frozenset({"model", "model_type", "prompt_cache_key", "_dspy_lm_class"})


def _is_secret(path: tuple[str, ...], value: Any, lm: dspy.BaseLM | None) -> bool:
    """Whether a setting is a secret; a number is none, whatever it is called (`max_tokens`)."""
    name = path[-1] if path else ""
    if value is None or isinstance(value, (bool, int, float)) or name in _OPEN:
        return False
    if is_secret(name) or _NAMED_SO.search(name):
        return True
    return isinstance(value, str) and (bool(_ADDRESS_WITH_LOGIN.search(value)) or redact(value, lm) != value)


def _tells(lm: dspy.BaseLM) -> bool:
    # The history holds each call's settings, headers among them.
    return bool(lm.history or _told(lm)[1])


def _told(lm: dspy.BaseLM) -> tuple[dict[str, Any], list[str]]:
    settings = {name: value for name, value in vars(lm).items() if isinstance(value, (str, dict)) and name[0] != "_"}
    return without_secrets(settings, lm)


def _untold(lm: dspy.BaseLM) -> dspy.BaseLM:
    clean, left_out = _told(lm)
    copied = lm.copy()
    vars(copied).update(clean)
    vars(copied).update(dict.fromkeys(name for name in left_out if "." not in name))
    return copied
