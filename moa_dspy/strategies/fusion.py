"""Fusion: merges compatible elements and says where each came from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import dspy
from pydantic.fields import FieldInfo

from moa_dspy.merging import Merged, merge
from moa_dspy.metadata import Element
from moa_dspy.proposals import Exhibit
from moa_dspy.running import Steps
from moa_dspy.signatures import ELEMENTS, SETTLED, fusion_signature, without
from moa_dspy.strategies.base import Case, Reply, Strategy, Verdict

__all__ = ["Fusion"]


class Fusion(Strategy):
    """Compatible elements are merged; `metadata.elements` holds each with the proposals that support it.

    Structured outputs are merged in code, field by field: what all agree on is kept, scalars vote,
    lists unite. Only fields in conflict, differing texts among them, go to the aggregator: one call,
    none if nothing is in conflict. It takes the proposals apart (consensus, contradictions, unique
    points) before it composes the answer; cf. Jiang et al., "LLM-Blender" (2023), for fusing.
    """

    name = "fusion"
    needs_aggregator = True

    def bind(self, task: type[dspy.Signature], agents: Sequence[str]) -> None:
        self.fuse = dspy.Predict(fusion_signature(task))

    def decide(self, case: Case) -> Steps[Verdict]:
        merged = {name: _merge_field(case, name, field) for name, field in case.task.output_fields.items()}
        settled = {name: part.value for name, part in merged.items() if not part.conflicts}
        elements = [element for part in merged.values() for element in part.elements]
        if len(settled) == len(merged):
            return Verdict(settled, elements=elements)
        signature = without(self.fuse.signature, tuple(settled))
        reply = yield from self.ask(
            self.fuse,
            case,
            extra={SETTLED: _as_text(settled, merged)},
            narrow=lambda shown: signature,
            complaint=_unknown_labels,
        )
        outputs = {name: settled[name] if name in settled else reply.prediction[name] for name in merged}
        return Verdict(
            outputs,
            elements=elements + _reported(reply),
            order_shown=reply.shown.order,
            shortened=reply.shown.shortened,
            repaired=reply.repaired,
        )


def _merge_field(case: Case, name: str, field: FieldInfo) -> Merged:
    annotation: Any = field.annotation
    for constraint in field.metadata:
        annotation = Annotated[annotation, constraint]
    return merge({proposal.id: proposal.outputs[name] for proposal in case.proposals}, annotation, name)


def _as_text(settled: Mapping[str, Any], merged: Mapping[str, Merged]) -> str:
    fields = [f"{name}: {value}" for name, value in settled.items()]
    parts = [e.statement for name, part in merged.items() if name not in settled for e in part.elements]
    return "\n".join([*fields, *parts]) or "nothing yet"


def _labels(named: Sequence[str]) -> list[str]:
    return [label for name in named for label in re.findall(r"P\d+", name)]


def _unknown_labels(prediction: dspy.Prediction, shown: Exhibit) -> str | None:
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
