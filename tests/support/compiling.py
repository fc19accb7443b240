"""Compile mixtures of fakes with an optimizer, and check what must hold of every optimizer."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import dspy
import pytest

from moa_dspy import Agent, MoA

from .fake_engine import current_rollout
from .fake_lm import FakeLM
from .mixtures import calls, question

ROLES = ("ada", "bo", "judge")


class Task(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


TRAIN = [dspy.Example(question=f"q{n}", answer=f"a{n}").with_inputs("question") for n in range(6)]
TIP = "Look at the number."


def role(name: str) -> FakeLM:
    """A model that signs its reasoning, knows the even questions, and with the tip all of them."""

    def answer(prompt: str) -> Mapping[str, Any]:
        number = int(question(prompt).removeprefix("q"))
        knows = number % 2 == 0 or TIP in prompt or current_rollout.get() == 1
        return {"reasoning": f"{name} wrote this", "answer": f"a{number}" if knows else f"no idea, says {name}"}

    return FakeLM(name, answer)


def right(example: dspy.Example, prediction: dspy.Prediction, trace: Any = None) -> bool:
    return bool(prediction.answer == example.answer)


class Outer(dspy.Module):
    """A plain program with a mixture in it."""

    def __init__(self, moa: MoA) -> None:
        super().__init__()
        self.moa = moa

    def forward(self, question: str) -> Any:
        return self.moa(question=question)


@dataclass(frozen=True)
class Setting:
    """How the mixture is built, and where it stands."""

    specialized: bool
    nested: bool
    strayed: bool

    def __str__(self) -> str:
        return "-".join(
            [
                "specialized" if self.specialized else "shared",
                "outer" if self.nested else "moa",
                "settings.lm" if self.strayed else "no settings.lm",
            ]
        )

    def program(self, lms: Mapping[str, FakeLM], **options: Any) -> Any:
        proposers = [
            Agent(lms[name], name=name, instructions=f"You are {name}." if self.specialized else None)
            for name in ("ada", "bo")
        ]
        moa = MoA(Task, proposers, lms["judge"], use_specialized_prompts=self.specialized, **options)
        return Outer(moa) if self.nested else moa


SETTINGS = [Setting(s, n, g) for s in (False, True) for n in (False, True) for g in (False, True)]
