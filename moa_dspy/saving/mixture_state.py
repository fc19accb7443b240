"""A mixture's shape and settings, as DSPy's own machinery saves and loads them."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dspy.predict.parameter import Parameter

from moa_dspy.agent import Agent, deliver_mail
from moa_dspy.limits import Limits
from moa_dspy.saving.field_state import json_or_none
from moa_dspy.saving.saved_format import FORMAT, SavedMixture, SavedProposer, SavedStrategy
from moa_dspy.saving.signature_state import signature_state, type_texts
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
        deliver_mail(self.moa.agents)
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
        different = list(_differences(saved, self.saved()))
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
    """What the strategy was made with, as far as it keeps it under the names of its constructor's parameters."""
    parameters = inspect.signature(type(strategy).__init__).parameters
    names = [name for name in parameters if name != "callbacks" and hasattr(strategy, name)]
    values = {name: json_or_none(getattr(strategy, name)) for name in names}
    return {name: value for name, value in values.items() if value is not None or getattr(strategy, name) is None}


def _take_options(strategy: Strategy, options: Mapping[str, Any], moa: MoA) -> None:
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


def _differences(saved: SavedMixture, here: SavedMixture) -> Iterator[str]:
    """In what the file's mixture is another one than that of the program, in words."""
    yield from _apart("field", type_texts(saved.signature), type_texts(here.signature))
    yield from _apart("proposer", {p.name: p.name for p in saved.proposers}, {p.name: p.name for p in here.proposers})
    programs = {proposer.name: proposer.program for proposer in here.proposers}
    for proposer in saved.proposers:
        if proposer.name in programs and bool(proposer.program) != bool(programs[proposer.name]):
            own = proposer.program or programs[proposer.name]
            where = "the file" if proposer.program else "this program"
            yield f"only in {where} does {proposer.name} run a program of its own ({own})"
    for name in ("layers", "use_specialized_prompts"):
        if getattr(saved, name) != getattr(here, name):
            yield f"{name} is {getattr(saved, name)} in the file and {getattr(here, name)} here"
    if saved.strategy.name != here.strategy.name:
        yield f"the strategy is {saved.strategy.name} in the file and {here.strategy.name} here"


def _apart(what: str, saved: Mapping[str, str], here: Mapping[str, str]) -> Iterator[str]:
    only_saved = [text for name, text in saved.items() if name not in here]
    only_here = [text for name, text in here.items() if name not in saved]
    if only_saved:
        yield f"only the file has the {what}{'s' * (len(only_saved) > 1)} {', '.join(only_saved)}"
    if only_here:
        yield f"only this program has the {what}{'s' * (len(only_here) > 1)} {', '.join(only_here)}"
    for name in saved.keys() & here.keys():
        if saved[name] != here[name]:
            yield f"the file has {saved[name]}, this program {here[name]}"
