"""The data of an evaluation: questions with gold answers, checked before anything is paid for."""

from __future__ import annotations

import random
from pathlib import Path

import dspy

from moa_dspy.batch.questions import read_questions
from moa_dspy.evaluation.metrics import METRICS
from moa_dspy.values import IncompleteProposal, typed_outputs

__all__ = ["read_dataset"]


def read_dataset(
    path: Path, signature: type[dspy.Signature], metric: str, limit: int | None = None, seed: int = 0
) -> list[dspy.Example]:
    """The rows of a JSONL file as examples.

    Args:
        path: One JSON object a line: the signature's inputs, the gold outputs, further fields for the metric.
        signature: The task.
        metric: The built-in ones need gold outputs, the same ones in every row.
        limit: Take a sample of so many rows, in the file's order.
        seed: Of the sample.

    Raises:
        ValueError: If rows are malformed; the message names the lines.
        OSError: If the file cannot be read.
    """
    questions = read_questions(path, signature)
    examples = [
        dspy.Example(**{"id": question.id, **question.extra, **question.inputs}).with_inputs(*question.inputs)
        for question in questions
    ]
    if metric in METRICS:
        _check_gold(path, examples, signature)
    if limit is None or limit >= len(examples):
        return examples
    chosen = random.Random(seed).sample(range(len(examples)), limit)
    return [examples[index] for index in sorted(chosen)]


def _check_gold(path: Path, examples: list[dspy.Example], signature: type[dspy.Signature]) -> None:
    lines = [number for number, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    wanted = [name for name in signature.output_fields if name in examples[0]]
    if not wanted:
        raise ValueError(
            f"Line {lines[0]} of {path} has no gold value for {', '.join(signature.output_fields)}, so nothing could "
            "be right or wrong. Add it, or give a metric of your own: --metric module:function."
        )
    for line, example in zip(lines, examples, strict=True):
        missing = [name for name in wanted if name not in example]
        if missing:
            raise ValueError(f"Line {line} of {path} has no gold value for {', '.join(missing)}; line {lines[0]} has.")
        try:
            typed_outputs(example, _only(signature, wanted))
        except IncompleteProposal as problem:
            raise ValueError(f"Line {line} of {path}, gold values: {problem}") from None


def _only(signature: type[dspy.Signature], outputs: list[str]) -> type[dspy.Signature]:
    for name in signature.output_fields:
        if name not in outputs:
            signature = signature.delete(name)
    return signature
