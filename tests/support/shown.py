"""Proposals as a prompt shows them, read back as strictly as a machine would."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from moa_dspy import MoA

from .fake_lm import FakeLM
from .rendering import asked

ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]

JUDGED: Mapping[str, Any] = {
    "reasoning": "so",
    "choice": "P1",
    "groups": [["P1"], ["P2"]],
    "best": "P1",
    "elements": [],
}
"""What an aggregator may be asked for beside the task's outputs, whichever strategy asks."""

_BLOCK = r"Proposal (P\d+)(?: \(given by (\d+) of (\d+) proposers\))?:\n«««\n([^«»]*(?:[«»]{1,2}(?![«»])[^«»]*)*)\n»»»"


@dataclass(frozen=True)
class Block:
    """One proposal in a prompt: how many gave it, and its fields as text."""

    given_by: int
    fields: dict[str, str]


def always(**outputs: Any) -> Callable[[str], dict[str, Any]]:
    """A model that gives these outputs to whoever asks, as a proposer and as an aggregator."""
    return lambda prompt: {**JUDGED, **outputs}


def panel_of(*outputs: Any, judge: FakeLM | None = None, task: Any = "question -> answer", **options: Any) -> MoA:
    """A mixture whose proposers m0, m1, ... give these outputs, or these answers."""
    given = [out if isinstance(out, Mapping) else {"answer": out} for out in outputs]
    lms = [FakeLM(f"provider/m{number}", always(**out)) for number, out in enumerate(given)]
    return MoA(task, lms, judge, **options)


def request(lm: FakeLM, number: int = -1) -> Any:
    """The format that a model was asked for, and its inputs."""
    found = asked(lm.requests[number].messages[-1].text or "")
    assert found is not None
    return found


def told(lm: FakeLM, number: int = -1) -> dict[str, str]:
    """The inputs that a model was given in its last message."""
    inputs: dict[str, str] = request(lm, number).inputs
    return inputs


def blocks(text: str) -> dict[str, Block]:
    """Read proposals back; fails if anything stands beside well-formed ones."""
    assert re.fullmatch(rf"{_BLOCK}(?:\n\n{_BLOCK})*", text), text
    return {label: Block(int(count or 1), _fields(body)) for label, count, _, body in re.findall(_BLOCK, text)}


def labels(prompt: str) -> dict[str, str]:
    """Answer -> the label under which the prompt shows it."""
    shown = re.findall(_BLOCK, prompt[prompt.rindex("\nProposal P1") + 1 :])
    return {_fields(body)["answer"].strip(): label for label, _, _, body in shown}


def choosing(*chosen: str) -> Callable[[str], dict[str, Any]]:
    """A judge that names the proposals with these answers, one a call, the last one ever after."""
    left = list(chosen)
    return lambda prompt: {**JUDGED, "choice": labels(prompt)[left.pop(0) if len(left) > 1 else left[0]]}


def grouping(*groups: Sequence[str], best: str) -> Callable[[str], dict[str, Any]]:
    """A judge that puts the proposals with these answers together."""

    def answer(prompt: str) -> dict[str, Any]:
        known = labels(prompt)
        return {**JUDGED, "groups": [[known[text] for text in group] for group in groups], "best": known[best]}

    return answer


def _fields(body: str) -> dict[str, str]:
    # Every character that some reader takes for a line break starts a line here.
    pieces = re.split(r"(?:^|(?<=[\n\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]))(\w+): ", body)
    assert pieces[0] == "" and len(set(pieces[1::2])) == len(pieces[1::2]), body
    return {name: value.removesuffix("\n") for name, value in zip(pieces[1::2], pieces[2::2], strict=True)}
