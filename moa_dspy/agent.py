"""An agent: a program bound to its own LM."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import dspy

from moa_dspy.calls import acall
from moa_dspy.models import as_lm, missing_key
from moa_dspy.names import checked_name, name_of
from moa_dspy.parts import parts
from moa_dspy.sampling import Rollout, ambient, compose, resampled, rollout_of, sampling
from moa_dspy.saving.bound_lm import BoundLM
from moa_dspy.saving.keyless import Keyless
from moa_dspy.saving.saved_format import BOUND
from moa_dspy.signatures import duplicate

__all__ = ["Agent", "cloned", "deliver_mail"]

ModuleT = TypeVar("ModuleT", bound=dspy.Module)

_mail_lock = threading.Lock()


class Agent(Keyless):
    """A program bound to its own LM.

    The LM lives here and not on the program's predictors, where DSPy's optimizers wipe it. A
    predictor's `.lm` is a mailbox: what somebody puts there (`set_lm`, SIMBA, BestOfN, Refine) is
    taken over at the next call. An LM with a `rollout_id` asks the agent to sample its own LM
    again; any other replaces it. A program that brings LMs of its own keeps them.

    Args:
        lm: A model's name or an LM; None leaves the program its own LMs, or DSPy's ambient one.
        program: What the agent runs; None lets the mixture build one for the task.
        name: Unique in a mixture; taken from the model or the program if not given.
        instructions: What this agent is told beside the task's own instructions. Only for a
            program that the mixture builds, and with `use_specialized_prompts=True`.
        **options: What `dspy.LM` takes: `temperature`, `max_tokens`, `api_base`, ...

    Raises:
        TypeError: If `lm` or `program` is of another type.
        ValueError: If there is neither an LM nor a program, or options without an LM, or
            instructions for a program that has its own.

    Example:
        >>> from moa_dspy import Agent
        >>> Agent("simulated/alice", name="alice", temperature=0.7).name
        'alice'
    """

    def __init__(
        self,
        lm: str | dspy.BaseLM | None = None,
        program: dspy.Module | None = None,
        *,
        name: str | None = None,
        instructions: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if program is not None and not isinstance(program, dspy.Module):
            raise TypeError(f"An agent's program is a dspy.Module, not {type(program).__name__}.")
        if lm is None and program is None:
            raise ValueError("An agent needs an LM or a program: Agent('openai/gpt-5-mini') or Agent(program=module).")
        if lm is None and options:
            raise ValueError(
                f"{', '.join(options)} would have no effect: this agent has no LM. Give one, or drop them."
            )
        if program is not None and instructions is not None:
            raise ValueError(
                "`instructions` would have no effect: the program has its own prompts. Write them into its signature."
            )
        self.lm = None if lm is None else as_lm(lm, **options)
        self.program = program
        self.name = checked_name(name) if name is not None else name_of(self.lm, program)
        self.is_named = name is not None
        self.instructions = instructions
        self._rollout: Rollout | None = None
        self._key_checked: dspy.BaseLM | None = None
        self._shows_lm = False  # to weight optimizers, see optimizers/tuning_weights.py
        self._adopt_program()

    @property
    def model(self) -> str | None:
        """The model name of the agent's LM, if it has one."""
        return None if self.lm is None else self.lm.model

    @property
    def lms(self) -> list[dspy.BaseLM]:
        """The agent's LM, those that its program brings, and those of the agents inside it."""
        inside = [lm for agent in self._inside() for lm in agent.lms]
        return [lm for lm in [self.lm, *self._own_lms.values(), *inside] if lm is not None]

    @property
    def asks_ambient_lm(self) -> bool:
        """Whether a part of the program has no other LM than `dspy.settings.lm`."""
        if self.lm is not None:
            return False
        bare = (path not in self._own_lms for path, _ in self._leaves())
        return any(bare) or any(agent.asks_ambient_lm for agent in self._inside())

    @property
    def is_fixed(self) -> bool:
        """Whether all of the program brings its LMs: they answer no rollouts, so it cannot be sampled again."""
        return bool(self._own_lms) and not self._has_agents and all(path in self._own_lms for path, _ in self._leaves())

    @property
    def has_agents(self) -> bool:
        """Whether there are agents inside the program."""
        return self._has_agents

    def renamed(self, name: str) -> Agent:
        """The same agent under another name: another object, on the same LM, with the same program."""
        return self if name == self.name else self._copy(self.program, name)

    def running(self, program: dspy.Module) -> Agent:
        """The same agent, on the same LM, with this program."""
        return self._copy(program, self.name)

    def _copy(self, program: dspy.Module | None, name: str) -> Agent:
        agent = copy.copy(self)
        agent.program, agent.name = program, name
        agent._adopt_program()
        return agent

    def forward(self, **inputs: Any) -> Any:
        with self._bound():
            return self._runnable()(**inputs)

    async def aforward(self, **inputs: Any) -> Any:
        with self._bound():
            return await acall(self._runnable(), **inputs)

    def named_parameters(self) -> list[tuple[str, Any]]:
        """Those of the program, and the LM: DSPy saves and loads it with them."""
        return [(BOUND, BoundLM(self)), *super().named_parameters()]

    def get_lm(self) -> dspy.BaseLM | None:
        """The agent's LM, else that of its program."""
        if self.lm is not None or not self._own_lms:
            return self.lm
        lm: Any = super().get_lm()
        return lm

    def check_key(self) -> None:
        """Find out before anything is paid for that the key of the LM's provider is missing.

        Raises:
            ValueError: Naming the environment variable.
        """
        lm = dspy.settings.lm if self.asks_ambient_lm else self.lm
        if lm is None or lm is self._key_checked:
            return
        variable = missing_key(lm)
        if variable is not None:
            raise ValueError(
                f"No API key for the model {lm.model!r} of agent {self.name!r}: the environment variable "
                f"{variable} is not set, so the provider would refuse every call. Set it, pass api_key= to "
                "dspy.LM, or use a simulated model such as 'simulated/alice'."
            )
        self._key_checked = lm

    def _runnable(self) -> dspy.Module:
        if self.program is None:
            raise ValueError(f"Agent {self.name!r} has no program yet: it gets one inside a mixture. Give program=.")
        return self.program

    @contextmanager
    def _bound(self) -> Iterator[None]:
        deliver_mail([self])
        rollout = compose(ambient(), self._rollout)
        lm = self.lm
        if lm is not None:
            lm = resampled(lm, rollout and compose(rollout_of(lm), rollout))
        elif dspy.settings.lm is not None:
            lm = resampled(dspy.settings.lm, rollout)
        with sampling(rollout), dspy.context(lm=lm):
            yield

    # The mailbox.

    def _adopt_program(self) -> None:
        self._has_agents = any(True for _ in self._inside())
        self._own_lms = {path: p.lm for path, p in self._leaves() if p.lm is not None}
        self._seated = dict(self._own_lms)

    def _leaves(self) -> Iterator[tuple[str, Any]]:
        """The program's predictors, without those that belong to agents inside it."""
        found = list(parts(() if self.program is None else self.program, Agent, dspy.Predict))
        inside = [part for _, part in found if isinstance(part, Agent)]
        theirs = {id(p) for agent in inside for _, p in parts(agent, dspy.Predict)}
        return ((path, p) for path, p in found if isinstance(p, dspy.Predict) and id(p) not in theirs)

    def _inside(self) -> Iterator[Agent]:
        return (agent for _, agent in parts(() if self.program is None else self.program, Agent))

    def _mail(self) -> list[tuple[str, Any, dspy.BaseLM | None]]:
        return [(path, p, p.lm) for path, p in self._leaves() if p.lm is not self._seated.get(path)]

    def _take(self, path: str, lm: dspy.BaseLM | None) -> dspy.BaseLM | None:
        """Take an LM out of the mail; gives the one that the predictor shall hold instead."""
        own = self._own_lms.get(path)
        rollout = rollout_of(lm)
        if own is None:
            if rollout is not None:
                self._rollout = rollout
            elif lm is not None:
                self.lm, self._rollout = lm, None
            return self.lm if self._shows_lm else None
        if lm is None:  # reset_copy() emptied it: the program's own LM comes back
            return own
        if rollout is not None:
            return resampled(own, compose(rollout_of(own), rollout))
        self._own_lms[path] = lm
        return lm

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        # Copies share LM objects: connections, history and the user's own handle on the LM.
        held = [self.lm, self._key_checked, *self._own_lms.values(), *self._seated.values()]
        memo.update({id(lm): lm for lm in [*held, *(p.lm for _, p in self._leaves())] if lm is not None})
        _copy_program(self.program, memo)
        clone = cloned(self, memo)
        mine = dict(self._leaves())
        for path, predictor in clone._leaves():
            predictor.lm = mine[path].lm
            if predictor.signature is mine[path].signature:  # InferRules writes into the class itself
                predictor.signature = duplicate(predictor.signature)
        return clone


def deliver_mail(agents: Sequence[Agent]) -> None:
    """Take over what was put into the agents' predictors; mail on a shared predictor is for all who share it."""
    if not any(agent._mail() for agent in agents):
        return
    with _mail_lock:
        mail = [(agent, *letter) for agent in agents for letter in agent._mail()]
        seats: dict[int, dspy.BaseLM | None] = {}
        for agent, path, predictor, lm in mail:
            seat = agent._take(path, lm)
            agent._seated[path] = seats.setdefault(id(predictor), seat)
        # Last: who calls meanwhile and finds no mail must find it taken by all.
        for _, _, predictor, _ in mail:
            predictor.lm = seats[id(predictor)]


def cloned(module: ModuleT, memo: dict[int, Any]) -> ModuleT:
    """A deep copy, as Python makes it of a class without `__deepcopy__`."""
    clone: Any = object.__new__(type(module))
    memo[id(module)] = clone
    clone.__setstate__(copy.deepcopy(dspy.Module.__getstate__(module), memo))
    return clone


def _copy_program(program: dspy.Module | None, memo: dict[int, Any]) -> None:
    if program is None or id(program) in memo:
        return
    # On a memo of its own: after a failure one is full of ids of what is gone, and new objects get those ids.
    attempt = dict(memo)
    try:
        copy.deepcopy(program, attempt)
    except Exception:
        # It holds what cannot be copied, a connection perhaps. DSPy's own copy shares that; without it
        # DSPy would copy the mixture attribute by attribute, and the agents would share no prompt any more.
        memo[id(program)] = program.deepcopy()
    else:
        memo.setdefault(id(memo), []).extend(attempt.pop(id(attempt), []))  # what deepcopy keeps alive
        memo.update(attempt)
