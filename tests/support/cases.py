"""Proposals and strategies without a panel, and prompts read back as strictly as a machine would."""

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from moa_dspy import Case, MoA, Proposal, Strategy, Verdict
from moa_dspy.signatures import task_signature

from .fake_lm import FakeLM
from .rendering import asked

ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]

_BLOCK = r"Proposal (P\d+)(?: \(given by (\d+) of (\d+) proposers\))?:\n«««\n([^«»]*(?:[«»]{1,2}(?![«»])[^«»]*)*)\n»»»"


@dataclass(frozen=True)
class Block:
    """One proposal of an exhibit: how many gave it, and its fields as text."""

    given_by: int
    fields: dict[str, str]


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
    return MoA(task, [proposer(f"provider/m{number}", out) for number, out in enumerate(outputs)], judge, **options)


def proposer(name: str, outputs: Mapping[str, Any]) -> FakeLM:
    """A model that answers every prompt with these outputs."""
    return FakeLM(name, lambda prompt: {"reasoning": "so", **outputs})


def told(lm: FakeLM, number: int = -1) -> dict[str, str]:
    """The inputs that a model was given in its last message."""
    return request(lm, number).inputs


def request(lm: FakeLM, number: int = -1) -> Any:
    """What a model was asked for in its last message."""
    found = asked(lm.requests[number].messages[-1].text or "")
    assert found is not None
    return found


def blocks(text: str) -> dict[str, Block]:
    """Read an exhibit back; fails if anything stands in it beside well-formed proposals."""
    assert re.fullmatch(rf"{_BLOCK}(?:\n\n{_BLOCK})*", text), text
    return {label: Block(int(count or 1), _fields(body)) for label, count, _, body in re.findall(_BLOCK, text)}


def label_of(prompt: str, answer: str) -> str:
    """The label under which a prompt shows the proposal with this answer."""
    exhibit = prompt[prompt.rindex("\nProposal P1") + 1 :]
    return next(label for label, _, _, body in re.findall(_BLOCK, exhibit) if _fields(body)["answer"].strip() == answer)


def choosing(*chosen: str) -> Callable[[str], dict[str, Any]]:
    """A judge that names the proposals with these answers, one a call, the last one ever after."""
    left = list(chosen)

    def choose(prompt: str) -> dict[str, Any]:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return {"reasoning": "best", "choice": label_of(prompt, answer)}

    return choose


def _fields(body: str) -> dict[str, str]:
    # Every character that some reader takes for a line break starts a line here.
    parts = re.split(r"(?:^|(?<=[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]))(\w+): ", body)
    assert parts[0] == "" and len(set(parts[1::2])) == len(parts[1::2]), body
    return {name: value.removesuffix("\n") for name, value in zip(parts[1::2], parts[2::2], strict=True)}


def _name(number: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[number] if number < 26 else f"z{number}"
