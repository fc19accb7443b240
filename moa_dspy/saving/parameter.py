"""A mixture's models and settings, as DSPy's own machinery saves and loads them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dspy
from dspy.predict.parameter import Parameter

from moa_dspy.model_config import OF_SAVED, ModelConfig
from moa_dspy.router import as_engine
from moa_dspy.saved_mixture import SAVED, SavedMixture
from moa_dspy.saving.lms import describe_lm, is_same, without_addresses
from moa_dspy.saving.mixture import agents_of, describe_mixture, find_differences, take_settings
from moa_dspy.secrets import without_secrets

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["MixtureParameter", "make_lm", "without_trust"]


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
        """The settings, as a program around the mixture asks for them.

        Raises:
            ValueError: If DSPy would go on to write secrets.
        """
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
                    agent.lm = make_lm(_without_addresses(entry))


def make_lm(entry: Mapping[str, Any], router: Any = None, unsafe: bool = False) -> dspy.BaseLM:
    """The LM of a saved entry."""
    engine = None if router is None else as_engine(router)
    return ModelConfig.model_validate(entry, context=OF_SAVED).lm(engine, allow_unsafe_lm_state=unsafe)


def without_trust(data: Mapping[str, Any]) -> dict[str, Any]:
    """A config's data without addresses, with a warning of each that is left out.

    Raises:
        ValueError: If it has a router, which is nothing without them.
    """
    if data.get("router"):
        raise ValueError(
            "The file names a router, which could send your keys and your data anywhere. Pass "
            "allow_unsafe_lm_state=True if you trust it."
        )
    judge = data.get("aggregator_model")
    cleaned = {"aggregator_model": _without_addresses(judge)} if judge else {}
    return {**data, **cleaned, "proposer_models": [_without_addresses(entry) for entry in data["proposer_models"]]}


def _without_addresses(entry: Mapping[str, Any]) -> dict[str, Any]:
    kept, dropped = without_addresses(entry)
    if dropped:
        warnings.warn(
            f"From the file, the LM of {entry.get('name', 'the aggregator')} ({entry['model']}) is made without "
            f"{', '.join(dropped)}: a file could send your key and your data anywhere. Pass allow_unsafe_lm_state=True "
            "if you trust it.",
            stacklevel=6,
        )
    return kept
