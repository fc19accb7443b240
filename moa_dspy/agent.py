"""An agent: a program bound to its own LM."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dspy

from moa_dspy.models import as_lm, missing_key
from moa_dspy.calls import acall
from moa_dspy.sampling import Rollout, ambient, compose, resampled, rollout_of, sampling

__all__ = ["Agent", "deliver_mail"]

_mail_lock = threading.Lock()


class Agent(dspy.Module):
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
        self.name = _checked_name(name) if name is not None else _name_of(self.lm, program)
        self.is_named = name is not None
        self.instructions = instructions
        self._rollout: Rollout | None = None
        self._key_checked: dspy.BaseLM | None = None
        self._adopt_program()

    @property
    def model(self) -> str | None:
        """The model name of the agent's LM, if it has one."""
        return None if self.lm is None else self.lm.model

    @property
    def brings_lms(self) -> bool:
        """Whether the program holds LMs of its own, or agents that do."""
        return bool(self._own_lms) or self._has_agents

    def renamed(self, name: str) -> Agent:
        """The same agent under another name: another object, on the same LM, with the same program."""
        return self if name == self.name else self._copy(self.program, name)

    def running(self, program: dspy.Module) -> Agent:
        """The same agent, on the same LM, with this program."""
        return self._copy(program, self.name)

    def _copy(self, program: dspy.Module | None, name: str) -> Agent:
        agent = Agent(self.lm, program, name=name)
        agent.instructions = self.instructions
        return agent

    def forward(self, **inputs: Any) -> Any:
        with self._bound():
            return self._runnable()(**inputs)

    async def aforward(self, **inputs: Any) -> Any:
        with self._bound():
            return await acall(self._runnable(), **inputs)

    def get_lm(self) -> dspy.BaseLM | None:
        """The agent's LM."""
        return self.lm if self.lm is not None or not self.brings_lms else super().get_lm()

    def check_key(self) -> None:
        """Find out before anything is paid for that the key of the LM's provider is missing.

        Raises:
            ValueError: Naming the environment variable.
        """
        if self.lm is None or self.lm is self._key_checked:
            return
        variable = missing_key(self.lm)
        if variable is not None:
            raise ValueError(
                f"No API key for the model {self.lm.model!r} of agent {self.name!r}: the environment variable "
                f"{variable} is not set, so the provider would refuse every call. Set it, pass api_key= to "
                "dspy.LM, or use a simulated model such as 'simulated/alice'."
            )
        self._key_checked = self.lm

    def _runnable(self) -> dspy.Module:
        if self.program is None:
            raise ValueError(f"Agent {self.name!r} has no program yet: it gets one inside a mixture. Give program=.")
        return self.program

    @contextmanager
    def _bound(self) -> Iterator[None]:
        deliver_mail([self])
        around = ambient()
        rollout = compose(around, self._rollout)
        lm = self.lm
        if lm is not None:
            lm = resampled(lm, compose(rollout_of(lm), rollout))
        elif rollout is not None and dspy.settings.lm is not None:
            lm = resampled(dspy.settings.lm, rollout)
        with sampling(rollout), dspy.context(lm=lm or dspy.settings.lm):
            yield

    # The mailbox.

    def _adopt_program(self) -> None:
        program = self.program
        self._has_agents = program is not None and any(True for _ in program.named_sub_modules(Agent))
        self._own_lms = {path: p.lm for path, p in self._leaves() if p.lm is not None}
        self._seated = dict(self._own_lms)

    def _leaves(self) -> Iterator[tuple[str, dspy.Predict]]:
        """The program's predictors, without those that belong to agents inside it."""
        return iter(()) if self.program is None else _predictors(self.program, "program")

    def _mail(self) -> list[tuple[str, dspy.Predict, dspy.BaseLM | None]]:
        return [(path, p, p.lm) for path, p in self._leaves() if p.lm is not self._seated.get(path)]

    def _take(self, path: str, predictor: dspy.Predict, lm: dspy.BaseLM | None) -> None:
        own = self._own_lms.get(path)
        rollout = rollout_of(lm)
        if own is None:
            if rollout is not None:
                self._rollout = rollout
            elif lm is not None:
                self.lm, self._rollout = lm, None
        elif lm is None:  # reset_copy() emptied it: the program's own LM comes back
            self._seated[path] = own
        elif rollout is not None:
            self._seated[path] = resampled(own, compose(rollout_of(own), rollout))
        else:
            self._own_lms[path] = self._seated[path] = lm
        predictor.lm = self._seated.get(path)

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        # Copies share LM objects: connections, history and the user's own handle on the LM.
        held = [self.lm, *self._own_lms.values(), *self._seated.values(), *(p.lm for _, p in self._leaves())]
        memo.update({id(lm): lm for lm in held if lm is not None})
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__setstate__(copy.deepcopy(self.__getstate__(), memo))
        return clone


def deliver_mail(agents: Sequence[Agent]) -> None:
    """Take over what was put into the agents' predictors; mail on a shared predictor is for all who share it."""
    if not any(agent._mail() for agent in agents):
        return
    with _mail_lock:
        letters = [(agent, agent._mail()) for agent in agents]
        for agent, mail in letters:
            for path, predictor, lm in mail:
                agent._take(path, predictor, lm)


# What a module holds beside its parts; the history alone can be thousands of entries long.
_NO_PARTS = frozenset({"history", "callbacks", "demos", "traces", "train"})


def _predictors(part: Any, path: str) -> Iterator[tuple[str, dspy.Predict]]:
    """The predictors in a module, as `named_predictors()` finds them, but fast enough for every call."""
    if isinstance(part, dspy.Predict):
        yield path, part
    elif isinstance(part, (list, tuple)):
        for index, item in enumerate(part):
            yield from _predictors(item, f"{path}[{index}]")
    elif isinstance(part, dict):
        for key, item in part.items():
            yield from _predictors(item, f"{path}[{key!r}]")
    elif isinstance(part, dspy.Module) and not isinstance(part, Agent):
        for name, item in vars(part).items():
            if name not in _NO_PARTS:
                yield from _predictors(item, f"{path}.{name}")


def _name_of(lm: dspy.BaseLM | None, program: dspy.Module | None) -> str:
    """`openai/gpt-5-mini` -> `gpt_5_mini`, `ReAct` -> `react`: readable, and a Python attribute."""
    label = type(program).__name__.lower() if lm is None else lm.model.rsplit("/", 1)[-1]
    return _identifier(label)


def _checked_name(name: str) -> str:
    if not name.isidentifier() or _is_taken(name):
        raise ValueError(
            f"{name!r} cannot name an agent: names become attributes of the mixture. Use a Python identifier that "
            f"is no attribute of a DSPy module, for example {_identifier(name)!r}."
        )
    return name


def _identifier(label: str) -> str:
    name = re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_").lower() or "agent"
    name = f"m_{name}" if name[0].isdigit() else name
    return f"{name}_agent" if _is_taken(name) else name


# What a panel has beside its agents.
_TAKEN = frozenset(["agents", "ask", "callbacks", "history", "layer", "limits", "names", "samples", "shared", "task"])


def _is_taken(name: str) -> bool:
    return hasattr(dspy.Module, name) or name in _TAKEN
