"""From what the user names as proposers and aggregator to agents, refused early if they cannot work."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from typing import Any, TypeAlias

import dspy

from moa_dspy.agent import Agent
from moa_dspy.signatures import PROPOSALS
from moa_dspy.strategies import Strategy

__all__ = ["AGGREGATOR", "Proposer", "as_aggregator", "as_proposers"]

logger = logging.getLogger(__name__)

AGGREGATOR = "aggregator"
Proposer: TypeAlias = str | dspy.BaseLM | Agent | dspy.Module


def as_proposers(
    proposers: Sequence[Proposer],
    task: type[dspy.Signature],
    *,
    samples: int,
    specialized: bool,
    layers: int,
) -> list[Agent]:
    """The proposers as agents with distinct names."""
    if isinstance(proposers, (str, dspy.BaseLM, dspy.Module)) or not isinstance(proposers, Sequence):
        example = f"[{proposers!r}]" if isinstance(proposers, str) else "['openai/gpt-5', ...]"
        raise TypeError(
            f"`proposers` is a list of models, agents or modules, not {type(proposers).__name__}. Write {example}."
        )
    if not proposers:
        raise ValueError("No proposers: there is nobody to ask. Give at least one model, for example 'openai/gpt-5'.")
    agents = _named_apart([_as_agent(proposer) for proposer in proposers])
    for agent in agents:
        if agent.program is not None:
            _check_program(agent, task, layers)
        if agent.instructions is not None and not specialized:
            raise ValueError(
                f"Agent {agent.name!r} has instructions of its own, but all proposers share one prompt: they would "
                "be ignored. Set use_specialized_prompts=True, or drop them."
            )
        if samples > 1 and agent.is_fixed:
            raise ValueError(
                f"The program of agent {agent.name!r} brings LMs of its own, which cannot be sampled {samples} times "
                "side by side: all samples would be one answer. Give its LM to the agent instead: "
                "program.set_lm(None), then Agent(lm, program)."
            )
    _refuse_identical(agents, samples, specialized)
    _warn_of_lost_completions(agents, "Ask for num_proposals_per_model instead: each is a proposal then.")
    return agents


def as_aggregator(aggregator: str | dspy.BaseLM | Agent | None, strategy: Strategy) -> Agent:
    """The agent that runs the strategy."""
    given = aggregator if isinstance(aggregator, Agent) else None
    if given is not None and given.program is not None:
        raise ValueError("An aggregator runs the strategy, not a program of its own: give Agent(lm) without program=.")
    if given is not None and given.instructions is not None:
        raise ValueError(
            "An aggregator's instructions would be ignored: its prompt is the strategy's. Drop them, and compile the "
            "mixture or subclass Strategy to change that prompt."
        )
    if given is None and isinstance(aggregator, dspy.Module):
        raise TypeError(
            f"An aggregator is a model, not a module ({type(aggregator).__name__}). To judge in your own way, "
            "subclass Strategy."
        )
    lm: Any = aggregator if given is None else given.lm
    agent = Agent(lm, strategy, name=AGGREGATOR)
    _warn_of_lost_completions([agent], "Drop it.")
    return agent


def _as_agent(proposer: Any) -> Agent:
    if isinstance(proposer, Agent):
        return proposer
    if isinstance(proposer, dspy.Module):
        return Agent(program=proposer)
    return Agent(proposer)


def _named_apart(agents: list[Agent]) -> list[Agent]:
    explicit = [agent.name for agent in agents if agent.is_named]
    if twice := [name for name in explicit if explicit.count(name) > 1]:
        raise ValueError(f"Two proposers are named {twice[0]!r}: their tokens and cost could not be told apart.")
    if AGGREGATOR in explicit:
        raise ValueError(f"{AGGREGATOR!r} is the aggregator's own name. Name the proposer otherwise.")
    taken, named = {AGGREGATOR, *explicit}, []
    for agent in agents:
        name, number = agent.name, 2
        while not agent.is_named and name in taken:
            name, number = f"{agent.name}_{number}", number + 1
        taken.add(name)
        named.append(agent.rename(name))
    return named


def _check_program(agent: Agent, task: type[dspy.Signature], layers: int) -> None:
    """Refuse a program that cannot take what the task gives, or does not give what it asks for."""
    who, signature = f"The program of agent {agent.name!r}", _signature_of(agent.program)
    given = [*task.input_fields, *([PROPOSALS] if layers > 1 else [])]
    if signature is None:
        method = getattr(type(agent.program), "forward", None) or getattr(type(agent.program), "aforward", None)
        try:
            if method is not None:
                inspect.signature(method).bind(agent.program, **dict.fromkeys(given))
        except TypeError as error:
            raise ValueError(
                f"{who} cannot be called with {', '.join(given)}, as it would be: {error}. Give its forward() these "
                "parameters, or **inputs."
            ) from None
        return
    if lacking := [name for name in task.output_fields if name not in signature.output_fields]:
        raise ValueError(
            f"{who} gives {', '.join(signature.output_fields)}, but not {', '.join(lacking)}, which the task asks for: "
            "none of its proposals could be used."
        )
    if unfed := [name for name, f in signature.input_fields.items() if f.is_required() and name not in given]:
        raise ValueError(
            f"{who} needs {', '.join(unfed)}, which is no input of the task. The task's inputs: "
            f"{', '.join(task.input_fields)}."
        )
    if layers > 1 and PROPOSALS not in signature.input_fields:
        raise ValueError(
            f"With layers={layers} the program of agent {agent.name!r} would never see the layer before it: it has no "
            f"input `{PROPOSALS}`. Add one to its signature, or use layers=1."
        )


def _signature_of(program: Any) -> type[dspy.Signature] | None:
    """A program's signature, where it shows one: its own, or that of what a module of DSPy's wraps."""
    signature = getattr(program, "signature", None)
    if isinstance(signature, type) and issubclass(signature, dspy.Signature):
        return signature
    if not type(program).__module__.startswith("dspy."):  # what a user's module holds need not be what it gives
        return None
    wrapped = getattr(program, "predict", None) or getattr(program, "module", None)
    return None if wrapped is None else _signature_of(wrapped)


def _warn_of_lost_completions(agents: list[Agent], advice: str) -> None:
    if several := [agent.name for agent in agents if agent.lm is not None and (agent.lm.kwargs.get("n") or 1) > 1]:
        logger.warning(
            "The LM of %s gives several completions (n): the first one is used, the others are paid for and lost. %s",
            ", ".join(several),
            advice,
        )


def _refuse_identical(agents: list[Agent], samples: int, specialized: bool) -> None:
    frozen = [a for a in agents if a.lm is not None and a.lm.kwargs.get("temperature") == 0]
    if samples > 1 and frozen:
        raise ValueError(
            f"Agent {frozen[0].name!r} answers at temperature 0, so its {samples} samples would be one answer "
            "paid for several times. Give it a temperature above 0, or num_proposals_per_model=1."
        )
    plain = [id(agent.lm) for agent in frozen if agent.program is None and not specialized]
    if len(set(plain)) < len(plain):
        raise ValueError(
            "One LM at temperature 0 proposes twice with one prompt: both answers would be the same. Give it a "
            "temperature above 0, or each of the two a prompt of its own."
        )
