"""Proposals recorded once: what later stages are tuned on, without asking the proposers again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.concurrency import run_side_by_side
from moa_dspy.panel import Panel, Round
from moa_dspy.rendering import render, seed_of
from moa_dspy.results import Failure, Proposal
from moa_dspy.signatures import PROPOSALS
from moa_dspy.values import typed_outputs

from .bill import Bill

__all__ = ["Recording", "record"]


class Recording:
    """What a panel proposed for each example.

    Args:
        task: The task's signature.
        rounds: Seed of the task's inputs -> what came back.
    """

    def __init__(self, task: type[dspy.Signature], rounds: Mapping[int, Round]) -> None:
        self.task = task
        self.rounds = rounds

    def __deepcopy__(self, memo: dict[int, Any]) -> Recording:
        return self  # optimizers copy the program once per candidate

    def round(self, inputs: Mapping[str, Any]) -> Round:
        """What came back for these inputs."""
        return self.rounds[_key(self.task, inputs)]

    def shown(self, examples: Sequence[dspy.Example]) -> list[dspy.Example]:
        """The examples with the proposals as a further input; without those for which none came."""
        return [self._with_proposals(e) for e in examples if self.round(e.inputs().toDict()).proposals]

    def state(self) -> dict[str, Any]:
        """The recording as JSON-able data."""
        return {
            str(key): {
                "proposals": [proposal.model_dump(mode="json") for proposal in round.proposals],
                "failures": [failure.model_dump(mode="json") for failure in round.failures],
                "asked": round.asked,
            }
            for key, round in self.rounds.items()
        }

    @classmethod
    def of_state(cls, task: type[dspy.Signature], state: Mapping[str, Any]) -> Recording:
        """The recording that `state` described.

        Raises:
            IncompleteProposal: If an output's type has no JSON form that leads back to it.
        """
        return cls(task, {int(key): _round(task, kept) for key, kept in state.items()})

    def _with_proposals(self, example: dspy.Example) -> dspy.Example:
        inputs = example.inputs().toDict()
        own = {name: inputs[name] for name in inputs if name != PROPOSALS}
        names = [PROPOSALS, *self.task.fields]
        text = render(self.round(inputs).proposals, seed=seed_of(own), field_names=names).text
        return example.copy(**{PROPOSALS: text}).with_inputs(*own, PROPOSALS)


def record(panel: Panel, examples: Sequence[dspy.Example], bill: Bill, threads: int) -> Recording:
    """Ask a panel about each example once, also about one that stands there twice.

    Args:
        panel: Who is asked.
        examples: What about.
        bill: To whom the calls are billed.
        threads: Examples under way at once.

    Raises:
        Stop: If no LM answers any more.
    """
    asked = {_key(panel.task, inputs): inputs for inputs in (example.inputs().toDict() for example in examples)}

    def ask(item: tuple[int, Mapping[str, Any]]) -> tuple[int, Round]:
        with bill.asking("panel"), dspy.context(trace=[]):
            round: Any = panel(**item[1])
        return item[0], round

    return Recording(panel.task, dict(run_side_by_side(ask, list(asked.items()), threads)))


def _key(task: type[dspy.Signature], inputs: Mapping[str, Any]) -> int:
    return seed_of({name: inputs[name] for name in task.input_fields if name in inputs})


def _round(task: type[dspy.Signature], state: Mapping[str, Any]) -> Round:
    proposals = [Proposal(**kept) for kept in state["proposals"]]
    typed = [p.model_copy(update={"outputs": typed_outputs(dspy.Prediction(**p.outputs), task)}) for p in proposals]
    return Round(typed, [Failure(**kept) for kept in state["failures"]], [], dict(state["asked"]), [])
