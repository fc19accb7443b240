"""What each agent could learn from: its own steps in a mixture's answers, where they led to something right."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.clients.utils_finetune import infer_data_format
from dspy.utils.exceptions import AdapterParseError, LMError

from moa_dspy.concurrency import run_side_by_side
from moa_dspy.errors import MoAError
from moa_dspy.moa import MoA
from moa_dspy.results import Failure, Proposal

from .feedback import Scored
from .specialized import specialized

__all__ = ["Lessons", "collect"]

Step = tuple[dspy.Predict, dict[str, Any], Any]


@dataclass(frozen=True)
class Lessons:
    """Steps worth learning, by agent.

    Attributes:
        student: With a prompt per agent, so that a step's predictor tells whose it is.
        steps: Agent -> its steps: the predictor's name, its inputs, its outputs.
        examples: How many examples were asked.
        failures: Agent -> why it did not answer, one for each time.
    """

    student: MoA
    steps: Mapping[str, list[tuple[str, dict[str, Any], Any]]]
    examples: int
    failures: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def adapter(self) -> Any:
        """What writes the prompts."""
        return dspy.settings.adapter or dspy.ChatAdapter()

    @property
    def format(self) -> Any:
        """What the provider is told of the data.

        Raises:
            ValueError: If the adapter's prompts cannot be trained on.
        """
        return infer_data_format(self.adapter)

    def of(self, agent: str, exclude_demos: bool) -> list[Any]:
        """The agent's prompts with its replies, by the student's prompts as they are now."""
        parts: dict[str, Any] = dict(self.student.named_predictors())
        return [
            self.adapter.format_finetune_data(
                signature=_as_answered(parts[name].signature, outputs),
                demos=[] if exclude_demos else parts[name].demos,
                inputs=inputs,
                outputs=outputs,
            )
            for name, inputs, outputs in self.steps.get(agent, ())
        ]


def collect(
    student: MoA, teacher: MoA, trainset: Sequence[dspy.Example], metric: Scored | None, threshold: float, threads: int
) -> Lessons:
    """Let the teacher answer, and keep of each agent's steps what scores.

    Raises:
        ValueError: If the teacher is of another shape.
    """
    mine, theirs = specialized(student), specialized(teacher)
    names = [name for name, _ in mine.named_predictors()]
    if [name for name, _ in theirs.named_predictors()] != names:
        raise ValueError(
            "The teacher is of another shape than the student, so it is not known whose words are for whom: both need "
            f"the prompts {', '.join(names)}."
        )
    infer_data_format(dspy.settings.adapter or dspy.ChatAdapter())  # before anything is paid for
    name_of = {id(part): name for name, part in theirs.named_predictors()}

    def ask(numbered: tuple[int, dspy.Example]) -> tuple[int, list[tuple[str, str, Step]], list[Failure]]:
        number, example = numbered
        with dspy.context(trace=[]):
            try:
                prediction: Any = theirs(**example.inputs())
            except MoAError as error:
                return number, [], error.metadata.failures
            except (LMError, AdapterParseError):
                return number, [], []
            steps = list(dspy.settings.trace)
        return number, list(_good(example, prediction, steps, name_of, metric, threshold)), prediction.metadata.failures

    found: dict[str, list[tuple[str, dict[str, Any], Any]]] = defaultdict(list)
    failures: dict[str, list[str]] = defaultdict(list)
    # In the order of the trainset, whatever order they were answered in.
    for _, good, failed in sorted(run_side_by_side(ask, list(enumerate(trainset)), threads), key=lambda one: one[0]):
        for agent, name, (_, inputs, outputs) in good:
            found[agent].append((name, inputs, outputs))
        for failure in failed:
            failures[failure.agent].append(f"{failure.error}: {failure.message.partition(chr(10))[0]}")
    return Lessons(mine, found, len(trainset), failures)


def _good(
    example: dspy.Example,
    prediction: Any,
    steps: Sequence[Step],
    name_of: Mapping[int, str],
    metric: Scored | None,
    threshold: float,
) -> Iterator[tuple[str, str, Step]]:
    def passes(answer: dspy.Prediction) -> bool:
        return metric is None or float(metric(example, answer)) >= threshold

    said: dict[str, list[tuple[str, Step]]] = defaultdict(list)
    for step in steps:
        name = name_of.get(id(step[0]))
        if name is not None:
            said[_place(name)].append((name, step))
    for place, own in said.items():
        if place == "aggregator":
            right = not prediction.metadata.fallback_used and passes(prediction)
            kept = [right] * len(own)
        else:
            kept = _kept(place, own, prediction.metadata.all_proposals, passes)
        agent = place.rpartition(".")[2]
        yield from ((agent, name, step) for keep, (name, step) in zip(kept, own, strict=True) if keep)


def _kept(place: str, own: Sequence[Any], proposals: Sequence[Proposal], passes: Any) -> list[bool]:
    """Which steps of a proposer led to something right; all or none, where it is not known which led to what."""
    panel, _, agent = place.partition(".")
    layer = 1 if panel == "proposers" else int(panel.removeprefix("layer_"))
    right = [passes(dspy.Prediction(**p.outputs)) for p in proposals if p.agent == agent and p.layer == layer]
    return right if len(right) == len(own) else [bool(right) and all(right)] * len(own)


def _place(predictor: str) -> str:
    """`proposers.ada.program.predict` -> `proposers.ada`."""
    parts = predictor.split(".")
    return parts[0] if parts[0] == "aggregator" else ".".join(parts[:2])


def _as_answered(signature: Any, outputs: Any) -> Any:
    """The signature without the outputs that were not asked for, as fusion leaves out what is settled."""
    for name in signature.output_fields:
        if name not in outputs:
            signature = signature.delete(name)
    return signature
