"""Proposals and strategies without a panel."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from moa_dspy import Case, MoA, Proposal, Strategy, Verdict
from moa_dspy.signatures import task_signature

from .fake_lm import FakeLM
from .shown import ADAPTERS, blocks, choosing, labels, panel_of, request, told

__all__ = ["ADAPTERS", "answers", "blocks", "case_of", "choosing", "decide"]
__all__ += ["label_of", "mixture_of", "proposals_of", "request", "told"]


def proposals_of(*outputs: Mapping[str, Any], reasonings: Sequence[str | None] = ()) -> list[Proposal]:
    """Proposals with these outputs, of agents a, b, c, ..."""
    thoughts = [*reasonings, *[None] * len(outputs)]
    return [
        Proposal(id=id, agent=id, model=f"provider/{id}-model", outputs=dict(out), reasoning=thought)
        for id, out, thought in zip(map(_name, range(len(outputs))), outputs, thoughts, strict=False)
    ]


def case_of(task: str | type[dspy.Signature], *outputs: Mapping[str, Any], silent: int = 0, **inputs: Any) -> Case:
    """What a strategy decides on: these proposals, and as many more that were asked for and did not come."""
    signature = task_signature(task)
    given = {name: inputs.get(name, "why?") for name in signature.input_fields}
    asked_for = {_name(number): _name(number) for number in range(len(outputs) + silent)}
    return Case(signature, given, proposals_of(*outputs), asked_for)


def answers(*texts: Any) -> list[dict[str, Any]]:
    """Outputs with one field, `answer`."""
    return [{"answer": text} for text in texts]


def decide(strategy: Strategy, case: Case, judge: FakeLM | None = None, *, in_task: bool = False) -> Verdict:
    """What the strategy makes of the case, the judge being asked."""
    strategy.bind(case.task, list(dict.fromkeys(case.asked.values())))
    with dspy.context(lm=judge):
        decision: Any = asyncio.run(strategy.acall(case=case)) if in_task else strategy(case=case)
    assert isinstance(decision, Verdict)
    return decision


def mixture_of(
    task: str | type[dspy.Signature], outputs: Sequence[Mapping[str, Any]], judge: FakeLM | None, **options: Any
) -> MoA:
    """A mixture whose proposers, of models provider/m0, m1, ..., give these outputs."""
    return panel_of(*outputs, judge=judge, task=task, **options)


def label_of(prompt: str, answer: str) -> str:
    """The label under which a prompt shows the proposal with this answer."""
    return labels(prompt)[answer]


def _name(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number] if number < 26 else f"z{number}"
