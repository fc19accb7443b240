"""Compile a mixture of fakes with an optimizer, twice, and check what must hold whatever the optimizer does."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import dspy
import pytest

from moa_dspy import Agent, MoA

from .fake_engine import current_rollout
from .fake_lm import FakeLM
from .mixtures import calls, question
from .rendering import asked

TIP = "Look at the number."


class Task(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


TASK = str(Task)
TRAIN = [dspy.Example(question=f"q{n}", answer=f"a{n}").with_inputs("question") for n in range(6)]


def right(example: dspy.Example, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def never(*_: Any) -> float:
    return 0.0


def role(name: str, lm: Any = FakeLM) -> Any:
    """Signs its reasoning; knows the even questions, and all with the tip, a demo of its own, or at rollout 1."""

    def answer(prompt: str) -> Mapping[str, Any]:
        number = int(question(prompt).removeprefix("q"))
        coached = TIP in prompt or f"{name} wrote this" in prompt
        knows = number % 2 == 0 or coached or current_rollout.get() == 1
        said = f"a{number}" if knows else f"no idea, says {name}"
        verdict = {"choice": "P1", "groups": [["P1"], ["P2"]], "best": "P1", "elements": []}
        return {"reasoning": f"{name} wrote this", "answer": said, **verdict}

    return lm(name, answer)


def coach(prompt: str) -> Mapping[str, Any]:
    """Writes for an optimizer: keeps whom a prompt is for, and adds the tip, or a hint with the module's name."""
    inputs = asked(prompt).inputs  # type: ignore[union-attr]
    mark = re.search(r"You are \w+\.", " ".join(value for name, value in inputs.items() if "instruction" in name))
    better = f"{mark[0] if mark else ''} {TIP}".strip()
    modules = re.findall(r"[\w.]+\.[\w.]+", inputs.get("module_names", ""))
    hints = {name: f"Hint for {name}." for name in modules}
    plain = ("observations", "summary", "program_description", "module_description", "discussion", "reasoning")
    return {
        **dict.fromkeys(plain, "About numbers"),
        **dict.fromkeys(("proposed_instruction", "new_instruction", "natural_language_rules"), better),
        **dict.fromkeys(("advice", "module_advice"), hints),
        "proposed_prefix_for_output_field": "Answer:",
    }


class Outer(dspy.Module):
    """A plain program with a mixture in it."""

    def __init__(self, moa: dspy.Module) -> None:
        super().__init__()
        self.moa = moa

    def forward(self, question: str) -> Any:
        return self.moa(question=question)


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


ALL = [Setting(s, n, g) for s in (False, True) for n in (False, True) for g in (False, True)]
# Every pair of choices stands in one of these four.
PAIRS = [Setting(s, n, s != n) for s in (False, True) for n in (False, True)]


def settings(among: Sequence[Setting] = ALL) -> pytest.MarkDecorator:
    """Every setting; those that repeat pairs of choices are slow."""
    return pytest.mark.parametrize(
        "setting", [pytest.param(s, id=str(s), marks=[] if s in PAIRS else pytest.mark.slow) for s in among]
    )


every_setting = settings()
# A plain outer program shows none of the LMs in it, so DSPy's SIMBA, BestOfN and Refine start from settings.lm.
every_setting_with_an_lm = settings([setting for setting in ALL if setting.strayed or not setting.nested])

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
    def moa(self) -> Any:
        return self.tuned.moa if self.setting.nested else self.tuned

    @property
    def authors(self) -> dict[str, set[str]]:
        """Predictor -> who wrote the demos that were bootstrapped for it."""
        written = {name: [demo for demo in p.demos if "augmented" in demo] for name, p in _predictors(self.tuned)}
        return {name: {demo["reasoning"].split()[0] for demo in demos} for name, demos in written.items() if demos}

    def has_own_demos(self, prefix: str = "") -> bool:
        """Whether every predictor has demos, all written by those who use it."""
        own = {f"proposers.{name}.program.predict": {name} for name in ("ada", "bo")}
        own = own if self.setting.specialized else {"proposers.shared.predict": {"ada", "bo"}}
        own["aggregator.program.synthesize"] = {"judge"}
        written = {name: {author.removeprefix(prefix) for author in found} for name, found in self.authors.items()}
        return written.keys() == own.keys() and all(written[name] <= own[name] for name in own)

    @property
    def instructions(self) -> dict[str, str]:
        return {name: predictor.signature.instructions for name, predictor in _predictors(self.tuned)}

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
