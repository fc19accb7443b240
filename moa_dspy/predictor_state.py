"""A predictor's state in a file: its LM without secrets, its demos as strict JSON, and typed again when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.lm_data import is_same
from moa_dspy.secrets import without_secrets
from moa_dspy.values import validated

__all__ = ["dump_predictor", "keeps_lm", "read_predictor"]


def dump_predictor(part: Any, json_mode: bool) -> dict[str, Any]:
    """DSPy's state of a predictor, without secrets."""
    state: dict[str, Any] = part.dump_state(json_mode=json_mode)
    if state.get("lm"):
        state["lm"] = without_secrets(state["lm"], part.lm)[0]
    if json_mode:
        state.update({name: _as_json(state[name]) for name in ("traces", "train", "demos") if name in state})
    return state


def _as_json(value: Any) -> Any:
    """The value as a file can hold it: what has no JSON form is text, as in DSPy's prompts."""
    try:
        data = to_jsonable_python(value, by_alias=False, fallback=str)
    except ValueError:
        return str(value)
    return _with_short_numbers(data)


def _with_short_numbers(data: Any) -> Any:
    if isinstance(data, dict):
        return {name: _with_short_numbers(item) for name, item in data.items()}
    if isinstance(data, list):
        return [_with_short_numbers(item) for item in data]
    return str(data) if isinstance(data, int) and not -(2**63) <= data < 2**64 else data


def keeps_lm(predictor: Any, part: Any, trusted: bool) -> bool:
    """Whether a predictor's own LM is the one that was saved: then it stays, with its key and its connections."""
    if predictor.lm is None or not isinstance(part, Mapping) or not part.get("lm"):
        return False
    try:
        here, left_out = without_secrets(predictor.lm.dump_state(), predictor.lm)
    except TypeError:  # it cannot be saved, so it is not the one that was
        return False
    return is_same(part["lm"], _as_json(here), left_out, trusted)


def read_predictor(part: Any, predictor: Any, name: str) -> dict[str, Any]:
    """A predictor's state as it is loaded: its demos typed again, where that shows in no prompt."""
    if not isinstance(part, Mapping) or not isinstance(part.get("demos"), list) or "signature" not in part:
        raise ValueError(f"This is no saved mixture: {name} has no prompt and demos.")
    fields = predictor.signature.fields

    def typed(demo: Any) -> Any:
        values = {key: _typed(value, fields[key].annotation) for key, value in demo.items() if key in fields}
        return demo.copy(**values) if isinstance(demo, dspy.Example) else {**demo, **values}

    return {**part, "demos": [typed(demo) for demo in part["demos"]]}


def _typed(value: Any, annotation: Any) -> Any:
    if annotation is str:
        return value
    try:
        typed = validated(value, annotation)
    except ValueError:
        return value
    return typed if json.dumps(_as_json(typed)) == json.dumps(_as_json(value)) else value
