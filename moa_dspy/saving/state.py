"""A mixture as DSPy's own machinery saves and loads it: its settings as one parameter, and its predictors' states."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dspy
from dspy.predict.parameter import Parameter
from pydantic_core import to_jsonable_python

from moa_dspy.saved_mixture import SAVED, SavedMixture
from moa_dspy.saving.lms import describe_lm, is_same, make_lm, without_addresses
from moa_dspy.saving.mixture import agents_of, describe_mixture, find_differences, take_settings
from moa_dspy.secrets import without_secrets
from moa_dspy.values import validated

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["MixtureParameter", "dump_predictor", "has_lm_of", "type_demos"]


class MixtureParameter(dspy.Module, Parameter):
    """A mixture's models and settings, as DSPy's own machinery saves and loads them.

    A view: made when DSPy asks for the parameters, it holds nothing itself. It is a module, as DSPy tells only
    modules whether a file is trusted; it takes no LM from `set_lm`, and says for `get_lm` what the predictors say.
    """

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.moa = moa

    @property
    def lm(self) -> dspy.BaseLM | None:
        return next((predictor.lm for predictor in self.moa.predictors()), None)

    @lm.setter
    def lm(self, lm: dspy.BaseLM | None) -> None:
        pass

    def reset(self) -> None:
        """Nothing: a reset copy of a program answers with the same models, samples and weights."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The settings, as a program around the mixture asks for them."""
        for name, part in self.moa.named_predictors():
            if part.lm is not None and (found := without_secrets(part.lm.dump_state(), part.lm)[1]):
                raise ValueError(
                    f"Saved with the program around it, the mixture would tell secrets: DSPy writes the LM of {name} "
                    f"as it is, with {', '.join(found)}. Give the LM to the agent, as in Agent(lm, program), or save "
                    "the mixture by its own save()."
                )
        return describe_mixture(self.moa).data()

    def check(self, saved: SavedMixture) -> None:
        """Refuse what was saved of a mixture of another shape."""
        if different := find_differences(saved, describe_mixture(self.moa)):
            raise ValueError(
                f"The file holds another mixture than this program, and nothing was loaded: {'; '.join(different)}. "
                "Build the program as the file has it, or let MoA.from_file build it."
            )

    def load_state(self, state: Any, *, allow_unsafe_lm_state: bool = False) -> None:
        """Take the settings over, and the LMs that are not the program's already."""
        saved = SavedMixture.of({SAVED: state})
        self.check(saved)
        take_settings(self.moa, saved)
        for path, agent in agents_of(self.moa).items():
            entry = saved.entry(path)
            if "model" not in entry:
                agent.lm = None
            elif agent.lm is None or not is_same(entry, describe_lm(agent.lm).entry, allow_unsafe_lm_state):
                if (why := saved.code.get(f"the LM of {path}")) is not None:
                    raise ValueError(f"The LM of {path} ({entry['model']}) is not in the file: it {why}")
                if allow_unsafe_lm_state:
                    agent.lm = make_lm(entry, saved.config.get("router"), unsafe=True)
                else:
                    agent.lm = make_lm(without_addresses(entry))


def dump_predictor(predictor: Any, json_mode: bool) -> dict[str, Any]:
    """DSPy's state of a predictor, without secrets, and its demos as strict JSON."""
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
    return typed if _as_json(typed) == _as_json(value) else value


def _as_json(value: Any) -> Any:
    """The value as a file can hold it: what has no JSON form is text, as in DSPy's prompts."""

    def short(digits: str) -> int | str:
        return int(digits) if -(2**63) <= int(digits) < 2**64 else digits

    return json.loads(json.dumps(to_jsonable_python(value, by_alias=False, fallback=str)), parse_int=short)
