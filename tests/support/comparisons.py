"""Comparisons made of numbers, without asking anybody."""

from collections.abc import Mapping, Sequence

import dspy

from moa_dspy.evaluation.comparison import Comparison
from moa_dspy.evaluation.records import Answer, Kind, Record, Spent, System


def comparison(
    scores: Mapping[str, Sequence[float]],
    kinds: Mapping[str, Kind] | None = None,
    costs: Mapping[str, float] | None = None,
    *,
    model: str = "any/model",
    groups: Sequence[str] = (),
    cached: bool = False,
) -> Comparison:
    """Make a comparison.

    Args:
        scores: System -> its scores; one that is below 0 is a failure.
        kinds: System -> what it is; `proposer` by default.
        costs: System -> USD per question; not priced by default.
        model: What all of them ask.
        groups: The questions' `kind`, in turns.
        cached: DSPy's cache answered everything.
    """
    kinds, costs = kinds or {}, costs or {}
    systems = [System(name, kinds.get(name, "proposer"), (model,)) for name in scores]
    records = []
    for index, row in enumerate(zip(*scores.values(), strict=True)):
        answers = {}
        for number, (system, score) in enumerate(zip(systems, row, strict=True), start=1):
            spent = Spent(number, 100.0 * number, 10.0 * number, costs.get(system.name), 0.5 * number, cached)
            answers[system.name] = Answer(
                None if score < 0 else {"answer": "x"}, max(score, 0.0), None if system.kind == "oracle" else spent
            )
        example = dspy.Example(question=f"question {index}", kind=groups[index % len(groups)] if groups else "")
        records.append(Record(index + 1, example.with_inputs("question"), {}, answers, []))
    return Comparison(systems, records, len(records), "exact")
