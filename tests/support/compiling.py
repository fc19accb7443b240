"""Compile a mixture of fakes with an optimizer, twice, and check what must hold whatever the optimizer does."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import dspy

from moa_dspy import Agent, MoA

from .fake_lm import FakeLM
from .mixtures import calls
from .roles import Outer, Task, coach, role

TASK = str(Task)


@dataclass(frozen=True)
class Setting:
    """How the mixture's prompts are built, whether it stands in an outer program, whether there is a settings.lm."""

    specialized: bool = True
    nested: bool = False
    strayed: bool = True

    def program(self, lms: Mapping[str, FakeLM], **options: Any) -> Any:
        instructions = {name: f"You are {name}." if self.specialized else None for name in ("ada", "bo")}
        agents = [Agent(lms[name], name=name, instructions=text) for name, text in instructions.items()]
        moa = MoA(Task, agents, lms["judge"], use_specialized_prompts=self.specialized, **options)
        return Outer(moa) if self.nested else moa

    def __str__(self) -> str:
        names = ["specialized" if self.specialized else "shared", "outer" if self.nested else "moa"]
        return "-".join([*names, "settings.lm" if self.strayed else "none"])


Compile: TypeAlias = Callable[[Any, FakeLM], Any]


@dataclass
class Run:
    """One compilation, and one call of what came out."""

    setting: Setting
    lms: dict[str, FakeLM]
    coach: FakeLM
    tuned: Any
    during: dict[str, int]
    after: dict[str, int]

    @property
    def transcript(self) -> dict[str, list[Any]]:
        """All that was sent to each model, in order."""
        models = {**self.lms, "coach": self.coach}
        return {name: [(call.prompt, call.rollout_id) for call in lm.log] for name, lm in models.items()}


def compiled(setting: Setting, compile: Compile, *, ordered: bool = True, **options: Any) -> Run:
    """Compile twice with fresh fakes: both runs must send the same prompts and come to the same state."""
    first, second = (_run(setting, compile, **options) for _ in range(2))
    sort = list if ordered else partial(sorted, key=repr)  # several threads keep no order
    assert _each(sort, first.transcript) == _each(sort, second.transcript)
    assert _state(first.tuned) == _state(second.tuned)
    return first


def _each(sort: Callable[[Any], Any], transcript: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {name: sort(said) for name, said in transcript.items()}


def _run(setting: Setting, compile: Compile, **options: Any) -> Run:
    lms, writer = {name: role(name) for name in ("ada", "bo", "judge")}, FakeLM("coach", coach)
    program = setting.program(lms, **options)
    before = _portrait(program)
    with dspy.context(lm=FakeLM("stray", []) if setting.strayed else None):  # it has no answer: a call fails the test
        tuned = compile(program, writer)
        during = calls(lms)
        tuned(question="q3")
    after = {name: count - during[name] for name, count in calls(lms).items()}
    assert _portrait(program) == before and str(Task) == TASK
    run = Run(setting, lms, writer, tuned, during, after)
    _check_prompts(run)
    return run


def _check_prompts(run: Run) -> None:
    """Every model was sent its own role's prompt only, with its own demos."""
    for name, lm in run.lms.items():
        others = {"ada", "bo", "judge"} - {name} if run.setting.specialized else {"judge"} - {name}
        for prompt in lm.prompts:
            assert ("[[ ## proposals ## ]]" in prompt) == (name == "judge")
            if name != "judge":
                assert (f"You are {name}." in prompt) == run.setting.specialized
                assert not any(f"You are {other}." in prompt or f"{other} wrote this" in prompt for other in others)


def _predictors(program: dspy.Module) -> list[tuple[str, Any]]:
    return [(name.removeprefix("moa."), predictor) for name, predictor in program.named_predictors()]


def _state(program: dspy.Module) -> Any:
    return [(name, predictor.dump_state()) for name, predictor in _predictors(program)]


def _portrait(program: Any) -> Any:
    """Everything about a program that compiling it must not touch."""
    moa: Any = getattr(program, "moa", program)
    predictors = [(p, p.signature, str(p.signature), list(p.demos), p.lm, p.fields) for p in program.predictors()]
    agents = [(agent, agent.lm, agent._rollout) for agent in moa.agents]
    return predictors, agents, [sorted(vars(module)) for module in (program, moa)], program._compiled
