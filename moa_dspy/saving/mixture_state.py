"""A mixture's shape and settings, as DSPy's own machinery saves and loads them."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspy.predict.parameter import Parameter

from moa_dspy.agent import Agent, adopt_lms
from moa_dspy.limits import Limits
from moa_dspy.saving.bound_lm import BoundLM
from moa_dspy.saving.differences import differences
from moa_dspy.saving.field_state import json_or_none
from moa_dspy.saving.keyless import without_secrets
from moa_dspy.saving.saved_format import FORMAT, SavedMixture, SavedProposer, SavedStrategy
from moa_dspy.saving.signature_state import signature_state
from moa_dspy.strategies import STRATEGIES, Strategy

if TYPE_CHECKING:
    from moa_dspy.moa import MoA

__all__ = ["MixtureState"]


class MixtureState(Parameter):
    """The shape and the settings of a mixture, as DSPy saves and loads them.

    A view: made when DSPy asks for the parameters, it holds nothing itself. Loading refuses another shape, and takes
    over the settings: the strategy's options (with a vote's weights), samples and limits. They are learned or chosen
    and no demos: a reset copy keeps them.
    """

    def __init__(self, moa: MoA) -> None:
        self.moa = moa

    def reset(self) -> None:
        """Nothing, as DSPy does not reset instructions either."""

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The state, as a program around the mixture asks for it.

        Raises:
            ValueError: If DSPy would go on to write secrets.
        """
        state = self.written()
        for name, part in self.moa.named_parameters():
            lm = None if isinstance(part, BoundLM) else getattr(part, "lm", None)
            if lm is not None and (found := without_secrets(lm.dump_state(), lm)[1]):
                raise ValueError(
                    f"Saved with the program around it, the mixture would tell secrets: DSPy writes the LM of {name} "
                    f"as it is, with {', '.join(found)}. Give the LM to the agent, as in Agent(lm, program), or save "
                    "the mixture by its own save()."
                )
        return state

    def written(self) -> dict[str, Any]:
        """The state, from which nothing is missing: what was put into the predictors is taken over first."""
        adopt_lms(self.moa.agents)
        return self.saved().state()

    def saved(self) -> SavedMixture:
        """The mixture as it stands in a file."""
        moa = self.moa
        return SavedMixture(
            format=FORMAT,
            version=_version(),
            signature=signature_state(moa.signature),
            proposers=[_proposer(agent, moa.own_programs) for agent in moa.panels[0].agents],
            strategy=_strategy(moa.strategy),
            num_proposals_per_model=moa.panels[0].samples,
            use_specialized_prompts=moa.use_specialized_prompts,
            layers=len(moa.panels),
            limits=moa.limits.model_dump(mode="json"),
        )

    def load_state(self, state: Any) -> None:
        """Take the settings over.

        Raises:
            ValueError: If the file holds a mixture of another shape, or settings that there are not.
        """
        saved = self.check(state)
        limits = Limits(**saved.limits)
        _take_options(self.moa.strategy, saved.strategy.options, self.moa)
        self.moa.limits = limits
        for panel in self.moa.panels:
            panel.limits, panel.samples = limits, saved.num_proposals_per_model

    def check(self, state: Any) -> SavedMixture:
        """What the file holds, refused if it is a mixture of another shape."""
        saved = SavedMixture.read(state)
        different = list(differences(saved, self.saved()))
        if different:
            raise ValueError(
                f"The file holds another mixture than this program, and nothing was loaded: {'; '.join(different)}. "
                "Build the program as the file has it, or let MoA.from_file build it."
            )
        return saved


def _version() -> str:
    try:
        return importlib.metadata.version("moa-dspy")
    except importlib.metadata.PackageNotFoundError:  # a folder on the path
        return "unknown"


def _proposer(agent: Agent, own_programs: Sequence[str]) -> SavedProposer:
    program = {"program": _path(agent.program)} if agent.name in own_programs else {}
    instructions = {} if agent.instructions is None else {"instructions": agent.instructions}
    return SavedProposer(name=agent.name, **instructions, **program)


def _strategy(strategy: Strategy) -> SavedStrategy:
    state: dict[str, Any] = {"name": strategy.name}
    if STRATEGIES.get(strategy.name) is not type(strategy):
        state["class"] = _path(strategy)
    if options := _options(strategy):
        state["options"] = options
    return SavedStrategy(**state)


def _options(strategy: Strategy) -> dict[str, Any]:
    """What the strategy was made with, as far as it keeps it under the names of its constructor's parameters.

    Secrets, and what is no JSON, are not in the file: in the program that it is loaded into, they stay as they are.
    """
    kept, _ = without_secrets({name: getattr(strategy, name) for name in _option_names(strategy)})
    values = {name: json_or_none(value) for name, value in kept.items()}
    return {name: value for name, value in values.items() if value is not None or getattr(strategy, name) is None}


def _option_names(strategy: Strategy) -> list[str]:
    parameters = inspect.signature(type(strategy).__init__).parameters
    return [name for name in parameters if name != "callbacks" and hasattr(strategy, name)]


def _take_options(strategy: Strategy, options: Mapping[str, Any], moa: MoA) -> None:
    if unknown := sorted(options.keys() - {*_option_names(strategy)}):
        raise ValueError(f"The file has options that {strategy.name} does not know: {', '.join(unknown)}.")
    if type(strategy) in STRATEGIES.values():
        try:
            # One that is made of them and bound refuses what makes no sense.
            fresh = type(strategy)(**options)
        except TypeError as error:
            raise ValueError(f"The options that the file has for {strategy.name} do not fit: {error}.") from None
        fresh.bind(moa.signature, moa.panels[0].names)
        options = {name: getattr(fresh, name) for name in options}
    for name, value in options.items():
        setattr(strategy, name, value)


def _path(part: Any) -> str:
    return f"{type(part).__module__}:{type(part).__qualname__}"
