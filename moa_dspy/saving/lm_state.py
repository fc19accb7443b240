"""LMs as they stand in a file, without their secrets, and back."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import dspy

from moa_dspy.models import redact
from moa_dspy.saving.field_state import json_or_none
from moa_dspy.saving.keyless import without_secrets
from moa_dspy.saving.saved_format import SavedLM

__all__ = ["is_same_lm", "is_same_state", "lm_state", "read_lm"]

_SIMULATED = "simulated/"
# What every LM has, and few set.
_UNSET = ("temperature", "max_tokens", "finetuning_model", "launch_kwargs", "train_kwargs")
# What says where requests go: as DSPy, we load it only from files that are trusted.
_ADDRESS = re.compile(r"api_base|base_url|_url$|endpoint|proxy|model_list", re.IGNORECASE)


def lm_state(lm: dspy.BaseLM | None) -> SavedLM:
    """An LM as it stands in a file: DSPy's own state without secrets; of a simulated model, its name and settings.

    Example:
        >>> saved = lm_state(dspy.LM("openai/gpt-5-mini", api_key="k", user="me"))
        >>> saved.lm["model"], saved.lm["user"], saved.left_out
        ('openai/gpt-5-mini', 'me', ['api_key'])
    """
    if lm is None:
        return SavedLM(lm=None)
    try:
        state = _simulated(lm) or lm.dump_state()
    except Exception as error:  # an engine of somebody's own that cannot be saved, for whatever reason
        return SavedLM(lm={"model": lm.model}, unsaveable=redact(str(error), lm))
    kept, secrets = without_secrets(state, lm)
    settings = {name: json_or_none(value) for name, value in kept.items()}
    lost = [name for name, value in settings.items() if value is None and kept[name] is not None]
    # DSPy has left out the key by itself.
    left_out = sorted({*secrets, *lost, *without_secrets(lm.kwargs, lm)[1]})
    unset = [name for name in _UNSET if settings.get(name) in (None, {})]
    settings = {name: value for name, value in settings.items() if name not in (*lost, *unset)}
    return SavedLM(lm=settings, left_out=left_out) if left_out else SavedLM(lm=settings)


def is_same_lm(saved: SavedLM, lm: dspy.BaseLM | None, *, trusted: bool = False) -> bool:
    """Whether an LM is the saved one, but for secrets.

    Args:
        saved: The LM in the file.
        lm: The LM at hand.
        trusted: Whether the file is trusted: then addresses and the state of custom engines must be the same too.
    """
    here = lm_state(lm)
    left_out = {*saved.left_out, *here.left_out}
    return _compared(saved.lm, trusted, left_out) == _compared(here.lm, trusted, left_out)


def is_same_state(state: Mapping[str, Any] | None, lm: dspy.BaseLM, *, trusted: bool = False) -> bool:
    """The same for an LM in DSPy's own state of a predictor."""
    try:
        here, left_out = without_secrets(lm.dump_state(), lm)
    except TypeError:  # it cannot be saved, so it is not the one that was
        return False
    return _compared(state, trusted, left_out) == _compared(json_or_none(here), trusted, left_out)


def read_lm(saved: SavedLM, agent: str, *, allow_unsafe: bool = False) -> dspy.BaseLM | None:
    """The LM of a file; its key comes from the environment.

    Args:
        saved: The LM in the file.
        agent: Whose LM it is, for what is said.
        allow_unsafe: Whether the file's addresses, keys and classes are trusted.

    Raises:
        ValueError: If it cannot be made.
    """
    if saved.lm is None:
        return None
    if saved.unsaveable:
        raise ValueError(
            f"The LM of agent {agent!r} ({saved.lm.get('model')}) is not in the file: {saved.unsaveable} "
            "Build the mixture in code, with this LM, and use load()."
        )
    # A file of ours holds no key: one that somebody put there would bring your data to somebody's account.
    secrets = {name.partition(".")[0] for name in without_secrets(saved.lm)[1]}
    dropped = [] if allow_unsafe else sorted({*secrets, *_addresses(saved.lm)})
    state = {name: value for name, value in saved.lm.items() if name not in dropped}
    try:
        lm = _of_simulated(state) or dspy.BaseLM.load_state(state, allow_custom_lm_class=allow_unsafe)
    except Exception as error:  # imports, constructors and `load_state` of somebody's own
        raise ValueError(f"The LM of agent {agent!r} cannot be made from the file: {error}") from error
    who = f"the LM of agent {agent!r} ({saved.lm.get('model')})"
    if dropped:
        warnings.warn(
            f"From the file, {who} is made without {', '.join(dropped)}: a file could send your key and your data "
            "anywhere. Pass allow_unsafe_lm_state=True if you trust it.",
            stacklevel=2,
        )
    # A missing key is told at the first call, if the environment does not have it either.
    missing = [name for name in saved.left_out if name != "api_key"]
    if missing:
        warnings.warn(
            f"The file holds no secrets: {who} is made without {', '.join(missing)}. What the environment does not "
            "give, give in code: set the agent's `.lm`.",
            stacklevel=2,
        )
    return lm


def _simulated(lm: dspy.BaseLM) -> dict[str, Any] | None:
    """A simulated model by its name, and by its numbers only where they are not those of that name."""
    if not lm.model.startswith(_SIMULATED):
        return None
    from moa_dspy.simulated import SIMULATED_MODELS, SimulatedEngine, SimulatedLM

    engine: Any = getattr(lm, "engine", None)
    if type(lm) is not SimulatedLM or type(engine) is not SimulatedEngine:
        return None
    state = {name: value for name, value in lm.dump_state().items() if name not in _OF_SIMULATED}
    if SIMULATED_MODELS.get(lm.model.removeprefix(_SIMULATED)) != engine.profile:
        state["profile"] = engine.profile.dump_state()
    return {**state, "latency": engine.latency}


_OF_SIMULATED = ("_dspy_lm_class", "engine", "async_engine")


def _of_simulated(state: Mapping[str, Any]) -> dspy.BaseLM | None:
    model = str(state.get("model"))
    if not model.startswith(_SIMULATED) or any(name in state for name in _OF_SIMULATED):
        return None
    from moa_dspy.simulated import SimulatedLM, SimulatedModel

    profile = state.get("profile")
    settings = {name: value for name, value in state.items() if name not in ("model", "profile")}
    return SimulatedLM(model, None if profile is None else SimulatedModel(**profile), **settings)


def _compared(state: Mapping[str, Any] | None, trusted: bool, left_out: Collection[str]) -> Any:
    """What makes two LMs one. What a file that is not trusted could not give anyway is left to the live LM."""
    if state is None:
        return None
    given = {name: value for name, value in state.items() if value not in (None, {}) and name not in left_out}
    if trusted:
        return given
    engines = {name: given[name]["class"] for name in ("engine", "async_engine") if isinstance(given.get(name), dict)}
    compared = {**given, **engines}
    return {name: value for name, value in compared.items() if name not in _addresses(compared)}


def _addresses(settings: Mapping[str, Any]) -> list[str]:
    """The settings that say where requests go, or hold what does (`fallbacks`)."""
    return [name for name, value in settings.items() if _ADDRESS.search(name) or _leads(value)]


def _leads(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_ADDRESS.search(str(name)) or _leads(item) for name, item in value.items())
    return isinstance(value, (list, tuple)) and any(map(_leads, value))
