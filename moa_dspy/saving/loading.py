"""States into mixtures: whole or not at all, and with the LMs that are there already."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.saving.bound_lm import BoundLM
from moa_dspy.saving.keyless import without_secrets
from moa_dspy.saving.lm_state import is_same_state
from moa_dspy.saving.mixture_state import MixtureState
from moa_dspy.saving.saved_files import no_mixture
from moa_dspy.saving.saved_format import MIXTURE, SavedPredictor, checked
from moa_dspy.values import validated

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["load_into", "plain_state"]


def load_into(moa: MoA, state: Mapping[str, Any], load: Callable[..., None], allow_unsafe: bool) -> None:
    """Load a state into a mixture of the same shape; the LMs it has already stay, with their keys and connections.

    Args:
        moa: The mixture.
        state: The state, as `MoA.dump_state` gives it.
        load: DSPy's own way to load it.
        allow_unsafe: Whether addresses and classes in the state are trusted.

    Raises:
        ValueError: If the state is another mixture's; nothing is changed then.
    """
    if MIXTURE not in state:
        raise ValueError(no_mixture(state))
    MixtureState(moa).check(state[MIXTURE])
    _check_names(state, [name for name, _ in moa.named_parameters()])
    predictors = dict(moa.named_predictors())
    for name in predictors:
        checked(SavedPredictor, state[name], name)
    kept = {
        name: predictor.lm
        for name, predictor in predictors.items()
        if predictor.lm is not None and is_same_state(state[name].get("lm"), predictor.lm, trusted=allow_unsafe)
    }
    parts = {name: _read(state[name], predictor, name in kept) for name, predictor in predictors.items()}
    load({**state, **parts}, allow_unsafe_lm_state=allow_unsafe)
    for name, lm in kept.items():
        predictors[name].lm = lm


def plain_state(moa: MoA, json_mode: bool) -> dict[str, Any]:
    """DSPy's state of a mixture without secrets, its demos as plain JSON."""
    return {name: _dumped(part, json_mode) for name, part in moa.named_parameters()}


def _check_names(state: Mapping[str, Any], names: list[str]) -> None:
    only_file = [name for name in state if name not in (*names, "metadata")]
    only_here = [name for name in names if name not in state]
    if only_file or only_here:
        raise ValueError(
            "The file holds other predictors than this program, and nothing was loaded. Only the file has: "
            f"{', '.join(only_file) or 'none'}; only this program has: {', '.join(only_here) or 'none'}."
        )


def _read(state: Mapping[str, Any], predictor: Any, keeps_lm: bool) -> dict[str, Any]:
    """The state of a predictor as it is loaded: nothing that comes after may fail."""
    demos = [_typed(demo, predictor.signature) for demo in state["demos"]]
    return {**state, "demos": demos, "lm": None if keeps_lm else state.get("lm")}


def _dumped(part: Any, json_mode: bool) -> dict[str, Any]:
    if isinstance(part, MixtureState):
        return part.written()
    state: dict[str, Any] = part.dump_state(json_mode=json_mode)
    if not isinstance(part, BoundLM) and state.get("lm"):
        state["lm"] = without_secrets(state["lm"], part.lm)[0]
    if json_mode:
        state.update({name: _json(state[name]) for name in ("traces", "train", "demos") if name in state})
    return state


def _json(value: Any) -> Any:
    try:
        # As DSPy shows what has no JSON form in a prompt: as text.
        return _writable(to_jsonable_python(value, by_alias=False, fallback=str))
    except ValueError:
        return str(value)


def _writable(value: Any) -> Any:
    """The value with text for numbers that no file can hold: infinite ones, and whole ones beyond 64 bits."""
    if isinstance(value, dict):
        return {name: _writable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    is_lost = isinstance(value, float) and not math.isfinite(value)
    return str(value) if is_lost or (isinstance(value, int) and not -(2**63) <= value < 2**64) else value


def _typed(demo: Any, signature: Any) -> Any:
    """A demo with its values typed again, where that shows in no prompt."""
    fields = signature.fields
    typed = {name: _value(value, fields[name].annotation) for name, value in demo.items() if name in fields}
    return demo.copy(**typed) if isinstance(demo, dspy.Example) else {**demo, **typed}


def _value(value: Any, annotation: Any) -> Any:
    if annotation is str:
        return value
    try:
        typed = validated(value, annotation)
    except ValueError:
        return value
    return typed if json.dumps(_json(typed)) == json.dumps(_json(value)) else value
