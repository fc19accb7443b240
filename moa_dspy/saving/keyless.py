"""Settings and programs without their secrets: for what is written into files and pickles."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, TypeVar

import dspy

from moa_dspy.models import redact

__all__ = ["Keyless", "keyless", "keyless_lm", "lms_in", "without_secrets"]

ModuleT = TypeVar("ModuleT", bound=dspy.Module)


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
            return [clean(item, path) for item in value if not _is_secret(path, item, lm)]
        return value

    return clean(settings, ()), left_out


class Keyless(dspy.Module):
    """A module whose pickles hold no secret: its LMs take their keys from the environment again.

    Copies within the process share the LMs as they are.
    """

    def __getstate__(self) -> dict[str, Any]:
        return dspy.Module.__getstate__(keyless(self))

    def __copy__(self) -> Any:
        clone: Any = object.__new__(type(self))
        clone.__setstate__(dspy.Module.__getstate__(self))
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        clone: Any = object.__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(dspy.Module.__getstate__(self), memo))
        return clone


def keyless(module: ModuleT) -> ModuleT:
    """A copy of the module whose LMs hold no secret; the module itself where there is none.

    Raises:
        TypeError: If an LM with a secret is held by what cannot be copied.
    """
    # Only where there is something to leave out: a copied part no longer shares predictors with the others.
    if not any(map(_tells, lms_in(module))):
        return module
    clone = copy.deepcopy(module, {id(lm): lm for lm in lms_in(module)})
    _swap(clone, {id(lm): keyless_lm(lm) for lm in lms_in(clone) if _tells(lm)}, {id(part) for part in _parts(module)})
    return clone


def keyless_lm(lm: dspy.BaseLM) -> dspy.BaseLM:
    """A copy of the LM without its secrets and its history."""
    clean, left_out = _told(lm)
    copied = lm.copy()
    vars(copied).update(clean | dict.fromkeys(name for name in left_out if "." not in name))
    return copied


def lms_in(module: dspy.Module) -> list[dspy.BaseLM]:
    """The LMs that a module holds, under whatever attribute, in lists and dicts too."""
    held = {id(item): item for part in _parts(module) for _, item in _items(part) if isinstance(item, dspy.BaseLM)}
    return list(held.values())


def _parts(part: Any, seen: set[int] | None = None) -> Iterator[Any]:
    """A module and the modules, lists and dicts in it, each once."""
    seen = set() if seen is None else seen
    if isinstance(part, (dspy.Module, dict, list, tuple)) and id(part) not in seen:
        seen.add(id(part))
        yield part
        for _, item in _items(part):
            yield from _parts(item, seen)


def _items(part: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(part, dspy.Module):
        return ((name, item) for name, item in vars(part).items() if name not in _NO_PARTS)
    return iter(part.items()) if isinstance(part, dict) else iter(enumerate(part))


def _swap(module: dspy.Module, others: Mapping[int, dspy.BaseLM], originals: Collection[int]) -> None:
    """Put other LMs into a copied module."""
    for part in list(_parts(module)):
        changes = {key: others[id(item)] for key, item in _items(part) if id(item) in others}
        if changes and (id(part) in originals or isinstance(part, tuple)):
            raise TypeError(
                f"An LM with a key is held by a {type(part).__name__} that cannot be copied, so it cannot be left out "
                "of a pickle. Let the LM read its key from the environment."
            )
        target: Any = vars(part) if isinstance(part, dspy.Module) else part
        for key, lm in changes.items():
            target[key] = lm


_NO_PARTS = frozenset({"history", "callbacks", "demos", "traces", "train"})
_SECRET = re.compile(
    r"key|token|secret|passw|passphrase|pwd|credential|authorization|bearer|cookie|jwt|connection_?string|headers?$"
    r"|(^|_)(auth|sas|sig)($|_)",
    re.IGNORECASE,
)
_ADDRESS_WITH_LOGIN = re.compile(r"://[^/?#\s]+@|[?&][\w-]*(key|token|sig|secret|passw)[\w-]*=", re.I)
# The name of the variable that holds it, as the deployments of a router say.
_REFERENCE = re.compile(r"os\.environ/[A-Za-z_]\w*")
_OPEN = frozenset({"model", "model_type", "finetuning_model", "prompt_cache_key", "_dspy_lm_class"})


def _is_secret(path: tuple[str, ...], value: Any, lm: dspy.BaseLM | None) -> bool:
    """Whether a setting is a secret; numbers are none, whatever they are called (`max_tokens`, `stop_token_ids`)."""
    name = path[-1] if path else ""
    numbers = value if isinstance(value, (list, tuple)) and value else [value]
    if name in _OPEN or all(number is None or isinstance(number, (bool, int, float)) for number in numbers):
        return False
    if isinstance(value, str) and _REFERENCE.fullmatch(value):
        return False
    if _SECRET.search(name):
        return True
    return isinstance(value, str) and (bool(_ADDRESS_WITH_LOGIN.search(value)) or redact(value, lm) != value)


def _tells(lm: dspy.BaseLM) -> bool:
    # The history holds each call's settings, headers among them.
    return bool(lm.history or _told(lm)[1])


def _told(lm: dspy.BaseLM) -> tuple[dict[str, Any], list[str]]:
    return without_secrets({name: value for name, value in vars(lm).items() if isinstance(value, (str, dict))}, lm)
