"""An LM as a config's entry: its name and its settings, without its secrets."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import dspy

from moa_dspy.model_config import OF_SAVED, ModelConfig
from moa_dspy.models import as_lm
from moa_dspy.router import PREFIX, as_engine, router_lm
from moa_dspy.secrets import is_secret, redact, reference_name, without_secrets

__all__ = ["LMData", "describe_lm", "is_same", "make_lm", "without_addresses"]

# What says where requests go: as DSPy, we take it only from files that are trusted.
_ADDRESS = re.compile(r"api_base|base_url|_url$|endpoint|proxy|model_list", re.IGNORECASE)


@dataclass(frozen=True)
class LMData:
    """An LM as data.

    Attributes:
        entry: What `ModelConfig` takes.
        left_out: The names of the settings that are not in it: secrets, and what is no JSON.
        lost: Why the LM cannot be made of it, if it cannot.
    """

    entry: dict[str, Any]
    left_out: list[str] = field(default_factory=list)
    lost: str | None = None


def describe_lm(lm: dspy.BaseLM) -> LMData:
    """The LM as data; a key that an environment variable holds is named by that variable.

    Examples:
        >>> describe_lm(dspy.LM("openai/gpt-4o", api_key="k", user="me"))
        LMData(entry={'model': 'openai/gpt-4o', 'user': 'me'}, left_out=['api_key'], lost=None)
    """
    entry: dict[str, Any] = {"model": lm.model}
    if prices := getattr(lm, "prices", None):
        entry["prices"] = prices.model_dump()
    try:
        state = lm.dump_state()
    except Exception as error:  # an engine of somebody's own that cannot be saved, for whatever reason
        return LMData(entry, lost=redact(str(error), lm))
    usual = _usual_state(lm)
    settings = {name: value for name, value in state.items() if value != usual.get(name) and value is not None}
    # What no name and option makes is saved as DSPy's own state.
    objects = [settings.get(name) for name in ("engine", "async_engine", "prompt_cache")]
    is_own = "_dspy_lm_class" in settings or any(isinstance(value, dict) for value in objects)
    settings = {**(state if is_own else settings), "api_key": getattr(lm, "kwargs", {}).get("api_key")}
    kept, secret = without_secrets(_name_keys(settings), lm)
    kept = {name: value for name, value in kept.items() if value not in (None, {})}
    data = {name: value for name, value in kept.items() if _is_json(value)}
    left_out = sorted({*secret, *kept} - {*data})
    return LMData({**entry, "lm_state": data} if is_own else {**entry, **data}, left_out)


def make_lm(entry: Mapping[str, Any], router: Any = None, unsafe: bool = False) -> dspy.BaseLM:
    """The LM of a saved entry."""
    engine = None if router is None else as_engine(router)
    return ModelConfig.model_validate(entry, context=OF_SAVED).lm(engine, allow_unsafe_lm_state=unsafe)


def is_same(saved: Mapping[str, Any], here: Mapping[str, Any], trusted: bool) -> bool:
    """Whether two entries describe one LM, but for secrets; and for addresses, unless the file is trusted."""
    return _comparable(saved, trusted) == _comparable(here, trusted)


def without_addresses(entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry without what says where requests go, and the keys that would go there; with a warning of these."""
    dropped = _addresses(entry)
    if dropped:
        warnings.warn(
            f"From the file, the LM of {entry.get('name', 'the aggregator')} ({entry['model']}) is made without "
            f"{', '.join(sorted(dropped))}: a file could send your key and your data anywhere. Pass "
            "allow_unsafe_lm_state=True if you trust it.",
            stacklevel=6,
        )
    return {name: value for name, value in entry.items() if name not in dropped}


def _addresses(entry: Mapping[str, Any]) -> set[str]:
    found = {name for name, value in entry.items() if _ADDRESS.search(name) or _leads(value)}
    return found | set(filter(is_secret, entry)) if found else found  # the key of an address goes to no other


def _leads(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_ADDRESS.search(str(name)) or _leads(item) for name, item in value.items())
    return isinstance(value, (list, tuple)) and any(map(_leads, value))


def _usual_state(lm: dspy.BaseLM) -> Mapping[str, Any]:
    """The state of an LM that is made by the name alone."""
    engine: Any = getattr(lm, "engine", None)
    try:
        made = router_lm(lm.model, engine) if lm.model.startswith(PREFIX) else as_lm(lm.model)
        state: Mapping[str, Any] = made.dump_state()
    except Exception:  # there is none of that name
        return {}
    return state


def _name_keys(settings: Any, named: bool = False) -> Any:
    """The settings with the names of the environment variables that hold their keys."""
    if isinstance(settings, Mapping):
        return {name: _name_keys(value, named or is_secret(name)) for name, value in settings.items()}
    if not named or not isinstance(settings, str):
        return settings
    scheme, space, key = settings.rpartition(" ")
    holders = sorted(name for name, value in os.environ.items() if value == key and is_secret(name))
    return f"{scheme}{space}os.environ/{holders[0]}" if holders else settings


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _comparable(entry: Mapping[str, Any], trusted: bool) -> str:
    settings = {**entry, **entry.get("lm_state", {})}
    left_out = {"instructions", "lm_state", "name", "prices", *filter(is_secret, settings)}
    if not trusted:  # a file that is not trusted could not give these anyway
        settings = {k: v["class"] if isinstance(v, dict) and "class" in v else v for k, v in settings.items()}
        left_out |= _addresses(settings)
    told = {k: v for k, v in settings.items() if k not in left_out and v not in (None, {}) and not reference_name(v)}
    return json.dumps(told, sort_keys=True, default=str)
