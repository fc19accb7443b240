"""Fusion: merges compatible elements and says where each came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import dspy

from moa_dspy.concurrency import Steps
from moa_dspy.escaping import escaper
from moa_dspy.rendering import Rendering
from moa_dspy.results import Element
from moa_dspy.signatures import ELEMENTS, SETTLED, fusion_signature, without
from moa_dspy.strategies.answers import Answer, answer_of, output_types
from moa_dspy.strategies.asking import Reply, fields_of
from moa_dspy.strategies.base import Case, Strategy, Verdict
from moa_dspy.strategies.merging import Merged, merge_outputs
from moa_dspy.values import as_text

__all__ = ["Fusion"]


class Fusion(Strategy):
    """Compatible elements are merged; `metadata.elements` holds each with the proposals that support it.

    Structured outputs are merged in code, field by field: a value that most agree on is kept, lists are merged in
    the order that they share; outputs that explain or grade the others (`ballot.left_out`) follow the proposal that
    says most of what was merged. Only fields in conflict, differing texts among them, go to the aggregator, in one
    call. It takes the proposals apart (consensus, contradictions, unique points) before it composes the answer; cf.
    Jiang et al., "LLM-Blender" (2023), for fusing.

    Args:
        min_support: How many proposals must hold an item of a list, or a key of a dict, for it to stay.

    Raises:
        ValueError: If `min_support` is less than 1.
    """

    name = "fusion"
    needs_aggregator = True
    asks_one_lm = True
    ballot: Answer | None = None
    """Once bound: the output fields that are merged, and those that follow them."""

    def __init__(self, min_support: int = 1) -> None:
        super().__init__()
        if not isinstance(min_support, int) or isinstance(min_support, bool) or min_support < 1:
            raise ValueError(f"min_support={min_support!r} keeps what nobody says. Give a whole number from 1.")
        self.min_support = min_support

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.ballot = answer_of(task)
        self.fuse = dspy.Predict(fusion_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        outputs = {proposal.id: proposal.outputs for proposal in case.proposals}
        merged = merge_outputs(outputs, output_types(case.task), self.min_support)
        settled = [name for name, part in merged.items() if not part.conflicts]
        elements = [element for part in merged.values() for element in part.elements]
        if len(settled) == len(merged):
            return Verdict({name: part.value for name, part in merged.items()}, elements=elements)
        fuse: Any = self.fuse.signature
        # ReAnchor's settings for an output would be refused in a signature without it.
        signature = without(fuse, tuple(name for name in settled if name not in self.fuse.fields))
        reply = yield from self.ask(
            self.fuse,
            case,
            extra={SETTLED: self._settled(case, merged)},
            narrow=lambda shown: signature,
            complaint=_unknown_labels,
        )
        return Verdict(
            {name: part.completed_by(reply.prediction.get(name)) for name, part in merged.items()},
            elements=elements + _reported(reply),
            **reply.told,
        )

    def _settled(self, case: Case, merged: Mapping[str, Merged]) -> str:
        # Merged or not, it comes from proposals, and this field has no fence.
        escape = escaper((*case.task.fields, *fields_of(self.fuse)), tuple(merged))
        standing = {name: part.standing for name, part in merged.items() if not part.conflicts or part.standing}
        return "\n".join(f"{name}: {escape(as_text(value))}" for name, value in standing.items()) or "nothing yet"


def _labels(named: Sequence[str]) -> list[str]:
    return [label for name in named for label in re.findall(r"\bP\d+\b", name)]


def _unknown_labels(prediction: dspy.Prediction, shown: Rendering) -> str | None:
    named = {label for element in prediction[ELEMENTS] for label in _labels(element.supported_by)}
    unknown = sorted(named - set(shown.labels))
    return f"Elements are supported by {', '.join(unknown)}, which were not shown." if unknown else None


def _reported(reply: Reply) -> list[Element]:
    return [
        Element(
            statement=element.statement,
            kind=element.kind,
            supported_by=[p.id for label in _labels(element.supported_by) for p in reply.shown.labels[label]],
            resolution=element.resolution,
        )
        for element in reply.prediction[ELEMENTS]
    ]
