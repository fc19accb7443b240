"""An agent: a program bound to its own LM."""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import dspy

from moa_dspy.concurrency import acall
from moa_dspy.meter import METER, Meter
from moa_dspy.models import as_lm, load_backend, missing_key
from moa_dspy.rollouts import AMBIENT, Rollout, ambient_rollout, compose, resample, rollout_of
from moa_dspy.secrets import Keyless, remember
from moa_dspy.signatures import duplicate

__all__ = [
    "Agent",
    "adopt_lms",
    "as_identifier",
    "check_keys",
    "check_name",
    "find_modules",
    "showing_lms",
]

logger = logging.getLogger(__name__)

# Modules and adapters of DSPy's that ask no other LM than the one in the context.
_ASK_ONE_LM: frozenset[Any] = frozenset((dspy.Predict, dspy.ChainOfThought))
_ADAPTERS: frozenset[Any] = frozenset((type(None), dspy.ChatAdapter, dspy.JSONAdapter, dspy.XMLAdapter))
_adopting = threading.Lock()
_BOUND = nullcontext()


class Agent(Keyless):
    """A program bound to its own LM.

    The LM lives here and not on the program's predictors, where DSPy's optimizers wipe it. What somebody
    puts into a predictor's `.lm` (`set_lm`, SIMBA, BestOfN, Refine) is adopted at the next call: an LM with
    a `rollout_id` asks the agent to sample its own LM again; any other replaces it. A program that brings
    LMs of its own keeps them.

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

    Examples:
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
        _refuse_misspelt(options)
        self.lm = None if lm is None else as_lm(lm, **options)
        self.program = program
        label = type(program).__name__ if self.lm is None else self.lm.model.rsplit("/", 1)[-1]
        self.name = as_identifier(label) if name is None else check_name(name)
        self.is_named = name is not None
        self.instructions = instructions
        self._rollout: Rollout | None = None
        self._key_checked: dspy.BaseLM | None = None
        self._shows_lm = False  # see `showing_lms`
        self._take_program()

    @property
    def model(self) -> str | None:
        """The model name of the agent's LM, if it has one."""
        return None if self.lm is None else self.lm.model

    @property
    def lms(self) -> list[dspy.BaseLM]:
        """The agent's LM, those that its program brings, and those of the agents inside it."""
        inside = [lm for agent in self._agents() for lm in agent.lms] if self.has_agents else []
        return [lm for lm in [self.lm, *self._own_lms.values(), *inside] if lm is not None]

    @property
    def asks_only_its_lm(self) -> bool:
        """Whether neither the program nor agents inside it bring LMs of their own."""
        return not self._own_lms and not self.has_agents

    @property
    def asks_ambient_lm(self) -> bool:
        """Whether some of the program has no other LM than `dspy.settings.lm`."""
        if self.lm is not None:
            return False
        bare = (path not in self._own_lms for path, _ in self._predictors())
        return any(bare) or any(agent.asks_ambient_lm for agent in self._agents())

    @property
    def is_fixed(self) -> bool:
        """Whether all of the program brings its LMs: they answer no rollouts, so it cannot be sampled again."""
        return bool(self._own_lms) and not self.has_agents and len(self._own_lms) == len(self._predictors())

    def bind(self, rollout: Rollout | None = None) -> tuple[Meter, dict[str, Any]]:
        """What one call of this agent runs under, after `adopt_lms`.

        Args:
            rollout: Which sample it is asked for.

        Returns:
            The meter that sees its LM calls, and DSPy's settings, its LM among them.
        """
        program: Any = self.program
        watches_itself = vars(type(program)).get("asks_one_lm", False)  # a strategy, call by call
        asks_one_lm = type(program) in _ASK_ONE_LM or (watches_itself and program.asks_one_lm)
        everywhere = not asks_one_lm or self._shows_lm or bool(self._own_lms)
        everywhere = everywhere or type(dspy.settings.adapter) not in _ADAPTERS
        meter = Meter(self.name, everywhere, owner=self)
        lm, rollout = self._lm_for(compose(ambient_rollout(), rollout), resample if watches_itself else meter.watch)
        return meter, {**meter.settings(), "lm": lm, AMBIENT: rollout}

    def rename(self, name: str) -> Agent:
        """The same agent under another name: another object, on the same LM, with the same program."""
        return self if name == self.name else self._copy(self.program, name)

    def with_program(self, program: dspy.Module | None) -> Agent:
        """The same agent, on the same LM, with this program; with None, one is built for it in a mixture."""
        return self._copy(program, self.name)

    def forward(self, **inputs: Any) -> Any:
        program = self._runnable()
        if not hasattr(type(program), "forward"):
            raise TypeError(
                f"The program of agent {self.name!r}, {type(program).__name__}, has no forward(), so it can only be "
                "awaited. Ask the mixture with `await moa.acall(...)`, or give the program a forward()."
            )
        with self._bound():
            return program(**inputs)

    async def aforward(self, **inputs: Any) -> Any:
        with self._bound():
            return await acall(self._runnable(), **inputs)

    def _bound(self) -> AbstractContextManager[None]:
        meter = dspy.settings.get(METER)
        if meter is not None and meter.owner is self:  # a mixture's, which has bound it
            return _BOUND
        adopt_lms([self])
        lm, rollout = self._lm_for(ambient_rollout(), resample)
        context: AbstractContextManager[None] = dspy.context(**{"lm": lm, AMBIENT: rollout})
        return context

    def _lm_for(
        self, rollout: Rollout | None, watch: Callable[[dspy.BaseLM, Rollout | None], dspy.BaseLM]
    ) -> tuple[dspy.BaseLM | None, Rollout | None]:
        """The LM as it answers this rollout and the agent's own, and both rollouts as one."""
        rollout = compose(rollout, self._rollout)
        lm: dspy.BaseLM | None = self.lm
        if lm is not None:
            return watch(lm, rollout and compose(rollout_of(lm), rollout)), rollout
        ambient = dspy.settings.lm
        return (None if ambient is None else watch(ambient, rollout)), rollout

    def get_lm(self) -> dspy.BaseLM | None:
        """The agent's LM, else that of its program."""
        if self.lm is not None or not self._own_lms:
            return self.lm
        lm: Any = super().get_lm()
        return lm

    def missing_key(self) -> tuple[str, str] | None:
        """The model whose provider's key is missing, and the environment variable that should hold it."""
        lm = self.lm
        if lm is None and self.asks_ambient_lm:
            lm = dspy.settings.lm
        if lm is self._key_checked or not isinstance(lm, dspy.BaseLM):
            return None
        variable = missing_key(lm)
        if variable is None:
            load_backend(lm)
            self._key_checked = lm
            return None
        return lm.model, variable

    def _copy(self, program: dspy.Module | None, name: str) -> Agent:
        agent = copy.copy(self)
        agent.program, agent.name = program, name
        agent._take_program()
        return agent

    def _runnable(self) -> dspy.Module:
        if self.program is None:
            raise ValueError(f"Agent {self.name!r} has no program yet: it gets one inside a mixture. Give program=.")
        return self.program

    # Adoption of what others put into the predictors.

    def _take_program(self) -> None:
        self.has_agents = any(True for _ in self._agents())
        predictors = self._predictors()
        self._own_lms = {path: p.lm for path, p in predictors if p.lm is not None}
        for holder in [*self._own_lms.values(), *(p for _, p in predictors if p.config)]:
            remember(holder)
        self._held = dict(self._own_lms)

    def _predictors(self) -> list[tuple[str, Any]]:
        """The program's predictors, without those that belong to agents inside it."""
        program: Any = self.program
        kind = type(program)
        if kind is dspy.ChainOfThought:
            return [(".predict", program.predict)]
        if kind is dspy.Predict:
            return [("", program)]
        found = list(find_modules(() if program is None else program, Agent, dspy.Predict))
        inside = [item for _, item in found if isinstance(item, Agent)]
        theirs = {id(p) for agent in inside for _, p in find_modules(agent, dspy.Predict)}
        return [(path, p) for path, p in found if isinstance(p, dspy.Predict) and id(p) not in theirs]

    def _agents(self) -> Iterator[Agent]:
        return (agent for _, agent in find_modules(() if self.program is None else self.program, Agent))

    def _put_in(self) -> list[tuple[str, Any, dspy.BaseLM | None]]:
        """What somebody put into the predictors since the last call."""
        held = self._held
        return [(path, p, lm) for path, p in self._predictors() if (lm := p.lm) is not held.get(path)]

    def _adopt(self, path: str, lm: dspy.BaseLM | None) -> dspy.BaseLM | None:
        """Adopt an LM; gives the one that the predictor shall hold instead."""
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
            return resample(own, compose(rollout_of(own), rollout))
        self._own_lms[path] = lm
        return lm

    def __deepcopy__(self, memo: dict[int, Any]) -> Agent:
        # Copies share LM objects: connections, history and the user's own handle on the LM.
        held = [self.lm, self._key_checked, *self._own_lms.values(), *self._held.values()]
        for lm in [*held, *(p.lm for _, p in self._predictors())]:
            memo.setdefault(id(lm), lm)
        _copy_program(self.program, memo)
        copied: Any = super().__deepcopy__(memo)
        mine = dict(self._predictors())
        for path, predictor in copied._predictors():
            predictor.lm = copy.deepcopy(mine[path].lm, memo)
            if predictor.signature is mine[path].signature:  # InferRules writes into the class itself
                predictor.signature = duplicate(predictor.signature)
        return copied


def adopt_lms(agents: Sequence[Agent]) -> None:
    """Adopt what was put into the agents' predictors; what a shared predictor got is for all who share it."""
    if not any(agent._put_in() for agent in agents):
        return
    with _adopting:
        put_in = [(agent, *one) for agent in agents for one in agent._put_in()]
        models = {agent.model: None for agent, *_ in put_in if agent.model is not None}
        holds: dict[int, dspy.BaseLM | None] = {}
        for agent, path, predictor, lm in put_in:
            hold = agent._adopt(path, lm)
            agent._held[path] = holds.setdefault(id(predictor), hold)
        # Last: who calls meanwhile and finds nothing put in must find it adopted by all.
        for _, _, predictor, _ in put_in:
            predictor.lm = holds[id(predictor)]
    now = {agent.model for agent, *_ in put_in}
    if len(models) > 1 and len(now) == 1:
        logger.warning(
            "set_lm put one model, %s, in the place of %s: all agents ask it now. To change one agent's model, set its "
            "`.lm`.",
            now.pop(),
            ", ".join(models),
        )


@contextmanager
def showing_lms(agents: Sequence[Agent]) -> Iterator[None]:
    """Show each agent's LM on its predictors, where DSPy's weight optimizers read it and put the trained one.

    Inside, predictors ask the LM that they hold, as in any program of DSPy's whose predictors have LMs: nothing
    resamples it. Copies that are made inside go on showing theirs: use this once more on a copy that is kept.
    """

    def show(shows: bool) -> None:
        adopt_lms(agents)
        for agent in agents:
            agent._shows_lm = shows
            for path, predictor in agent._predictors():
                if path not in agent._own_lms:
                    agent._held[path] = predictor.lm = agent.lm if shows else None

    show(True)
    try:
        yield
    finally:
        show(False)


def check_keys(agents: Sequence[Agent]) -> None:
    """Find out before anything is paid for which providers' keys are missing.

    Raises:
        ValueError: Naming every model and environment variable.
    """
    missing = {agent.name: found for agent in agents if (found := agent.missing_key()) is not None}
    if missing:
        who = "; ".join(
            f"agent {name!r} ({model}): {variable} is not set" for name, (model, variable) in missing.items()
        )
        raise ValueError(
            f"No API key for {who}. The provider would refuse every call. Set the environment variable, pass api_key= "
            "to dspy.LM, or use a simulated model such as 'simulated/alice'."
        )


def check_name(name: str) -> str:
    """The name, unchanged.

    Raises:
        ValueError: If it cannot be an attribute of a mixture.
    """
    if not name.isidentifier() or _is_taken(name):
        raise ValueError(
            f"{name!r} cannot name an agent: names become attributes of the mixture. Use a Python identifier that "
            f"is no attribute of a DSPy module, for example {as_identifier(name)!r}."
        )
    return name


def as_identifier(label: str) -> str:
    """The label as an agent's name: `gpt-5-mini` -> `gpt_5_mini`, `ReAct` -> `react`."""
    name = re.sub(r"\W+", "_", label, flags=re.ASCII).strip("_").lower() or "agent"
    name = f"m_{name}" if name[0].isdigit() else name
    return f"{name}_agent" if _is_taken(name) else name


_A_MODULE = dspy.Module()
# What a panel holds under these names would be overwritten.
_OF_A_PANEL = frozenset(
    {"aforward", "agents", "ask", "forward", "layer", "limits", "names", "samples", "shared", "task"}
)


def _is_taken(name: str) -> bool:
    return name.startswith("_") or hasattr(_A_MODULE, name) or name in _OF_A_PANEL


# Those of dspy.LM's constructor, and the request parameters that most providers know.
_LM_OPTIONS = frozenset(inspect.signature(dspy.LM.__init__).parameters) | {
    *("api_base", "api_key", "api_version", "base_url", "extra_body", "extra_headers", "frequency_penalty"),
    *("instructions", "logprobs", "max_completion_tokens", "n", "name", "parallel_tool_calls", "presence_penalty"),
    *("program", "reasoning_effort", "response_format", "rollout_id", "seed", "stop", "timeout", "tool_choice"),
    *("tools", "top_k", "top_p", "user"),
}


def _refuse_misspelt(options: dict[str, Any]) -> None:
    for option in options.keys() - _LM_OPTIONS:
        if near := difflib.get_close_matches(option, _LM_OPTIONS, n=1, cutoff=0.8):
            raise ValueError(
                f"Agent has no option {option!r}, and no provider knows it either. Did you mean {near[0]!r}?"
            )


# What a module holds beside its modules; the history alone can be thousands of entries long.
_NO_MODULES = frozenset({"history", "callbacks", "demos", "traces", "train"})
_HOLDERS = (dspy.Module, list, tuple, dict)


def find_modules(holder: Any, *kinds: type, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """The modules of these kinds, each once, with its path; what lies inside one that is found is left out."""
    seen = set() if seen is None else seen
    if id(holder) in seen:
        return
    seen.add(id(holder))
    if isinstance(holder, kinds):
        yield path, holder
        return
    for name, item in _items(holder):
        if isinstance(item, _HOLDERS):
            yield from find_modules(item, *kinds, path=f"{path}.{name}", seen=seen)


def _items(holder: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(holder, dspy.Module):
        return ((name, item) for name, item in vars(holder).items() if name not in _NO_MODULES)
    return iter(holder.items()) if isinstance(holder, dict) else iter(enumerate(holder))


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
