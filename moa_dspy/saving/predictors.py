"""A predictor's state in a file: its LM without secrets, its demos as strict JSON, and typed again when read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import dspy
from pydantic_core import to_jsonable_python

from moa_dspy.saving.lms import is_same
from moa_dspy.secrets import without_secrets
from moa_dspy.values import validated

__all__ = ["dump_predictor", "has_lm_of", "type_demos"]


def dump_predictor(predictor: Any, json_mode: bool) -> dict[str, Any]:
    """DSPy's state of a predictor, without secrets."""
    state: dict[str, Any] = predictor.dump_state(json_mode=json_mode)
    if state.get("lm"):
        state["lm"] = without_secrets(state["lm"], predictor.lm)[0]
    if json_mode:
        state |= {name: _as_json(state[name]) for name in ("traces", "train", "demos") if name in state}
    return state


def has_lm_of(part: Mapping[str, Any], predictor: Any, trusted: bool) -> bool:
    """Whether a predictor's own LM is the one that was saved: then it stays, with its key and its connections."""
    if predictor.lm is None or not part.get("lm"):
        return False
    try:
        here, _ = without_secrets(predictor.lm.dump_state(), predictor.lm)
    except TypeError:  # it cannot be saved, so it is not the one that was
        return False
    return is_same(part["lm"], here, trusted)


def type_demos(part: Mapping[str, Any], predictor: Any) -> list[Any]:
    """The demos of a saved predictor, typed as its signature says, where that shows in no prompt."""
    fields = predictor.signature.fields

    def typed(demo: Any) -> Any:
        values = {key: _typed(value, fields[key].annotation) for key, value in demo.items() if key in fields}
        return demo.copy(**values) if isinstance(demo, dspy.Example) else {**demo, **values}

    return [typed(demo) for demo in part["demos"]]


def _typed(value: Any, annotation: Any) -> Any:
    try:
        typed = value if annotation is str else validated(value, annotation)
    except ValueError:
        return value
    return typed if json.dumps(_as_json(typed)) == json.dumps(_as_json(value)) else value


def _as_json(value: Any) -> Any:
    """The value as a file can hold it: what has no JSON form is text, as in DSPy's prompts."""
    data = to_jsonable_python(value, by_alias=False, fallback=str)
    return json.loads(json.dumps(data), parse_int=_as_short_int)


def _as_short_int(digits: str) -> int | str:
    return int(digits) if -(2**63) <= int(digits) < 2**64 else digits
