"""Comparisons made of numbers, without asking anybody."""

from collections.abc import Mapping, Sequence

import dspy

from moa_dspy.evaluation import Answer, Comparison, System
from moa_dspy.evaluation.scores import Kind, ScoredRow
from moa_dspy.recording import Row
from moa_dspy.usage import LMCall


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
    questions = []
    for index, column in enumerate(zip(*scores.values(), strict=True)):
        answers = {}
        for number, (system, score) in enumerate(zip(systems, column, strict=True), start=1):
            cost = costs[system.name] / number if system.name in costs else None
            call = LMCall(agent="a", model=model, prompt_tokens=100, completion_tokens=10, cost_usd=cost)
            call.cache_hit = cached
            taken = None if system.kind == "oracle" else [call] * number
            outputs = None if score < 0 else {"answer": "x"}
            answers[system.name] = Answer(outputs, max(score, 0.0), calls=taken, seconds=0.5 * number)
        example = dspy.Example(question=f"q{index}", kind=groups[index % len(groups)] if groups else "")
        row = Row(id=index, inputs={"question": f"q{index}"})
        questions.append(ScoredRow(row, example.with_inputs("question"), {}, answers))
    return Comparison(systems, questions, len(questions), "exact")
