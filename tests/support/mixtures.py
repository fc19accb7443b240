"""Mixtures of fakes, and every way to call them."""

import asyncio
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import dspy
import pytest

from moa_dspy import MoA

from .fake_lm import FakeLM

QA = "question -> answer"
EXAMPLES = [dspy.Example(question=f"q{n}", answer=f"a{n}").with_inputs("question") for n in range(3)]

Ask: TypeAlias = Callable[..., Any]


def says(answer: Any, reasoning: str = "so") -> Callable[[str], Mapping[str, Any]]:
    """Answer every prompt the same, as a judge with the first proposal."""
    return lambda prompt: {"reasoning": reasoning, "answer": answer, "choice": "P1"}


def echo(prompt: str) -> Mapping[str, Any]:
    """Answer with the question."""
    return {"reasoning": "so", "answer": question(prompt)}


def question(prompt: str) -> str:
    """The question that a prompt asks; demos come before it."""
    return re.findall(r"\[\[ ## question ## \]\]\n(.*)", prompt)[-1].strip()


def cast(*names: str, **options: Any) -> dict[str, FakeLM]:
    """Fakes that answer with their own names."""
    return {name: FakeLM(name, says(name), **options) for name in names}


def calls(lms: Mapping[str, FakeLM]) -> dict[str, int]:
    """How often each was asked."""
    return {name: lm.calls for name, lm in lms.items()}


def mixture(lms: Mapping[str, FakeLM], **options: Any) -> MoA:
    """A mixture of them: the last one judges, unless it is called stray."""
    *proposers, judge = (lm for name, lm in lms.items() if name != "stray")
    return MoA(QA, proposers, judge, **options)


class Gives(dspy.Module):
    """A program that gives or raises what it is told."""

    def __init__(self, result: Any) -> None:
        super().__init__()
        self.result = result

    def forward(self, **inputs: Any) -> Any:
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


def sync(module: dspy.Module, /, **inputs: Any) -> Any:
    return module(**inputs)


def in_task(module: dspy.Module, /, **inputs: Any) -> Any:
    return asyncio.run(module.acall(**inputs))


def in_loop(module: dspy.Module, /, **inputs: Any) -> Any:
    async def main() -> Any:
        return module(**inputs)

    return asyncio.run(main())


every_way = pytest.mark.parametrize(
    "ask", [pytest.param(sync, id="sync"), pytest.param(in_task, id="async"), pytest.param(in_loop, id="sync in loop")]
)
both_ways = pytest.mark.parametrize("ask", [pytest.param(sync, id="sync"), pytest.param(in_task, id="async")])
