"""Models in roles that an optimizer can teach, what it asks for prompts, and a provider that trains models."""

import re
from collections.abc import Mapping
from typing import Any

import dspy
from dspy.clients.provider import Provider

from moa_dspy import Agent, MoA

from .fake_engine import current_rollout
from .fake_lm import FakeLM
from .mixtures import question
from .rendering import asked
from .shown import JUDGED

TIP = "Look at the number."


class Task(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


TRAIN = [dspy.Example(question=f"q{n}", answer=f"a{n}").with_inputs("question") for n in range(6)]


class Outer(dspy.Module):
    """A plain program with a mixture in it."""

    def __init__(self, moa: dspy.Module) -> None:
        super().__init__()
        self.moa = moa

    def forward(self, **inputs: Any) -> Any:
        return self.moa(**inputs)


class School(Provider):
    """Trains what it is given; the trained model is called so, with a plus."""

    def __init__(self) -> None:
        super().__init__()
        self.finetunable = True
        self.replies: dict[str, list[str]] = {}
        self.settings: dict[str, Any] = {}

    def finetune(  # pyright: ignore[reportIncompatibleMethodOverride]  # DSPy's own is static
        self, job: Any, model: str, train_data: Any, train_data_format: Any, train_kwargs: Any = None
    ) -> str:
        self.replies[model] = [example["messages"][-1]["content"] for example in train_data]
        self.settings[model] = train_kwargs
        return f"{model}+"

    @property
    def authors(self) -> dict[str, set[str]]:
        """Model -> who wrote the replies that it learned."""
        return {model: set(re.findall(r"(\w+) wrote this", "\n".join(said))) for model, said in self.replies.items()}


def right(example: Any, prediction: Any, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


def never(*_: Any) -> float:
    return 0.0


def role(name: str, **options: Any) -> FakeLM:
    """Signs its reasoning; knows the even questions, and all with the tip, a demo of its own, or at rollout 1."""

    def answer(prompt: str) -> Mapping[str, Any]:
        number = int(question(prompt).removeprefix("q"))
        coached = TIP in prompt or f"{name} wrote this" in prompt
        knows = number % 2 == 0 or coached or current_rollout.get() == 1
        return {
            **JUDGED,
            "reasoning": f"{name} wrote this",
            "answer": f"a{number}" if knows else f"no idea, says {name}",
        }

    return FakeLM(name, answer, **options)


def student(lms: Mapping[str, FakeLM], specialized: bool = True, nested: bool = False, **options: Any) -> Any:
    """A mixture of ada, bo and a judge, whose prompts name them where each has its own."""
    agents = [
        Agent(lms[name], name=name, instructions=f"You are {name}." if specialized else None) for name in ("ada", "bo")
    ]
    moa = MoA(Task, agents, lms["judge"], use_specialized_prompts=specialized, **options)
    return Outer(moa) if nested else moa


def coach(prompt: str) -> Mapping[str, Any]:
    """Writes for an optimizer: keeps whom a prompt is for, and adds the tip, or a hint with the module's name."""
    wanted = asked(prompt)
    assert wanted is not None
    mark = re.search(r"You are \w+\.", " ".join(v for name, v in wanted.inputs.items() if "instruction" in name))
    better = f"{mark[0] if mark else ''} {TIP}".strip()
    modules = re.findall(r"[\w.]+\.[\w.]+", wanted.inputs.get("module_names", ""))
    hints = {name: f"Hint for {name}." for name in modules}
    return {
        **dict.fromkeys(wanted.fields, "About numbers"),
        **dict.fromkeys(("proposed_instruction", "new_instruction", "natural_language_rules"), better),
        "advice": hints,
        "module_advice": hints,
    }
